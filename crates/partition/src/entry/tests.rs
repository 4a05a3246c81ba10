use fanfare_log::{FrameHeader, Position};

use super::*;
use crate::batch::tests::batch;

fn build(batches: &[RecordBatch]) -> BuiltEntry {
    let mut entry = EntryBuilder::default();
    batches.iter().for_each(|batch| entry.push(batch.clone()));
    entry.finish()
}

/// The payload as read from disk: in one part.
fn flat(payload: &Payload) -> Vec<u8> {
    payload.parts().concat()
}

fn frame(payload: Payload, count: u32) -> Frame {
    let payload_bytes = u32::try_from(payload.len()).unwrap();
    let position = Position { term: 1, leader: 1, index: 7 };
    Frame {
        header: FrameHeader { kind: KIND, position, base_offset: 100, count, time_ms: 5, payload_bytes },
        payload,
    }
}

fn texts(batches: &[StoredBatch]) -> Vec<(u64, u8, String)> {
    let text = |event: &crate::StoredEvent| String::from_utf8(event.bytes.to_vec()).unwrap();
    let of = |batch: &StoredBatch| {
        let account = batch.account.as_bytes()[0];
        batch.events().map(|event| (event.offset.0, account, text(&event))).collect::<Vec<_>>()
    };
    batches.iter().flat_map(of).collect()
}

#[test]
fn format_equals_the_golden_file() {
    let built = build(&[batch(1, &["a:1", "b"]), batch(2, &[""])]);
    let golden = include_str!("golden.hex").split_whitespace().collect::<String>();
    let hex: String = flat(&built.payload).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, golden);
}

#[test]
fn batches_are_read_by_account_from_one_or_many_parts() {
    let large = "x".repeat(MERGE_BYTES_MAX);
    let built = build(&[
        batch(1, &["a", "b"]),
        batch(1, &["c"]),
        batch(2, &["d"]),
        batch(1, &[&large]),
        batch(1, &["e"]),
    ]);
    assert_eq!(
        (built.count, built.identities.len()),
        (6, 4),
        "small neighbours of one account share a section"
    );
    let all = ["a", "b", "c", "d", &large, "e"];
    let accounts = [1, 1, 1, 2, 1, 1];
    let expected: Vec<_> = (100..)
        .zip(accounts)
        .zip(all)
        .map(|((offset, account), text)| (offset, account, text.to_owned()))
        .collect();
    for payload in [built.payload.clone(), Payload::new(vec![flat(&built.payload).into()])] {
        let frame = frame(payload, built.count);
        assert_eq!(texts(&stored_batches(&frame, None).unwrap()), expected);
        for account in [1, 2, 3] {
            let own: Vec<_> = expected.iter().filter(|(_, owner, _)| *owner == account).cloned().collect();
            let found = stored_batches(&frame, Some(AccountId::from_bytes([account; 16]))).unwrap();
            assert_eq!(texts(&found), own);
        }
    }
}

#[test]
fn section_shares_memory_with_its_batch() {
    let large = batch(1, &[&"x".repeat(MERGE_BYTES_MAX)]);
    let built = build(std::slice::from_ref(&large));
    let stored = stored_batches(&frame(built.payload, built.count), None).unwrap();
    let event = stored[0].events().next().unwrap();
    assert!(large.body.as_ptr_range().contains(&event.bytes.as_ptr()));
}

#[test]
fn cut_or_flipped_bytes_never_yield_other_events() {
    let built = build(&[batch(1, &["a:1", "b"]), batch(2, &["c"])]);
    let bytes = flat(&built.payload);
    let bodies_at = HEAD_BYTES + 2 * SECTION_BYTES + 3 * RECORD_BYTES;
    let read = |bytes: Vec<u8>| stored_batches(&frame(Payload::new(vec![bytes.into()]), built.count), None);
    let whole = texts(&read(bytes.clone()).unwrap());
    for end in 0..bytes.len() {
        assert!(read(bytes[..end].to_vec()).is_err(), "cut at {end}");
    }
    assert_eq!(read([&bytes[..], &[0]].concat()).unwrap_err(), CodecError::Value("body lengths"));
    for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << bit;
        match read(flipped) {
            Err(_) => {}
            // Accounts, epochs, hashes and checksums are any number: the frame's checksum covers them.
            Ok(other) => {
                assert!(at < bodies_at, "a flip in a body, at {at}, was not noticed");
                let bodies =
                    |batches: &[(u64, u8, String)]| batches.iter().map(|(.., text)| text.clone()).collect();
                let (found, expected): (Vec<_>, Vec<_>) = (bodies(&texts(&other)), bodies(&whole));
                assert_eq!(found, expected, "flip at {at}");
            }
        }
    }
}

#[test]
fn newer_version_is_refused_by_number() {
    let mut bytes = flat(&build(&[batch(1, &["a"])]).payload);
    bytes[0] = 3;
    let error = stored_batches(&frame(Payload::new(vec![bytes.into()]), 1), None).unwrap_err();
    assert_eq!(error, CodecError::Version { what: "entry", version: 3, known: 2 });
}

#[test]
fn table_is_read_from_the_first_bytes_and_every_flip_in_it_is_noticed() {
    let built = build(&[batch(1, &["a:1", "b"]), batch(2, &["c"])]);
    let bytes = flat(&built.payload);
    let payload_bytes = u32::try_from(bytes.len()).unwrap();
    let read = |prefix: &[u8]| EntryTable::decode_prefix(prefix, payload_bytes, built.count);
    let identities = |table: &EntryTable| {
        let sections = table.sections().map(|section| (section.account, section.records().collect()));
        sections.collect::<Vec<(AccountId, Vec<RecordHeader>)>>()
    };
    let table_bytes = HEAD_BYTES + 2 * SECTION_BYTES + 3 * RECORD_BYTES;
    for prefix in [table_bytes, EntryTable::prefix_bytes_max(built.count).min(bytes.len()), bytes.len()] {
        assert_eq!(identities(&read(&bytes[..prefix]).unwrap()), built.identities);
    }
    assert!(read(&bytes[..table_bytes - 1]).is_err());
    for (at, bit) in (0..table_bytes).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut flipped = bytes[..table_bytes].to_vec();
        flipped[at] ^= 1 << bit;
        assert!(read(&flipped).is_err(), "flip at {at}");
    }
}

//! The journal by itself: what a crash leaves, and what damage to each bit does.
use super::*;
use crate::{
    fs::{MemoryFileSystem, memory::Keep},
    segment::number::SegmentNumber,
};

const DIR: &str = "/data";
const SEGMENT_BYTES: u64 = 2048;

fn journal() -> (MemoryFileSystem, Journal) {
    let fs = MemoryFileSystem::default();
    fs.create_dir(Path::new(DIR)).expect("create directory");
    fs.sync_dir(Path::new("/")).expect("sync directory");
    let journal =
        Journal::create(&Environment::system(), Arc::new(fs.clone()), Path::new(DIR), SEGMENT_BYTES);
    let journal = journal.expect("create");
    (fs, journal)
}

fn reopen(fs: &MemoryFileSystem) -> Result<Journal, OpenError> {
    Journal::open(&Environment::system(), Arc::new(fs.clone()), Path::new(DIR), SEGMENT_BYTES)
}

fn facts(id: u32, vote: u8) -> LogFacts {
    LogFacts { id, name: format!("events-{id}"), vote: Some(vec![vote; 18]), ..LogFacts::default() }
}

fn mark(segment: u64, byte: u64) -> SyncMark {
    SyncMark { index: byte / 10, segment: SegmentNumber(segment), byte, end_offset: byte / 5 }
}

/// The first record is synced by the flusher while another thread adds the second; the third tells what was synced.
/// A crash then keeps the third alone of all that was not synced.
fn reopened(meanwhile: impl FnOnce(&mut Journal)) -> Result<Journal, OpenError> {
    let (fs, mut journal) = journal();
    journal.record_facts(facts(1, 1)).expect("record");
    let PendingSync { dirty, nonce, end_byte } = journal.pending_sync().expect("nothing is to be recorded");
    dirty.file.sync().expect("sync");
    meanwhile(&mut journal);
    journal.note_synced(nonce, end_byte);
    journal.append(&Record::Confirmation).expect("append");
    let mut unsynced = 0;
    fs.crashed(|_| {
        unsynced += 1;
        Keep::Nothing
    });
    let crashed = fs.crashed(|_| {
        unsynced -= 1;
        if unsynced == 0 { Keep::All } else { Keep::Nothing }
    });
    reopen(&crashed)
}

#[test]
fn a_record_added_during_a_sync_does_not_count_as_synced() {
    let journal = reopened(|journal| journal.record_facts(facts(2, 1)).expect("record"));
    let journal = journal.expect("a torn end, no damage");
    assert!(journal.log("events-1").is_some() && journal.log("events-2").is_none());
}

#[test]
fn a_sync_of_the_journal_covers_nothing_of_its_successor() {
    let journal = reopened(|journal| {
        let replaced = journal.nonce;
        while journal.nonce == replaced {
            journal.record_facts(facts(2, 1)).expect("record");
        }
    });
    journal.expect("a torn end, no damage");
}

/// Votes, a mark and a confirmation, after a power loss.
fn confirmed() -> MemoryFileSystem {
    let (fs, mut journal) = journal();
    for vote in 1..4 {
        journal.record_facts(facts(1, vote)).expect("record");
        journal.sync().expect("sync");
    }
    journal.note_synced_ends(&[(1, mark(1, 700))]);
    journal.confirm().expect("confirm");
    fs.crashed(|_| Keep::Nothing)
}

#[test]
fn every_flipped_bit_of_a_confirmed_journal_is_harmless_or_reported() {
    let fs = confirmed();
    let path = Path::new(DIR).join(FILE_NAME);
    let content = fs.content(&path).expect("journal");
    let end = content.iter().rposition(|byte| *byte != 0).expect("records") as u64;
    let whole = LogFacts { sync_mark: Some(mark(1, 700)), ..facts(1, 3) };
    let (mut reported, mut harmless) = (0, 0);
    for at in 0..=end {
        for bit in 0..8 {
            fs.flip(&path, at, 1 << bit);
            match file::read(&path, &fs.content(&path).expect("journal")) {
                Err(OpenError::Corrupt { .. } | OpenError::Newer { .. }) => reported += 1,
                Err(error) => panic!("bit {bit} of byte {at}: {error}"),
                Ok(contents) => {
                    assert_eq!(contents.logs.get(&1), Some(&whole), "bit {bit} of byte {at}");
                    harmless += 1;
                }
            }
            fs.flip(&path, at, 1 << bit);
        }
    }
    assert!(reported > 2000 && harmless > 0, "{reported} reported, {harmless} harmless");
}

#[test]
fn a_synced_end_is_recorded_with_the_next_sync() {
    let (fs, mut journal) = journal();
    journal.record_facts(facts(1, 1)).expect("record");
    journal.note_synced_ends(&[(1, mark(1, 600))]);
    journal.note_synced_ends(&[(1, mark(1, 900))]);
    let written = journal.end_byte;
    journal.sync().expect("sync");
    assert!(journal.end_byte - written < 100, "one record for both");
    let journal = reopen(&fs.crashed(|_| Keep::Nothing)).expect("open");
    assert_eq!(journal.facts(1).sync_mark, Some(mark(1, 900)));
}

#[test]
fn a_synced_end_noted_before_a_truncation_does_not_follow_it() {
    let (fs, mut journal) = journal();
    journal.record_facts(facts(1, 1)).expect("record");
    journal.note_synced_ends(&[(1, mark(2, 900))]);
    let truncated = LogFacts { sync_mark: Some(mark(1, 600)), ..facts(1, 1) };
    journal.record_facts(truncated.clone()).expect("record");
    journal.confirm().expect("confirm");
    assert_eq!(reopen(&fs).expect("open").facts(1), &truncated);
}

#[test]
fn marks_of_many_logs_rarely_rewrite_the_journal() {
    let (_fs, mut journal) = journal();
    for id in 1..65 {
        journal.record_facts(facts(id, 1)).expect("record");
    }
    let first = journal.nonce;
    for round in 1..1001 {
        let marks: Vec<_> = (1..65).map(|id| (id, mark(1, 512 + round))).collect();
        journal.note_synced_ends(&marks);
    }
    journal.sync().expect("sync");
    assert_eq!(journal.nonce, first, "a thousand rounds are one record");
}

#[test]
fn a_confirmed_journal_is_not_synced_again() {
    let (fs, mut journal) = journal();
    journal.record_facts(facts(1, 1)).expect("record");
    journal.confirm().expect("confirm");
    let syncs = fs.syncs();
    journal.confirm().expect("confirm");
    assert_eq!(fs.syncs(), syncs);
}

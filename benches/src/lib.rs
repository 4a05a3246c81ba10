//! Fixtures shared by benches and scenarios: logs on the real disk, frames, events.
//!
//! `cargo bench -p fanfare-benches` measures the parts; `fanfare bench publish|deliver` measures a running node.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use fanfare_log::{DiskFileSystem, Log, NewFrame, Payload, Position, RollPolicy, Store, StoreOptions};

const SEGMENT_BYTES: u64 = 64 << 20;

/// Opens the store in `directory`, with `spare_segments` written in advance.
///
/// # Errors
/// If the directory cannot be used.
pub fn store(directory: &Path, spare_segments: usize) -> anyhow::Result<Store> {
    let options = StoreOptions {
        segment_bytes: SEGMENT_BYTES,
        pool_segments_max: spare_segments,
        cache_bytes: 32 << 20,
        queue_bytes_max: 64 << 20,
        index_draft_bytes_max: 64 << 20,
        page_cache_bytes: 256 << 20,
    };
    let store = Store::open(
        &fanfare_environment::Environment::system(),
        Arc::new(DiskFileSystem),
        directory,
        options,
        Box::new(|_| std::process::abort()),
    )?;
    store.fill_pool();
    Ok(store)
}

/// Opens the one log of the benches.
///
/// # Errors
/// If it is damaged.
pub fn log(store: &Store) -> anyhow::Result<Log> {
    Ok(store.open_log("bench-0", 1, RollPolicy { segment_bytes: SEGMENT_BYTES, age_ms: u64::MAX })?)
}

/// The frame at `index`, of `events` events in `payload`.
#[must_use]
pub fn frame(index: u64, events: u32, payload: Bytes) -> NewFrame {
    let position = Position { term: 1, leader: 1, index };
    NewFrame { kind: 1, position, count: events, time_ms: 1, payload: Payload::new(vec![payload]) }
}

/// A CloudEvent of 1 KiB as a producer sends it.
#[must_use]
pub fn event(number: u32, event_type: &str) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| {
        let mut field = vec![number << 3 | 2];
        let mut length = bytes.len();
        while length >= 0x80 {
            field.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
            length >>= 7;
        }
        field.push(u8::try_from(length).expect("seven bits"));
        field.extend_from_slice(bytes);
        field
    };
    let subject = field(5, &[field(1, b"subject"), field(2, &field(3, b"customer-17"))].concat());
    let id = format!("0192{number:032x}");
    let parts = [
        field(1, id.as_bytes()),
        field(2, b"/bench"),
        field(3, b"1.0"),
        field(4, event_type.as_bytes()),
        subject,
    ];
    [parts.concat(), field(7, &[b'x'; 900])].concat()
}

//! What the benches and scenarios share: logs on the real disk, frames, events.
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
        page_cache_bytes: 256 << 20,
    };
    let store =
        Store::open(Arc::new(DiskFileSystem), directory, options, Box::new(|_| std::process::abort()))?;
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

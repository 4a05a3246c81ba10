//! A store on tiny segments in memory, driven without waiting for more than is asked.
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use fanfare_environment::{Clock, Environment, Random};
use fanfare_log::{
    Fatal, Frame, Log, MemoryFileSystem, NewFrame, OnDurable, OpenError, Payload, Position, RollPolicy,
    Store, StoreOptions, memory::Keep,
};
use proptest::prelude::*;

pub(crate) const DIR: &str = "/data";
pub(crate) const SEGMENT_BYTES: u64 = 2048;
pub(crate) const LOG: &str = "events-0";
pub(crate) const REPLICA: u64 = 7;
/// A request that waits longer is taken for one that is never answered.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

pub(crate) fn options() -> StoreOptions {
    StoreOptions {
        segment_bytes: SEGMENT_BYTES,
        pool_segments_max: 2,
        cache_bytes: 0,
        queue_bytes_max: 1 << 20,
        index_draft_bytes_max: 64 << 20,
        page_cache_bytes: 0,
    }
}

pub(crate) fn any_options() -> impl Strategy<Value = StoreOptions> {
    let cache_bytes = prop_oneof![Just(0_u64), Just(3000), Just(1 << 20)];
    (cache_bytes, 0..3_usize).prop_map(|(cache_bytes, pool_segments_max)| StoreOptions {
        cache_bytes,
        pool_segments_max,
        ..options()
    })
}

/// The bits say what is kept of the writes that no sync has covered.
pub(crate) fn after_power_loss(fs: &MemoryFileSystem, mut bits: u64) -> MemoryFileSystem {
    fs.crashed(|_| {
        bits = bits.rotate_left(1);
        if bits & 1 == 1 { Keep::All } else { Keep::Sectors(bits) }
    })
}

pub(crate) fn roll() -> RollPolicy {
    RollPolicy { segment_bytes: SEGMENT_BYTES, age_ms: u64::MAX }
}

pub(crate) fn open_store(fs: &MemoryFileSystem) -> Result<Store, OpenError> {
    open_with(fs, options())
}

pub(crate) fn open_with(fs: &MemoryFileSystem, options: StoreOptions) -> Result<Store, OpenError> {
    open_in(&Environment::system(), fs, options)
}

pub(crate) fn open_in(
    environment: &Environment,
    fs: &MemoryFileSystem,
    options: StoreOptions,
) -> Result<Store, OpenError> {
    Store::open(environment, Arc::new(fs.clone()), Path::new(DIR), options, Box::new(|_| {}))
}

/// A clock that stands still until a test sets it, so that no deadline of the log passes by itself.
#[derive(Default)]
pub(crate) struct ManualClock(AtomicU64);

impl ManualClock {
    pub(crate) fn advance(&self, time: Duration) {
        let time_ms = u64::try_from(time.as_millis()).expect("a short time");
        self.0.fetch_add(time_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn unix_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// The machine with a clock that stands still.
pub(crate) fn timeless() -> Environment {
    Environment::system().with_clock(Arc::new(ManualClock::default()))
}

/// The splitmix64 sequence: the same in every run, and no number twice.
#[derive(Default)]
pub(crate) struct NumberSequence(AtomicU64);

impl Random for NumberSequence {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
            let mut mixed = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

pub(crate) fn open(fs: &MemoryFileSystem) -> Result<(Store, Log), OpenError> {
    let store = open_store(fs)?;
    let log = store.open_log(LOG, REPLICA, roll())?;
    Ok((store, log))
}

/// A frame whose content follows from its index and `term`.
pub(crate) fn frame(index: u64, term: u64, payload_bytes: usize) -> NewFrame {
    let byte = |at: u64| (index * 31 + term * 7 + at).to_le_bytes()[0];
    let content: Vec<u8> = (0..payload_bytes as u64).map(byte).collect();
    let (head, tail) = content.split_at(payload_bytes / 3);
    NewFrame {
        kind: 1,
        position: Position { term, leader: 1, index },
        count: 1 + (index % 3) as u32,
        time_ms: 1000 + index * 10,
        payload: Payload::new(vec![Bytes::copy_from_slice(head), Bytes::copy_from_slice(tail)]),
    }
}

/// Makes a request and waits until it is durable.
pub(crate) fn wait(request: impl FnOnce(OnDurable)) -> Result<(), Fatal> {
    let (sender, receiver) = mpsc::sync_channel(1);
    request(Box::new(move |result| sender.send(result).expect("the test waits")));
    receiver.recv_timeout(ANSWERED_WITHIN).expect("every request is answered")
}

pub(crate) fn append(log: &Log, frames: Vec<NewFrame>) -> Result<(), Fatal> {
    wait(|done| log.append(frames, done))
}

pub(crate) fn append_range(log: &Log, indexes: std::ops::Range<u64>, term: u64, payload_bytes: usize) {
    for index in indexes {
        append(log, vec![frame(index, term, payload_bytes)]).expect("append");
    }
}

pub(crate) fn read_all(log: &Log) -> Vec<Frame> {
    let first = log.bounds().purged.map_or(0, |purged| purged.index + 1);
    let first = log.segments().first().map_or(first, |span| first.max(span.first_index));
    log.read(first, u64::MAX, u64::MAX).expect("read")
}

//! CONTRACT SKELETON: bodies to be written by the owner of this crate.
use std::{path::Path, sync::Arc};
use bytes::Bytes;

mod contract {
use super::*;
/// Identity of an entry: who proposed it and where it stands. Compared by (term, leader, index) for equality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position { pub term: u64, pub leader: u64, pub index: u64 }

/// Bytes in one or more parts, kept as they arrived; concatenated on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload { parts: Vec<Bytes> }
impl Payload {
    pub fn new(parts: Vec<Bytes>) -> Self { Self { parts } }
    pub fn parts(&self) -> &[Bytes] { &self.parts }
    pub fn len(&self) -> usize { self.parts.iter().map(Bytes::len).sum() }
    pub fn is_empty(&self) -> bool { self.len() == 0 }
    /// Shares memory if the range lies within one part, copies otherwise. Panics if out of range.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Bytes { let _ = range; todo!() }
}

/// What the caller appends. `kind` 0 and 255 are the raft crate's own (blank, membership); the log does not care.
#[derive(Clone, Debug)]
pub struct NewFrame { pub kind: u8, pub position: Position, pub count: u32, pub time_ms: u64, pub payload: Payload }

/// What the log holds: `base_offset` is the sum of the counts of all frames before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameHeader { pub kind: u8, pub position: Position, pub base_offset: u64, pub count: u32, pub time_ms: u64, pub payload_bytes: u32 }
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame { pub header: FrameHeader, pub payload: Payload }

/// Called once, on the flusher's thread, in submission order, when the request is durable or has failed for good. Must not block.
pub type Done = Box<dyn FnOnce(Result<(), Fatal>) + Send>;

/// The disk lied or refused: final for the whole store. Nothing is ever retried after it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation} {path}: {message}")]
pub struct Fatal { pub operation: &'static str, pub path: String, pub message: String, pub disk_full: bool }

/// What a log spans. Indexes first..=last are readable. `synced` is the last index known durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds { pub purged: Option<Position>, pub last: Option<Position>, pub synced_index: u64, pub start_offset: u64, pub next_offset: u64, pub bytes: u64 }

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSpan { pub first_index: u64, pub last: Position, pub base_offset: u64, pub end_offset: u64, pub time_ms_max: u64, pub bytes: u64, pub sealed: bool }
#[derive(Clone, Debug)]
pub struct StoreOptions { pub segment_bytes: u64, pub pool_segments_max: usize, pub cache_bytes: u64, pub queue_bytes_max: u64 }
#[derive(Clone, Copy, Debug)]
pub struct RollPolicy { pub segment_bytes: u64, pub age_ms: u64 }
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity { pub cluster: [u8; 16], pub node: u64, pub incarnation: [u8; 16] }

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("data directory {path} is in use by another process")] Locked { path: String },
    #[error("{path} is corrupt at byte {at}: {what}")] Corrupt { path: String, at: u64, what: String, first_offset: u64, end_offset: u64 },
    #[error("{path} was written by a newer format, version {version}")] Newer { path: String, version: u32 },
    #[error(transparent)] Io(#[from] Fatal),
}
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("index {index} was purged; the log starts after {purged}")] Purged { index: u64, purged: u64 },
    #[error("{path} is corrupt at byte {at}: {what}")] Corrupt { path: String, at: u64, what: String },
    #[error("read {path}: {message}")] Io { path: String, message: String },
}

/// One data directory: lock, identity, flusher thread, recycled segments, hard state, sealed files. Cheap to clone.
#[derive(Clone)]
pub struct Store { _inner: Arc<()> }
impl Store {
    /// `on_fatal` is called once, at the first failed write or sync.
    pub fn open(fs: Arc<dyn FileSystem>, dir: &Path, options: StoreOptions, on_fatal: Box<dyn Fn(&Fatal) + Send + Sync>) -> Result<Self, OpenError> { let _ = (fs, dir, options, on_fatal); todo!() }
    pub fn identity(&self) -> Identity { todo!() }
    /// Opens or creates the log `name` (a path-safe text such as "events-3") of replica `replica`; recovers it. Blocking.
    pub fn open_log(&self, name: &str, replica: u64, roll: RollPolicy) -> Result<Log, OpenError> { let _ = (name, replica, roll); todo!() }
    /// Writes spare segment files up to the pool's limit; blocking, to be run on a thread of its own, stops early when the store closes.
    pub fn fill_pool(&self) { todo!() }
    /// Replaces a small file atomically (temporary, sync, rename, directory sync), with magic, version, length and crc around `bytes`. Blocking.
    pub fn save_file(&self, name: &str, version: u32, bytes: &[u8]) -> Result<(), Fatal> { let _ = (name, version, bytes); todo!() }
    /// None if there is none. A damaged file is `Corrupt`.
    pub fn load_file(&self, name: &str) -> Result<Option<(u32, Vec<u8>)>, OpenError> { let _ = name; todo!() }
    pub fn free_bytes(&self) -> u64 { todo!() }
    /// Flushes what is queued, writes the clean-stop mark, joins the flusher. Blocking. Later calls on logs fail.
    pub fn close(&self) { todo!() }
}

/// One replica's log. Cheap to clone; every method may be called from any thread. append, truncate, purge and save_vote only enqueue.
#[derive(Clone)]
pub struct Log { _inner: Arc<()> }
impl Log {
    pub fn bounds(&self) -> Bounds { todo!() }
    pub fn vote(&self) -> Option<Vec<u8>> { todo!() }
    /// At most 64 bytes.
    pub fn save_vote(&self, vote: Vec<u8>, done: Done) { let _ = (vote, done); todo!() }
    /// Frames must continue the log without a gap. Readable at return; `done` when durable.
    pub fn append(&self, frames: Vec<NewFrame>, done: Done) { let _ = (frames, done); todo!() }
    /// Keeps ..=index (None or an index at the purge point: nothing above it). Effective for readers at return.
    pub fn truncate_after(&self, index: Option<u64>, done: Done) { let _ = (index, done); todo!() }
    /// Drops ..=index logically and frees segments wholly at or below it. An index above the last frame empties the log and
    /// makes it continue after `position` (a follower that installs a snapshot); `next_offset` then seeds the offsets.
    pub fn purge(&self, position: Position, next_offset: u64, done: Done) { let _ = (position, next_offset, done); todo!() }
    /// From memory only; None if any of it is not cached. At least one frame, then up to `bytes_max` of payload.
    pub fn read_cached(&self, from: u64, end: u64, bytes_max: u64) -> Option<Vec<Frame>> { let _ = (from, end, bytes_max); todo!() }
    /// Frames from..end from memory or disk; verified. Blocking. At least one frame, then up to `bytes_max` of payload.
    pub fn read(&self, from: u64, end: u64, bytes_max: u64) -> Result<Vec<Frame>, ReadError> { let _ = (from, end, bytes_max); todo!() }
    /// Index of the frame that holds `offset`. Blocking (may read an index). None if below start or not yet appended.
    pub fn index_of_offset(&self, offset: u64) -> Result<Option<u64>, ReadError> { let _ = offset; todo!() }
    /// First index whose frame was appended at or after `time_ms`. Blocking.
    pub fn index_of_time(&self, time_ms: u64) -> Result<Option<u64>, ReadError> { let _ = time_ms; todo!() }
    /// Oldest first.
    pub fn segments(&self) -> Vec<SegmentSpan> { todo!() }
}

pub trait FileSystem: Send + Sync {}
/// The machine's own files.
pub struct DiskFileSystem;
impl FileSystem for DiskFileSystem {}
/// Files in memory, for tests: knows what was synced, drops the rest in a crash, fails on demand.
#[derive(Clone, Default)]
pub struct MemoryFileSystem { _inner: Arc<()> }
impl FileSystem for MemoryFileSystem {}
}
pub use contract::*;

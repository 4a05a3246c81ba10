//! Fanfare's bytes on disk: logs of opaque frames, their recovery, and one flusher per data directory.
//!
//! Knows neither Raft nor events. What it promises: a frame whose `on_durable` was called with `Ok` survives any crash,
//! a frame that is read is the one that was appended, and damage below what was ever synced is reported, never cut.
//!
//! ```text
//! <dir>/LOCK            held while the store is open
//! <dir>/identity        cluster, node, incarnation; written last when the directory is made
//! <dir>/journal          votes, purge points, truncations, synced ends, clean stop
//! <dir>/logs/<name>/    <number>.seg: header, then frames; <number>.idx and <number>.keys: rebuildable
//! <dir>/pool/           spare segment files, written once
//! <dir>/files/          small files that are replaced whole
//! <dir>/quarantine/     damaged files, kept as they were when their loss was accepted
//! ```
mod background;
mod codec;
mod error;
mod flusher;
mod frame;
mod fs;
mod journal;
mod log;
mod repair;
mod secondary_index;
mod segment;
mod store;
mod written;

pub use error::{Fatal, OpenError, ReadError};
pub use flusher::queue::{OnDurable, OnRoom};
pub use frame::{Frame, FrameHeader, NewFrame, Payload, Position};
pub use fs::{DirectoryLock, DiskFileSystem, File, FileSystem, MemoryFileSystem, memory};
pub use log::{Log, state::Bounds};
pub use repair::{DamageReport, DamagedRange, RepairHints};
pub use secondary_index::{FrameStart, IndexKey, IndexKeys, KeyedFrames, Peek};
pub use segment::{SegmentSpan, roll::RollPolicy};
pub use store::{Identity, OnFatal, Store, options::StoreOptions};

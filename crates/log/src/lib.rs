//! Fanfare's bytes on disk: logs of opaque frames, their recovery, and one flusher per data directory.
//!
//! Knows neither Raft nor events. What it promises: a frame whose `done` was called with `Ok` survives any crash,
//! a frame that is read is the one that was appended, and damage below what was ever synced is reported, never cut.
//!
//! ```text
//! <dir>/LOCK            held while the store is open
//! <dir>/identity        cluster, node, incarnation; written last when the directory is made
//! <dir>/hard-state      journal: votes, purge points, truncations, synced ends, clean stop
//! <dir>/logs/<name>/    <sequence>.seg: header, then frames; <sequence>.idx and <sequence>.tag: rebuildable
//! <dir>/pool/           spare segment files, written once
//! <dir>/files/          small files that are replaced whole
//! <dir>/quarantine/     damaged files, kept as they were when their loss was accepted
//! ```
mod cache;
mod chores;
mod codec;
mod cut;
mod error;
mod flusher;
mod frame;
mod fs;
mod hard_state;
mod index;
mod log;
mod outgoing;
mod page_cache;
mod pool;
mod queue;
mod recovery;
mod salvage;
mod scan;
mod sealed_file;
mod segment;
mod store;
mod sync;
mod tags;
mod upcoming;
mod writer;

pub use error::{Fatal, OpenError, ReadError};
pub use frame::{Frame, FrameHeader, NewFrame, Payload, Position};
pub use fs::{DirectoryLock, DiskFileSystem, File, FileSystem, MemoryFileSystem, memory};
pub use log::{Ahead, Bounds, Log, RollPolicy, Tagged};
pub use queue::{Done, Ready};
pub use salvage::{Known, Lost, Survey};
pub use segment::SegmentSpan;
pub use store::{Identity, OnFatal, Store, StoreOptions};
pub use tags::{ANY_TAG, Tagger};

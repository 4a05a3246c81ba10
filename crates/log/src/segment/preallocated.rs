//! The next segment of a log, made while there is still room in the newest one: a file whose name is durable and
//! whose header is zeros. Beginning it costs the flusher no sync of its own; one that was never begun is removed when
//! the log is opened.

use std::{io, path::Path, sync::Arc};

use fanfare_environment::{Bug, planted};
use parking_lot::{Condvar, Mutex};

use crate::{
    codec::to_usize,
    fs::{File, FileSystem, PAGE_BYTES},
    segment::SEGMENT_HEADER_BYTES,
    segment::pool::{Pool, Spare, sync_parent},
    store::sealed_file::TEMPORARY_SUFFIX,
};

/// One preallocation, from the flusher's request to the file.
#[derive(Default)]
pub(crate) struct PreallocatedSegment {
    state: Mutex<State>,
    finished: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    Requested,
    Making,
    /// The flusher needed the segment before anybody began to make it, and makes it itself.
    Cancelled,
    /// None if making it failed.
    Made(Option<Arc<dyn File>>),
}

impl PreallocatedSegment {
    /// False if it has been requested before.
    pub(crate) fn request(&self) -> bool {
        let mut state = self.state.lock();
        let is_first = matches!(*state, State::Idle);
        if is_first {
            *state = State::Requested;
        }
        is_first
    }

    /// False if the segment is not needed any more. Otherwise `finish` must follow.
    pub(crate) fn begin(&self) -> bool {
        let mut state = self.state.lock();
        let is_requested = matches!(*state, State::Requested);
        if is_requested {
            *state = State::Making;
        }
        is_requested
    }

    pub(crate) fn finish(&self, file: Option<Arc<dyn File>>) {
        *self.state.lock() = State::Made(file);
        self.finished.notify_all();
    }

    /// The file, if there is one; called once. Waits only for a file that is being made at this moment, so a worker
    /// that shares its thread with the background worker never waits.
    pub(crate) fn take(&self) -> Option<Arc<dyn File>> {
        let mut state = self.state.lock();
        // A file made from now on would replace the one that the flusher makes, which has the same name.
        if matches!(*state, State::Requested) {
            *state = State::Cancelled;
        }
        while matches!(*state, State::Making) {
            self.finished.wait(&mut state);
        }
        match &mut *state {
            State::Made(file) => file.take(),
            State::Idle | State::Requested | State::Making | State::Cancelled => None,
        }
    }
}

/// A file for a segment, without its final name: a recycled one if there is one.
pub(crate) fn unnamed(
    fs: &dyn FileSystem,
    pool: &Pool,
    path: &Path,
    segment_bytes: u64,
) -> io::Result<Spare> {
    if let Some(spare) = pool.take(segment_bytes) {
        return Ok(spare);
    }
    let path = path.with_extension(&TEMPORARY_SUFFIX[1..]);
    let file = fs.create(&path)?;
    Ok(Spare { path, file })
}

/// Bytes to write where a header goes: in a recycled file a whole page, which need not be read first then.
pub(crate) fn header_room(file_bytes: u64) -> usize {
    let is_recycled = file_bytes >= PAGE_BYTES;
    if is_recycled { to_usize(PAGE_BYTES) } else { SEGMENT_HEADER_BYTES }
}

/// Durable at return.
pub(crate) fn make(
    fs: &dyn FileSystem,
    pool: &Pool,
    path: &Path,
    segment_bytes: u64,
) -> io::Result<Arc<dyn File>> {
    let unnamed = unnamed(fs, pool, path, segment_bytes)?;
    let zeros = vec![0; header_room(unnamed.file.length()?)];
    unnamed.file.write_all_at(&zeros, 0)?;
    // The zeros are durable before the file has its name: after a crash in between, the header of a recycled file
    // would be taken for one of this log.
    unnamed.file.sync()?;
    fs.rename(&unnamed.path, path)?;
    if !planted(Bug::NoDirectorySync) {
        sync_parent(fs, path)?;
    }
    Ok(unnamed.file)
}

//! The next segment of a log, made while there is still room in the newest one: a file whose name is durable and
//! whose header is zeros. Beginning it costs the flusher no sync of its own; one that was never begun is removed when
//! the log is opened.
use std::{io, path::Path, sync::Arc};

use parking_lot::{Condvar, Mutex};

use crate::{
    codec::to_usize,
    fs::{File, FileSystem, PAGE_BYTES},
    segment::SEGMENT_HEADER_BYTES,
    segment::pool::{Pool, Spare, sync_parent},
    store::sealed_file::TEMPORARY_SUFFIX,
};

#[derive(Default)]
pub(crate) struct Upcoming {
    state: Mutex<State>,
    made: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Nothing,
    Asked,
    /// None if it failed.
    Made(Option<Arc<dyn File>>),
}

impl Upcoming {
    /// False if it has been asked for before.
    pub(crate) fn ask(&self) -> bool {
        let mut state = self.state.lock();
        let first = matches!(*state, State::Nothing);
        if first {
            *state = State::Asked;
        }
        first
    }

    pub(crate) fn answer(&self, file: Option<Arc<dyn File>>) {
        *self.state.lock() = State::Made(file);
        self.made.notify_all();
    }

    /// Waits for it if it has been asked for; None if it has not, or could not be made.
    pub(crate) fn take(&self) -> Option<Arc<dyn File>> {
        let mut state = self.state.lock();
        while matches!(*state, State::Asked) {
            self.made.wait(&mut state);
        }
        match std::mem::take(&mut *state) {
            State::Made(file) => file,
            State::Nothing | State::Asked => None,
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

/// How many bytes to write where a header is wanted: in a recycled file a whole page, which is then not read first.
pub(crate) fn header_room(file_bytes: u64) -> usize {
    let recycled = file_bytes >= PAGE_BYTES;
    if recycled { to_usize(PAGE_BYTES) } else { SEGMENT_HEADER_BYTES }
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
    // Before it has its name, lest what a recycled file held be taken for its header.
    unnamed.file.sync()?;
    fs.rename(&unnamed.path, path)?;
    sync_parent(fs, path)?;
    Ok(unnamed.file)
}

//! Spare segment files whose blocks have been written once, so that a sync of them is not also a commit of the file
//! system's journal. A file that some reader still holds is never handed out.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use fanfare_environment::WorkerHandle;
use parking_lot::Mutex;

use crate::fs::{File, FileSystem};

const WRITE_BYTES: usize = 1024 * 1024;
/// The filesystem never has a whole segment to write back at once, nor to commit its journal for every write.
const SYNC_BYTES: u64 = 8 * 1024 * 1024;
const SUFFIX: &str = ".free";

pub(crate) struct Spare {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
}

pub(crate) struct Pool {
    dir: PathBuf,
    segment_bytes: u64,
    segments_max: usize,
    spares: Mutex<Spares>,
    /// Held while a spare file is being written, so that no file is written into a directory that was given up.
    filling: Mutex<()>,
    /// Fills the pool again after spare files were taken.
    filler: OnceLock<WorkerHandle>,
}

#[derive(Default)]
struct Spares {
    files: Vec<Spare>,
    /// Slots of files that are on their way into the pool.
    reserved: usize,
    next_number: u64,
    /// How often a spare file was requested, whether or not there was one.
    requests: u64,
    is_closed: bool,
}

impl Pool {
    /// Takes over what an earlier run left in `dir`.
    pub(crate) fn open(
        fs: &dyn FileSystem,
        dir: &Path,
        segment_bytes: u64,
        segments_max: usize,
    ) -> io::Result<Self> {
        let mut spares = Spares::default();
        for name in fs.list(dir)? {
            let path = dir.join(&name);
            let number = name.strip_suffix(SUFFIX).and_then(|stem| u64::from_str_radix(stem, 16).ok());
            // Among the others: files whose writing a crash cut short. Their length does not tell how far they were written.
            let Some(number) = number.filter(|_| spares.files.len() < segments_max) else {
                fs.remove(&path)?;
                continue;
            };
            spares.next_number = spares.next_number.max(number + 1);
            let file = fs.open(&path)?;
            if fits(file.length()?, segment_bytes) {
                spares.files.push(Spare { path, file });
            } else {
                fs.remove(&path)?;
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            segment_bytes,
            segments_max,
            spares: Mutex::new(spares),
            filling: Mutex::default(),
            filler: OnceLock::new(),
        })
    }

    /// None if there is no spare file, or none for segments of this size.
    pub(crate) fn take(&self, segment_bytes: u64) -> Option<Spare> {
        if segment_bytes != self.segment_bytes {
            return None;
        }
        let mut spares = self.spares.lock();
        spares.requests += 1;
        // A file that a reader holds would change under that reader.
        let unread = spares.files.iter().position(|spare| Arc::strong_count(&spare.file) == 1);
        let spare = unread.map(|unread| spares.files.remove(unread));
        drop(spares);
        self.notify_filler();
        spare
    }

    /// Takes the file of a freed segment, or removes it. Durable at return.
    pub(crate) fn give(&self, fs: &dyn FileSystem, spare: Spare) -> io::Result<()> {
        let length = spare.file.length()?;
        let place = if fits(length, self.segment_bytes) { self.reserve() } else { None };
        let Some(path) = place else {
            fs.remove(&spare.path)?;
            return sync_parent(fs, &spare.path);
        };
        // The log's directory is synced first: a file that is handed out again must not come back under its old name, where
        // it would pass for a segment of the log.
        let moved = fs
            .rename(&spare.path, &path)
            .and_then(|()| sync_parent(fs, &spare.path))
            .and_then(|()| fs.sync_dir(&self.dir));
        self.settle(moved.is_ok().then_some(Spare { path, file: spare.file }));
        moved
    }

    /// Writes one more spare file; false if the pool is full or closed, or `has_room` denies that so many more bytes may
    /// be written. An unfinished file is removed.
    pub(crate) fn fill_one(&self, fs: &dyn FileSystem, has_room: &dyn Fn(u64) -> bool) -> io::Result<bool> {
        let _filling = self.filling.lock();
        if self.is_closed() {
            return Ok(false);
        }
        let Some(path) = self.reserve() else { return Ok(false) };
        let written = self.write_spare(fs, &path, has_room);
        let (spare, result) = match written {
            Ok(Some(file)) => (Some(Spare { path, file }), Ok(true)),
            Ok(None) => (None, Ok(false)),
            Err(error) => {
                remove_if_there(fs, &path);
                (None, Err(error))
            }
        };
        self.settle(spare);
        result
    }

    /// None if there was no room.
    fn write_spare(
        &self,
        fs: &dyn FileSystem,
        path: &Path,
        has_room: &dyn Fn(u64) -> bool,
    ) -> io::Result<Option<Arc<dyn File>>> {
        let unfinished = path.with_extension("new");
        let written = write_zeros(fs, &unfinished, self.segment_bytes, has_room);
        let Ok(Some(file)) = written else {
            remove_if_there(fs, &unfinished);
            return written;
        };
        // The name comes last: a file that has it was written and synced whole.
        fs.rename(&unfinished, path).inspect_err(|_| remove_if_there(fs, &unfinished))?;
        fs.sync_dir(&self.dir)?;
        Ok(Some(file))
    }

    pub(crate) fn start(&self, filler: WorkerHandle) {
        assert!(self.filler.set(filler).is_ok(), "one worker fills a pool");
    }

    pub(crate) fn filler(&self) -> Option<&WorkerHandle> {
        self.filler.get()
    }

    pub(crate) fn requests(&self) -> u64 {
        self.spares.lock().requests
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.spares.lock().is_closed
    }

    /// No file is begun any more.
    pub(crate) fn close(&self) {
        self.spares.lock().is_closed = true;
        self.notify_filler();
    }

    /// Waits for the file that is being written; false if it is still being written after `timeout`.
    pub(crate) fn wait_until_unfilled(&self, timeout: Duration) -> bool {
        self.filling.try_lock_for(timeout).is_some()
    }

    fn notify_filler(&self) {
        if let Some(filler) = self.filler.get() {
            filler.notify();
        }
    }

    /// The name of one more file, if there is a place for it; `settle` must follow.
    fn reserve(&self) -> Option<PathBuf> {
        let mut spares = self.spares.lock();
        if spares.files.len() + spares.reserved >= self.segments_max {
            return None;
        }
        spares.reserved += 1;
        let number = spares.next_number;
        spares.next_number += 1;
        Some(self.dir.join(format!("{number:016x}{SUFFIX}")))
    }

    fn settle(&self, spare: Option<Spare>) {
        let mut spares = self.spares.lock();
        spares.reserved -= 1;
        spares.files.extend(spare);
    }
}

/// A growing file that ended well short of a segment is not worth keeping, nor is an oversize one.
fn fits(length: u64, segment_bytes: u64) -> bool {
    length >= segment_bytes - segment_bytes / 4 && length <= segment_bytes
}

pub(crate) fn sync_parent(fs: &dyn FileSystem, path: &Path) -> io::Result<()> {
    fs.sync_dir(path.parent().unwrap_or_else(|| Path::new("/")))
}

/// Removes the file after a failure. The disk is full or failing, and the caller reports the first error.
fn remove_if_there(fs: &dyn FileSystem, path: &Path) {
    match fs.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(path = %path.display(), %error, "failed to remove an unfinished spare segment; the next start removes it");
        }
        _ => {}
    }
}

/// None if there was no room, be it for the rest only.
fn write_zeros(
    fs: &dyn FileSystem,
    path: &Path,
    length: u64,
    has_room: &dyn Fn(u64) -> bool,
) -> io::Result<Option<Arc<dyn File>>> {
    if !has_room(length) {
        return Ok(None);
    }
    let file = fs.create(path)?;
    let zeros = vec![0; WRITE_BYTES];
    let mut at = 0;
    while at < length {
        if !has_room(length - at) {
            return Ok(None);
        }
        let chunk = usize::try_from(length - at).map_or(zeros.len(), |rest| rest.min(zeros.len()));
        file.write_all_at(&zeros[..chunk], at)?;
        at += chunk as u64;
        if at.is_multiple_of(SYNC_BYTES) || at == length {
            file.sync()?;
            file.drop_cached(0..at)?;
        }
    }
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::fs::MemoryFileSystem;

    const SEGMENT_BYTES: u64 = 4096;

    fn filled() -> (MemoryFileSystem, Pool) {
        let fs = MemoryFileSystem::default();
        let dir = Path::new("/pool");
        fs.create_dir(dir).expect("create directory");
        let pool = Pool::open(&fs, dir, SEGMENT_BYTES, 1).expect("open");
        assert!(pool.fill_one(&fs, &|_| true).expect("fill"));
        assert!(!pool.fill_one(&fs, &|_| true).expect("full"));
        (fs, pool)
    }

    #[test]
    fn a_file_that_a_reader_holds_is_not_handed_out() {
        let (fs, pool) = filled();
        let spare = pool.take(SEGMENT_BYTES).expect("a spare file");
        let reader = Arc::clone(&spare.file);
        pool.give(&fs, spare).expect("give");
        assert!(pool.take(SEGMENT_BYTES).is_none());
        drop(reader);
        assert!(pool.take(SEGMENT_BYTES).is_some());
    }

    #[test]
    fn files_of_another_size_are_neither_kept_nor_handed_out() {
        let (fs, pool) = filled();
        assert!(pool.take(SEGMENT_BYTES / 2).is_none());
        drop(pool.take(SEGMENT_BYTES));
        for length in [SEGMENT_BYTES / 2, SEGMENT_BYTES + 1] {
            let path = PathBuf::from("/pool/freed.seg");
            let file = fs.create(&path).expect("create");
            file.write_all_at(&vec![1; usize::try_from(length).expect("small")], 0).expect("write");
            pool.give(&fs, Spare { path, file }).expect("give");
            assert!(pool.take(SEGMENT_BYTES).is_none(), "a file of {length} bytes was kept");
        }
    }

    #[test]
    fn a_file_for_which_room_runs_out_is_removed() {
        for granted in 0..4_u64 {
            let fs = MemoryFileSystem::default();
            let dir = Path::new("/pool");
            fs.create_dir(dir).expect("create directory");
            let pool = Pool::open(&fs, dir, 3 * WRITE_BYTES as u64, 1).expect("open");
            let left = Cell::new(granted);
            let has_room = |_| left.replace(left.get().saturating_sub(1)) > 0;
            assert!(!pool.fill_one(&fs, &has_room).expect("no error"));
            assert_eq!(fs.paths(), [] as [PathBuf; 0], "with room granted {granted} times");
            assert!(pool.fill_one(&fs, &|_| true).expect("its place is free again"));
        }
    }

    #[test]
    fn zeros_are_synced_in_steps_but_not_at_every_write() {
        let fs = MemoryFileSystem::default();
        fs.create_dir(Path::new("/pool")).expect("create directory");
        let file = write_zeros(&fs, Path::new("/pool/x"), 2 * SYNC_BYTES + 1, &|_| true);
        assert_eq!(file.expect("write").expect("room").length().expect("length"), 2 * SYNC_BYTES + 1);
        assert_eq!(fs.syncs(), 3);
    }

    #[test]
    fn a_freed_file_does_not_take_the_place_of_one_being_written() {
        let (fs, pool) = filled();
        let freed = pool.take(SEGMENT_BYTES).expect("a spare file");
        let place = pool.reserve();
        pool.give(&fs, freed).expect("give");
        assert!(place.is_some() && fs.paths().is_empty());
    }

    #[test]
    fn a_closed_pool_is_not_filled() {
        let (fs, pool) = filled();
        drop(pool.take(SEGMENT_BYTES));
        pool.close();
        assert!(!pool.fill_one(&fs, &|_| true).expect("no error"));
        assert!(pool.wait_until_unfilled(Duration::ZERO));
    }

    #[test]
    fn closing_waits_for_a_file_that_is_being_written_but_not_forever() {
        let (fs, pool) = filled();
        drop(pool.take(SEGMENT_BYTES));
        let has_room = |_| {
            pool.close();
            assert!(!pool.wait_until_unfilled(Duration::ZERO));
            false
        };
        assert!(!pool.fill_one(&fs, &has_room).expect("no error"));
        assert!(pool.wait_until_unfilled(Duration::ZERO));
    }
}

//! Spare segment files whose blocks have been written once, so that a sync of them is not also a commit of the
//! filesystem's journal. A file that some reader still holds is never handed out.
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::fs::{File, FileSystem};

const FILL_CHUNK_BYTES: usize = 1024 * 1024;
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
}

#[derive(Default)]
struct Spares {
    files: Vec<Spare>,
    next_number: u64,
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
        Ok(Self { dir: dir.to_owned(), segment_bytes, segments_max, spares: Mutex::new(spares) })
    }

    /// None if there is no spare file, or none for segments of this size.
    pub(crate) fn take(&self, segment_bytes: u64) -> Option<Spare> {
        if segment_bytes != self.segment_bytes {
            return None;
        }
        let mut spares = self.spares.lock();
        let unread = spares.files.iter().position(|spare| Arc::strong_count(&spare.file) == 1)?;
        Some(spares.files.remove(unread))
    }

    /// Takes the file of a freed segment, or removes it. Durable at return.
    pub(crate) fn give(&self, fs: &dyn FileSystem, spare: Spare) -> io::Result<()> {
        let length = spare.file.length()?;
        let mut spares = self.spares.lock();
        if spares.files.len() >= self.segments_max || !fits(length, self.segment_bytes) {
            drop(spares);
            fs.remove(&spare.path)?;
            return sync_parent(fs, &spare.path);
        }
        let path = self.next_path(&mut spares);
        drop(spares);
        fs.rename(&spare.path, &path)?;
        sync_parent(fs, &spare.path)?;
        fs.sync_dir(&self.dir)?;
        self.spares.lock().files.push(Spare { path, file: spare.file });
        Ok(())
    }

    /// Writes one more spare file; false if the pool is full or `stop` says so. What was written of an unfinished
    /// one is removed.
    pub(crate) fn fill_one(&self, fs: &dyn FileSystem, stop: &dyn Fn() -> bool) -> io::Result<bool> {
        let mut spares = self.spares.lock();
        if spares.files.len() >= self.segments_max || stop() {
            return Ok(false);
        }
        let path = self.next_path(&mut spares);
        drop(spares);
        let unfinished = path.with_extension("new");
        match write_zeros(fs, &unfinished, self.segment_bytes, stop) {
            Ok(Some(file)) => {
                fs.rename(&unfinished, &path)?;
                fs.sync_dir(&self.dir)?;
                self.spares.lock().files.push(Spare { path, file });
                Ok(true)
            }
            Ok(None) => fs.remove(&unfinished).map(|()| false),
            Err(error) => {
                // The disk is full or failing: the first error is the one to tell.
                if let Err(second) = fs.remove(&unfinished) {
                    tracing::debug!(path = %unfinished.display(), error = %second, "remove unfinished spare segment");
                }
                Err(error)
            }
        }
    }

    fn next_path(&self, spares: &mut Spares) -> PathBuf {
        let number = spares.next_number;
        spares.next_number += 1;
        self.dir.join(format!("{number:016x}{SUFFIX}"))
    }
}

/// A growing file that ended well short of a segment is not worth keeping, nor is an oversize one.
fn fits(length: u64, segment_bytes: u64) -> bool {
    length >= segment_bytes - segment_bytes / 4 && length <= segment_bytes
}

fn sync_parent(fs: &dyn FileSystem, path: &Path) -> io::Result<()> {
    fs.sync_dir(path.parent().unwrap_or_else(|| Path::new("/")))
}

/// None if stopped early.
fn write_zeros(
    fs: &dyn FileSystem,
    path: &Path,
    length: u64,
    stop: &dyn Fn() -> bool,
) -> io::Result<Option<Arc<dyn File>>> {
    let file = fs.create(path)?;
    let zeros = vec![0; FILL_CHUNK_BYTES];
    let mut at = 0;
    while at < length {
        if stop() {
            return Ok(None);
        }
        let chunk = usize::try_from(length - at).map_or(zeros.len(), |rest| rest.min(zeros.len()));
        file.write_all_at(&zeros[..chunk], at)?;
        // In steps, so that the filesystem never has a whole segment to write back at once.
        file.sync()?;
        at += chunk as u64;
    }
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemoryFileSystem;

    const SEGMENT_BYTES: u64 = 4096;

    fn filled() -> (MemoryFileSystem, Pool) {
        let fs = MemoryFileSystem::default();
        let dir = Path::new("/pool");
        fs.create_dir(dir).expect("create directory");
        let pool = Pool::open(&fs, dir, SEGMENT_BYTES, 1).expect("open");
        assert!(pool.fill_one(&fs, &|| false).expect("fill"));
        assert!(!pool.fill_one(&fs, &|| false).expect("full"));
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
}

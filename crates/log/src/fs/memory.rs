//! Files in memory, for tests: knows what was synced, leaves any chosen part of the rest after a crash, fails on
//! demand, and can be taken back to any earlier operation.
mod disk;
mod pages;

use std::{
    io::{self, IoSlice},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{DirectoryLock, File, FileSystem};
use disk::{Disk, Operation};
pub use disk::{Failure, Keep, Unsynced};
pub use pages::PageUse;

/// Clones share the same files. Directories are durable as soon as they are made; names and contents are not.
#[derive(Clone, Default)]
pub struct MemoryFileSystem {
    disk: Arc<Mutex<Disk>>,
}

impl MemoryFileSystem {
    /// What a restart finds after a crash now: all that was synced, and of the rest what `keep` says, asked in
    /// the order in which it was done. `self` is left as it is.
    pub fn crashed(&self, keep: impl FnMut(Unsynced) -> Keep) -> Self {
        Self { disk: Arc::new(Mutex::new(self.disk.lock().crashed(keep))) }
    }

    /// How many operations changed this file system since it was made or crashed.
    pub fn operations(&self) -> usize {
        self.disk.lock().operations()
    }

    /// The file system as it was after its first `count` operations.
    pub fn after(&self, count: usize) -> Self {
        Self { disk: Arc::new(Mutex::new(self.disk.lock().after(count))) }
    }

    /// The write after `passing` more ones fails, and nothing of it is written.
    pub fn fail_write(&self, passing: u64, failure: Failure) {
        self.disk.lock().faults.write = Some((passing, failure));
    }

    /// The sync (of a file or a directory) after `passing` more ones fails. What it should have made durable never
    /// will be, though it stays readable until the crash.
    pub fn fail_sync(&self, passing: u64, failure: Failure) {
        self.disk.lock().faults.sync = Some((passing, failure));
    }

    /// From now on only `bytes` more fit in, and what files with a name give up; a write of more fails.
    pub fn leave_free(&self, bytes: u64) {
        let mut disk = self.disk.lock();
        disk.capacity_bytes = Some(disk.used_bytes() + bytes);
    }

    /// Inverts the bits of `mask` at `at`, behind everybody's back.
    pub fn flip(&self, path: &Path, at: u64, mask: u8) {
        self.disk.lock().damage(path, |bytes| {
            let at = usize::try_from(at).expect("an offset in memory");
            bytes[at] ^= mask;
        });
    }

    /// Cuts the file to `length`, behind everybody's back.
    pub fn cut(&self, path: &Path, length: u64) {
        let length = usize::try_from(length).expect("a length in memory");
        self.disk.lock().damage(path, |bytes| bytes.truncate(length));
    }

    /// From now on, and after any crash, no read that touches `range` succeeds.
    pub fn fail_reads(&self, path: &Path, range: Range<u64>) {
        self.disk.lock().make_unreadable(path, range);
    }

    /// Paths of all files, sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.disk.lock().paths()
    }

    /// What a reader sees now.
    pub fn content(&self, path: &Path) -> io::Result<Vec<u8>> {
        let disk = self.disk.lock();
        let number = disk.number(path)?;
        Ok(disk.view(number).to_vec())
    }

    /// How often files and directories were synced.
    pub fn syncs(&self) -> u64 {
        self.disk.lock().syncs
    }

    /// What a system's page cache would hold, and what it cost.
    pub fn pages(&self) -> PageUse {
        self.disk.lock().pages.usage()
    }

    fn file(&self, number: usize) -> Arc<dyn File> {
        Arc::new(MemoryFile { number, disk: Arc::clone(&self.disk) })
    }
}

struct MemoryFile {
    number: usize,
    disk: Arc<Mutex<Disk>>,
}

impl File for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut disk = self.disk.lock();
        disk.check_read(self.number, at..at + buffer.len() as u64)?;
        let content = disk.view(self.number);
        let start = usize::try_from(at).map_or(content.len(), |at| at.min(content.len()));
        let length = buffer.len().min(content.len() - start);
        buffer[..length].copy_from_slice(&content[start..start + length]);
        disk.pages.read(self.number, start as u64..(start + length) as u64);
        Ok(length)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.faults.check_write()?;
        disk.check_room(self.number, at + bytes.len() as u64)?;
        let length = disk.view(self.number).len() as u64;
        disk.pages.write(self.number, at..at + bytes.len() as u64, length);
        disk.perform(Operation::Write { number: self.number, at, bytes: Bytes::copy_from_slice(bytes) });
        Ok(())
    }

    fn write_parts_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.write_all_at(&bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.syncs += 1;
        if let Err(error) = disk.faults.check_sync() {
            disk.perform(Operation::LoseWrites { number: self.number });
            return Err(error);
        }
        disk.perform(Operation::Sync { number: self.number });
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.lock().view(self.number).len() as u64)
    }

    fn drop_cached(&self, range: Range<u64>) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let unsynced = disk.unsynced(self.number);
        disk.pages.drop(self.number, range, &unsynced);
        Ok(())
    }
}

struct MemoryLock {
    path: PathBuf,
    disk: Arc<Mutex<Disk>>,
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.disk.lock().locks.remove(&self.path);
    }
}

impl FileSystem for MemoryFileSystem {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut disk = self.disk.lock();
        disk.require_parent(path)?;
        disk.faults.check_write()?;
        disk.perform(Operation::Create { path: path.to_owned() });
        let number = disk.number(path)?;
        drop(disk);
        Ok(self.file(number))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let number = self.disk.lock().number(path)?;
        Ok(self.file(number))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.number(from)?;
        disk.require_parent(to)?;
        disk.perform(Operation::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.number(from)?;
        disk.require_parent(to)?;
        disk.perform(Operation::Link { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.number(path)?;
        disk.perform(Operation::Remove { path: path.to_owned() });
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.lock().perform(Operation::CreateDir { path: path.to_owned() });
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.lock().list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.syncs += 1;
        disk.faults.check_sync()?;
        disk.perform(Operation::SyncDir { dir: dir.to_owned() });
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<DirectoryLock>> {
        let mut disk = self.disk.lock();
        if !disk.locks.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(MemoryLock { path: path.to_owned(), disk: Arc::clone(&self.disk) })))
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.disk.lock().free_bytes())
    }
}

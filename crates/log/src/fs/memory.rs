//! Files in memory, for tests: the file system knows what was synced, leaves any chosen part of the rest after a crash,
//! fails on demand, and can be taken back to any earlier operation.
//!
//! Harsher than a real disk: a name, of a file or a directory, is durable only once the directory that holds the name
//! was synced, and a directory that is lost takes everything in it along.
mod disk;
mod faults;
mod pages;

use std::{
    io::{self, IoSlice},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{DirectoryLock, File, FileSystem, read_fully, write_fully};
use disk::{Disk, Operation};
pub use disk::{Keep, Unsynced};
pub use faults::Failure;
use faults::SyncFault;
pub use pages::PageUse;

/// Clones share the same files.
#[derive(Clone, Default)]
pub struct MemoryFileSystem {
    disk: Arc<Mutex<Disk>>,
}

impl MemoryFileSystem {
    /// The file system that a restart finds after a crash now: everything that was synced, and of the rest what `keep`
    /// says, asked in the order in which it was done. `self` stays as it is.
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
        self.disk.lock().faults.fail_write(passing, failure);
    }

    /// The sync (of a file or a directory) after `passing` more ones fails. Whatever it should have made durable stays
    /// readable until the crash and is lost then.
    pub fn fail_sync(&self, passing: u64, failure: Failure) {
        self.disk.lock().faults.fail_sync(passing, failure);
    }

    /// The sync (of a file or a directory) after `passing` more ones lies: it succeeds, but whatever it should have
    /// made durable is lost at the crash, whatever is synced later.
    pub fn lie_at_sync(&self, passing: u64) {
        self.disk.lock().faults.lie_at_sync(passing);
    }

    /// The call of any kind (reading, writing, syncing, opening, listing, naming) after `passing` more ones fails.
    pub fn fail_call(&self, passing: u64, failure: Failure) {
        self.disk.lock().faults.fail_call(passing, failure);
    }

    /// True as long as a fault that was asked for has not happened.
    pub fn has_fault(&self) -> bool {
        self.disk.lock().faults.is_pending()
    }

    /// From now on the system moves at most `bytes` at a time: a larger read or write takes several calls, and a crash
    /// or a failure may come between two of them.
    pub fn shorten_transfers(&self, bytes: usize) {
        assert!(bytes > 0, "a transfer moves at least one byte");
        self.disk.lock().transfer_bytes_max = Some(bytes);
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

    /// Content of a file as a reader sees it now.
    pub fn content(&self, path: &Path) -> io::Result<Vec<u8>> {
        let disk = self.disk.lock();
        let number = disk.number(path)?;
        Ok(disk.view(number).to_vec())
    }

    /// How often files and directories were synced.
    pub fn syncs(&self) -> u64 {
        self.disk.lock().syncs
    }

    /// Size and cost of the page cache that a system would have.
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

impl MemoryFile {
    /// One system call.
    fn read_once(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut disk = self.disk.lock();
        disk.faults.check_call()?;
        let length = disk.transfer_bytes_max.map_or(buffer.len(), |max| max.min(buffer.len()));
        disk.check_read(self.number, at..at + length as u64)?;
        let content = disk.view(self.number);
        let start = usize::try_from(at).map_or(content.len(), |at| at.min(content.len()));
        let length = length.min(content.len() - start);
        buffer[..length].copy_from_slice(&content[start..start + length]);
        disk.pages.read(self.number, start as u64..(start + length) as u64);
        Ok(length)
    }

    /// One system call.
    fn write_once(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        let mut disk = self.disk.lock();
        disk.faults.check_call()?;
        disk.faults.check_write()?;
        let bytes = &bytes[..disk.transfer_bytes_max.map_or(bytes.len(), |max| max.min(bytes.len()))];
        disk.check_room(self.number, at + bytes.len() as u64)?;
        let length = disk.view(self.number).len() as u64;
        disk.pages.write(self.number, at..at + bytes.len() as u64, length);
        disk.perform(Operation::Write { number: self.number, at, bytes: Bytes::copy_from_slice(bytes) });
        Ok(bytes.len())
    }
}

impl File for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        read_fully(buffer, at, |buffer, at| self.read_once(buffer, at))
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        write_fully(bytes, at, |bytes, at| self.write_once(bytes, at))
    }

    fn write_parts_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.write_all_at(&bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.faults.check_call()?;
        disk.syncs += 1;
        let fault = disk.faults.take_sync_fault();
        disk.perform(match fault {
            None => Operation::Sync { number: self.number },
            Some(_) => Operation::LoseWrites { number: self.number },
        });
        fault.map_or(Ok(()), SyncFault::into_result)
    }

    fn length(&self) -> io::Result<u64> {
        let mut disk = self.disk.lock();
        disk.faults.check_call()?;
        Ok(disk.view(self.number).len() as u64)
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
        disk.faults.check_call()?;
        disk.require_parent(path)?;
        disk.faults.check_write()?;
        disk.perform(Operation::Create { path: path.to_owned() });
        let number = disk.number(path)?;
        drop(disk);
        Ok(self.file(number))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut disk = self.disk.lock();
        disk.faults.check_call()?;
        let number = disk.number(path)?;
        drop(disk);
        Ok(self.file(number))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.faults.check_call()?;
        disk.number(from)?;
        disk.require_parent(to)?;
        disk.perform(Operation::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.faults.check_call()?;
        disk.number(from)?;
        disk.require_parent(to)?;
        disk.perform(Operation::Link { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.faults.check_call()?;
        disk.number(path)?;
        disk.perform(Operation::Remove { path: path.to_owned() });
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.faults.check_call()?;
        disk.perform(Operation::CreateDir { path: path.to_owned() });
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut disk = self.disk.lock();
        disk.faults.check_call()?;
        disk.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.faults.check_call()?;
        // The working directory is `.` to the system; an empty path is none.
        if dir.as_os_str().is_empty() {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        let dir = if dir == Path::new(".") { Path::new("") } else { dir };
        disk.require_dir(dir)?;
        disk.syncs += 1;
        let fault = disk.faults.take_sync_fault();
        let dir = dir.to_owned();
        disk.perform(match fault {
            None => Operation::SyncDir { dir },
            Some(_) => Operation::LoseNames { dir },
        });
        fault.map_or(Ok(()), SyncFault::into_result)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<DirectoryLock>> {
        let mut disk = self.disk.lock();
        disk.faults.check_call()?;
        if !disk.locks.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(MemoryLock { path: path.to_owned(), disk: Arc::clone(&self.disk) })))
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.disk.lock().free_bytes())
    }
}

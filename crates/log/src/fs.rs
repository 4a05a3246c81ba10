//! The seam under the log: files, directories and their durability. The machine's own disk, or one in memory
//! that knows what a crash would leave.
mod descriptors;
mod disk;
pub mod memory;

use std::{
    io::{self, IoSlice},
    ops::Range,
    path::Path,
    sync::Arc,
};

pub use disk::DiskFileSystem;
pub use memory::MemoryFileSystem;

/// Held as long as the directory is in use; released when dropped.
pub type DirectoryLock = Box<dyn Send + Sync>;

/// An open file. Stays readable after its name is gone.
pub trait File: Send + Sync {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all of `bytes`, growing the file where needed. Not durable before `sync`.
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// The same with all `parts`, one behind the other.
    fn write_parts_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<()>;
    /// Makes content and length durable.
    fn sync(&self) -> io::Result<()>;
    fn length(&self) -> io::Result<u64>;
    /// Advice to forget what memory holds of whole pages of `range`. What is not synced stays.
    fn drop_cached(&self, range: Range<u64>) -> io::Result<()>;
}

/// The unit in which files are held in memory. Writing a part of one that is on disk and not in memory reads it
/// first.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// Names become durable by `sync_dir` of the directory that holds them, contents by `File::sync`.
pub trait FileSystem: Send + Sync {
    /// A new file, open for reading and writing. An existing one of that name loses its content.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// An existing file, open for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Replaces `to` if it exists.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Another name of the same file; `to` does not exist.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Creates the directory and its parents; fine if it exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Names of the files and directories in `dir`, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// None if another holder has it.
    fn lock(&self, path: &Path) -> io::Result<Option<DirectoryLock>>;
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// Fills `buffer` from `at` on, in as many calls of `read` as it takes; fewer bytes only at the end of the file.
fn read_fully(
    buffer: &mut [u8],
    at: u64,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Writes all of `bytes` at `at`, in as many calls of `write` as it takes.
fn write_fully(
    bytes: &[u8],
    at: u64,
    mut write: impl FnMut(&[u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        match write(&bytes[written..], at + written as u64) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

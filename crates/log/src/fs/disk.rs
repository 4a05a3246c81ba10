//! The machine's own files.
use std::{
    fs,
    io::{self, IoSlice},
    num::NonZero,
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use super::{DirectoryLock, File, FileSystem, descriptors, read_fully, write_fully};

/// Parts that the kernel takes in one call.
#[cfg(target_os = "linux")]
const PARTS_MAX: usize = 1024;

/// The machine's own files.
pub struct DiskFileSystem;

struct DiskFile {
    file: fs::File,
}

impl File for DiskFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        read_fully(buffer, at, |buffer, at| self.file.read_at(buffer, at))
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        write_fully(bytes, at, |bytes, at| self.file.write_at(bytes, at))
    }

    #[cfg(target_os = "linux")]
    fn write_parts_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        let mut at = at;
        for parts in parts.chunks(PARTS_MAX) {
            let bytes: usize = parts.iter().map(|part| part.len()).sum();
            let written = match rustix::io::pwritev(&self.file, parts, at) {
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => 0,
                Err(error) => return Err(error.into()),
            };
            if written < bytes {
                self.write_rest_at(parts, written, at)?;
            }
            at += bytes as u64;
        }
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    fn write_parts_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        self.write_rest_at(parts, 0, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    #[cfg(target_os = "linux")]
    fn drop_cached(&self, range: Range<u64>) -> io::Result<()> {
        // A length of zero would mean all that follows.
        let Some(length) = NonZero::new(range.end.saturating_sub(range.start)) else { return Ok(()) };
        Ok(rustix::fs::fadvise(&self.file, range.start, Some(length), rustix::fs::Advice::DontNeed)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn drop_cached(&self, _range: Range<u64>) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile {
    /// All but the first `skipped` bytes of `parts`, the first of which belongs at `at`.
    fn write_rest_at(&self, parts: &[IoSlice<'_>], skipped: usize, at: u64) -> io::Result<()> {
        let mut start = 0;
        for part in parts {
            let from = skipped.saturating_sub(start).min(part.len());
            self.write_all_at(&part[from..], at + (start + from) as u64)?;
            start += part.len();
        }
        Ok(())
    }
}

impl FileSystem for DiskFileSystem {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let open = || fs::File::options().read(true).write(true).create(true).truncate(true).open(path);
        let file = descriptors::with_reserve(open)?;
        Ok(Arc::new(DiskFile { file }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = descriptors::with_reserve(|| fs::File::options().read(true).write(true).open(path))?;
        Ok(Arc::new(DiskFile { file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in descriptors::with_reserve(|| fs::read_dir(dir))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        descriptors::with_reserve(|| fs::File::open(dir))?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<DirectoryLock>> {
        let open = || fs::File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = descriptors::with_reserve(open)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

//! The files of a damaged log: read as far as the disk gives them, moved to the quarantine, replaced whole.
use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    codec::to_usize,
    error::Fatal,
    fs::{FileSystem, PAGE_BYTES},
    store::sealed_file::{self, TEMPORARY_SUFFIX},
};

/// The directory that keeps damaged files.
pub(super) struct Quarantine<'a> {
    pub(super) fs: &'a dyn FileSystem,
    pub(super) dir: PathBuf,
}

impl Quarantine<'_> {
    /// Moves the file `name` of the directory `from` here; durable at return.
    pub(super) fn take(&self, from: &Path, name: &str) -> Result<(), Fatal> {
        let (path, to) = (from.join(name), self.free_name(name)?);
        self.fs.rename(&path, &to).map_err(|error| Fatal::new("set aside", &path, &error))?;
        for dir in [self.dir.as_path(), from] {
            self.fs.sync_dir(dir).map_err(|error| Fatal::new("sync directory", dir, &error))?;
        }
        Ok(())
    }

    /// Writes a copy under `name`; durable at return.
    pub(super) fn copy(&self, name: &str, bytes: &[u8]) -> Result<(), Fatal> {
        replace(self.fs, &self.free_name(name)?, bytes)
    }

    /// Gives a file that is about to be replaced, and cannot be copied, another name here; durable at return.
    pub(super) fn link(&self, from: &Path, name: &str) -> Result<(), Fatal> {
        let (path, to) = (from.join(name), self.free_name(name)?);
        self.fs.link(&path, &to).map_err(|error| Fatal::new("set aside", &path, &error))?;
        self.fs.sync_dir(&self.dir).map_err(|error| Fatal::new("sync directory", &self.dir, &error))
    }

    /// An unused name. Its directory is durable at return.
    fn free_name(&self, name: &str) -> Result<PathBuf, Fatal> {
        let Self { fs, dir } = self;
        fs.create_dir(dir).map_err(|error| Fatal::new("create directory", dir, &error))?;
        for parent in dir.ancestors().skip(1).take(2) {
            fs.sync_dir(parent).map_err(|error| Fatal::new("sync directory", parent, &error))?;
        }
        let used = fs.list(dir).map_err(|error| Fatal::new("list", dir, &error))?;
        let numbered = (1_u64..).map(|number| format!("{name}.{number}"));
        let free = std::iter::once(name.to_owned()).chain(numbered).find(|name| !used.contains(name));
        Ok(dir.join(free.expect("there are more numbers than files")))
    }
}

/// Replaces the file at `path` whole; atomic, and durable at return.
pub(super) fn replace(fs: &dyn FileSystem, path: &Path, bytes: &[u8]) -> Result<(), Fatal> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(TEMPORARY_SUFFIX);
    sealed_file::replace(fs, path, Path::new(&temporary), bytes)
}

/// The content of a file, with zeros in the place of pages that the disk does not give.
#[derive(Default)]
pub(super) struct FileContent {
    pub(super) bytes: Vec<u8>,
    /// Where the first page begins that cannot be read.
    pub(super) unreadable_byte: Option<u64>,
}

/// Up to `length` bytes of a file; empty if there is no such file.
pub(super) fn read(fs: &dyn FileSystem, path: &Path, length: u64) -> Result<FileContent, Fatal> {
    let file = match fs.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FileContent::default()),
        Err(error) => return Err(Fatal::new("open", path, &error)),
    };
    let length = file.length().map_err(|error| Fatal::new("measure", path, &error))?.min(length);
    let mut bytes = vec![0; to_usize(length)];
    if let Ok(filled) = file.read_at(&mut bytes, 0) {
        bytes.truncate(filled);
        return Ok(FileContent { bytes, unreadable_byte: None });
    }
    let mut unreadable_byte = None;
    for (at, page) in (0..).step_by(to_usize(PAGE_BYTES)).zip(bytes.chunks_mut(to_usize(PAGE_BYTES))) {
        if let Err(error) = file.read_at(page, at) {
            tracing::warn!(path = %path.display(), at, %error, "failed to read a page of a damaged log; its frames count as lost");
            page.fill(0);
            unreadable_byte.get_or_insert(at);
        }
    }
    Ok(FileContent { bytes, unreadable_byte })
}

//! Failures of the log: a disk that failed (final), a directory that cannot be opened, a read that cannot be served.
use std::{io, path::Path};

use rustix::io::Errno;

/// A failed write or sync, final for the whole store: nothing is retried. After a failed sync the kernel may call lost
/// pages clean, so a second sync that succeeds proves nothing.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation} {path}: {message}")]
pub struct Fatal {
    pub operation: &'static str,
    pub path: String,
    pub message: String,
    pub disk_full: bool,
    /// The process, or the system, may not open another file. The disk is not at fault.
    pub files_exhausted: bool,
}

impl Fatal {
    pub(crate) fn new(operation: &'static str, path: &Path, error: &io::Error) -> Self {
        let disk_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let files_exhausted = is_files_exhausted(error);
        Self {
            operation,
            path: path.display().to_string(),
            message: error.to_string(),
            disk_full,
            files_exhausted,
        }
    }

    /// The files of the log in `dir` cannot be read, which `operation` needs.
    pub(crate) fn unreadable(operation: &'static str, dir: &Path, error: &ReadError) -> Self {
        let path = dir.display().to_string();
        Self { operation, path, message: error.to_string(), disk_full: false, files_exhausted: false }
    }

    pub(crate) fn closed(dir: &Path) -> Self {
        let message = "the store is closed".to_owned();
        Self {
            operation: "use",
            path: dir.display().to_string(),
            message,
            disk_full: false,
            files_exhausted: false,
        }
    }
}

/// True if a file could not be opened because the process or the system has no descriptor left.
pub(crate) fn is_files_exhausted(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("data directory {path} is in use by another process")]
    Locked { path: String },
    #[error("{path} is corrupt at byte {at}: {what}")]
    Corrupt {
        path: String,
        at: u64,
        what: String,
        /// Offsets `first_offset..end_offset` are affected; equal if no events are known to be.
        first_offset: u64,
        end_offset: u64,
    },
    #[error(
        "data directory {path} was written by an older version (format {version}); this version cannot read it"
    )]
    Older { path: String, version: u32 },
    #[error("{path} was written by a newer format, version {version}")]
    Newer { path: String, version: u32 },
    #[error("log {name} belongs to replica {recorded}, not {asked}")]
    OtherReplica { name: String, recorded: u64, asked: u64 },
    #[error(transparent)]
    Io(#[from] Fatal),
}

impl OpenError {
    /// Corruption of a file that holds no events.
    pub(crate) fn corrupt(path: &Path, at: u64, what: &str) -> Self {
        Self::Corrupt {
            path: path.display().to_string(),
            at,
            what: what.to_owned(),
            first_offset: 0,
            end_offset: 0,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("index {index} was purged; the log starts after {purged}")]
    Purged { index: u64, purged: u64 },
    #[error("{path} is corrupt at byte {at}: {what}")]
    Corrupt { path: String, at: u64, what: String },
    #[error("read {path}: {message}")]
    Io { path: String, message: String },
}

//! The look at what a crash left behind the end of a log.
//!
//! Nothing is read until somebody asks: few do, and a node has many logs.

use std::{path::PathBuf, sync::Arc};

use crate::{
    codec::to_usize,
    error::ReadError,
    frame,
    fs::File,
    segment::{Segment, scanner::ScanError},
};

/// A torn tail is looked for in so many bytes behind the end. The first pages of the last round may be lost and later
/// ones kept, but a disk that keeps pages so far apart and none between them is not worth reading all of a segment.
const TORN_TAIL_BYTES_MAX: u64 = 1024 * 1024;

/// The bytes behind the last whole frame of a log that was not stopped in order.
#[derive(Clone)]
pub(crate) struct TornTail {
    file: Arc<dyn File>,
    path: PathBuf,
    byte: u64,
    bytes: u64,
    nonce: u64,
}

impl TornTail {
    pub(crate) fn behind(newest: &Segment) -> Self {
        let Segment { path, file, file_bytes, extent, .. } = newest;
        let bytes = file_bytes.saturating_sub(extent.end_byte).min(TORN_TAIL_BYTES_MAX);
        Self {
            file: file.clone(),
            path: path.clone(),
            byte: extent.end_byte,
            bytes,
            nonce: extent.link.nonce,
        }
    }

    /// True if a header of the segment's own nonce stands there: the log was stopped in the middle of a write, or lost a
    /// frame above the recorded synced end. Bytes of other nonces are what a recycled file held before, and say nothing.
    /// Blocking.
    pub(crate) fn is_there(&self) -> Result<bool, ReadError> {
        let mut tail = vec![0; to_usize(self.bytes)];
        let read = self.file.read_at(&mut tail, self.byte);
        tail.truncate(read.map_err(|error| ScanError::Io(error).read_error(&self.path))?);
        let is_torn = frame::holds_nonce(&tail, self.nonce);
        if is_torn {
            let (path, byte) = (self.path.display(), self.byte);
            tracing::warn!(%path, byte, "found a torn tail; the log ends before it");
        }
        Ok(is_torn)
    }
}

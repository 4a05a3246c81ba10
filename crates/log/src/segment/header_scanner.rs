//! Reads the frame headers of a segment in order, with the first bytes of each payload, and skips the rest of large
//! payloads.
//!
//! Headers are proven as the full scanner proves them: by the chain, the place in the log and the bounds of the
//! segment. A payload's checksum covers the whole payload, so its first bytes are not proven here.
use std::sync::Arc;

use super::{
    index::Entry,
    scan_position::{ProvenHeader, ScanPosition},
    scanner::ScanError,
};
use crate::{
    codec::to_usize,
    frame::{FrameHeader, HEADER_BYTES, Link},
    fs::{File, PAGE_BYTES},
};

/// Read at once where payloads are small.
const WINDOW_BYTES: usize = 256 * 1024;
/// A gap of fewer bytes is read through: one more read costs about as much as these bytes.
const SKIP_BYTES_MIN: u64 = 64 * 1024;

pub(crate) struct HeaderScanner {
    file: Arc<dyn File>,
    position: ScanPosition,
    window: Vec<u8>,
    /// Where in the file the window starts.
    window_byte: u64,
    /// How much the next read takes at least.
    read_bytes: usize,
}

impl HeaderScanner {
    /// Frames from `start` up to `end_byte`.
    pub(crate) fn new(file: Arc<dyn File>, start: Entry, end_byte: u64) -> Self {
        let position = ScanPosition::new(start, end_byte);
        let read_bytes = to_usize(PAGE_BYTES);
        Self { file, position, window: Vec::new(), window_byte: start.byte, read_bytes }
    }

    /// Index of the frame that `next` would give.
    pub(crate) fn next_index(&self) -> u64 {
        self.position.next_index
    }

    /// The next header and the first bytes of its payload, as many as `prefix_bytes` asks for. None at `end_byte`
    /// exactly. After an error the scanner stands before the bad frame.
    pub(crate) fn next(
        &mut self,
        prefix_bytes: &dyn Fn(&FrameHeader) -> usize,
    ) -> Result<Option<(FrameHeader, &[u8])>, ScanError> {
        while !self.position.is_at_end() {
            let mut header = [0; HEADER_BYTES];
            header.copy_from_slice(self.take(self.position.byte, HEADER_BYTES)?);
            let Some(ProvenHeader { header, link, .. }) = self.position.prove(&header)? else { continue };
            let prefix_bytes = prefix_bytes(&header).min(header.payload_bytes as usize);
            return self.pass(header, link, prefix_bytes).map(Some);
        }
        Ok(None)
    }

    fn pass(
        &mut self,
        header: FrameHeader,
        link: Link,
        prefix_bytes: usize,
    ) -> Result<(FrameHeader, &[u8]), ScanError> {
        let start = self.position.payload_byte();
        self.fill(start, prefix_bytes)?;
        self.position.pass(&header, link);
        // Frames of a log resemble each other: the next read takes what this frame needed, or a large window where
        // skipping would not pay.
        let gap = self.position.byte - (start + prefix_bytes as u64);
        let needed = (HEADER_BYTES + prefix_bytes).next_multiple_of(to_usize(PAGE_BYTES));
        self.read_bytes = if gap < SKIP_BYTES_MIN { WINDOW_BYTES } else { needed };
        let at = to_usize(start - self.window_byte);
        Ok((header, &self.window[at..at + prefix_bytes]))
    }

    fn take(&mut self, from: u64, length: usize) -> Result<&[u8], ScanError> {
        self.fill(from, length)?;
        let at = to_usize(from - self.window_byte);
        Ok(&self.window[at..at + length])
    }

    /// Makes the window hold `length` bytes from `from` on.
    fn fill(&mut self, from: u64, length: usize) -> Result<(), ScanError> {
        self.position.check_range(from, length)?;
        let window_end = self.window_byte + self.window.len() as u64;
        if self.window_byte <= from && from + length as u64 <= window_end {
            return Ok(());
        }
        let read_bytes = to_usize(self.position.end_byte - from).min(length.max(self.read_bytes));
        self.window.resize(read_bytes, 0);
        let filled = self.file.read_at(&mut self.window, from)?;
        self.window.truncate(filled);
        self.window_byte = from;
        if filled < length { Err(self.position.bad("frame cut short")) } else { Ok(()) }
    }
}

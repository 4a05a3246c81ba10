//! Reads the frames of a segment in order and believes none that is not proven: chained header, place in the
//! log, payload checksum.

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;
use fanfare_environment::{Bug, planted};

use crate::{
    codec::to_usize,
    error::{Fatal, ReadError},
    frame::{Frame, FrameHeader, HEADER_BYTES, Link, Payload},
    fs::File,
    segment::SegmentHeader,
    segment::index::{Entry, Extent, Placed},
    segment::scan_position::{ProvenHeader, ScanPosition},
};

const WINDOW_BYTES: usize = 256 * 1024;

pub(crate) enum ScanError {
    Io(io::Error),
    Bad { at: u64, what: &'static str },
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

pub(crate) struct Scanner {
    file: Arc<dyn File>,
    position: ScanPosition,
    window: Bytes,
    window_byte: u64,
}

impl Scanner {
    /// Frames from `start` up to `end_byte`.
    pub(crate) fn new(file: Arc<dyn File>, start: Entry, end_byte: u64) -> Self {
        let position = ScanPosition::new(start, end_byte);
        Self { file, position, window: Bytes::new(), window_byte: start.byte }
    }

    pub(crate) fn byte(&self) -> u64 {
        self.position.byte
    }

    pub(crate) fn link(&self) -> Link {
        self.position.link
    }

    /// Index of the frame that `next` would return.
    pub(crate) fn next_index(&self) -> u64 {
        self.position.next_index
    }

    /// None at `end_byte` exactly. After an error the scanner stands before the bad frame.
    pub(crate) fn next(&mut self) -> Result<Option<(Frame, Placed)>, ScanError> {
        self.next_if(|_| true)
    }

    /// As [`Self::next`]; also None before a frame that is not `wanted`, whose payload is not read then.
    pub(crate) fn next_if(
        &mut self,
        wanted: impl Fn(&FrameHeader) -> bool,
    ) -> Result<Option<(Frame, Placed)>, ScanError> {
        while !self.position.is_at_end() {
            let header = self.take(self.position.byte, HEADER_BYTES)?;
            let header: &[u8; HEADER_BYTES] =
                header.first_chunk().ok_or_else(|| self.position.bad("frame cut short"))?;
            let Some(proven) = self.position.prove(header)? else { continue };
            let ProvenHeader { header, payload_crc, link } = proven;
            if !wanted(&header) {
                return Ok(None);
            }
            let payload = self.take(self.position.payload_byte(), header.payload_bytes as usize)?;
            if crc32fast::hash(&payload) != payload_crc && !planted(Bug::TornTailServed) {
                return Err(self.position.bad("payload checksum differs"));
            }
            let ScanPosition { byte, link: before, .. } = self.position;
            let placed = Placed { header: header.clone(), byte, before, after: link };
            self.position.pass(&header, link);
            return Ok(Some((Frame { header, payload: Payload::new(vec![payload]) }, placed)));
        }
        Ok(None)
    }

    /// Pushes the frames up to `index`, or all up to the end where there is none, onto `extent`, which ends where the
    /// scanner stands.
    fn extend(mut self, mut extent: Extent, index: Option<u64>) -> Result<Extent, ScanError> {
        while index.is_none_or(|index| self.position.next_index <= index) {
            let Some((_, placed)) = self.next()? else { break };
            extent.push(&placed);
        }
        // An epoch mark may stand behind the last frame. It belongs to the extent of a whole segment.
        extent.end_byte = self.position.byte;
        extent.link = self.position.link;
        Ok(extent)
    }

    fn take(&mut self, from: u64, length: usize) -> Result<Bytes, ScanError> {
        self.position.check_range(from, length)?;
        let start = to_usize(from - self.window_byte);
        if let Some(end) = start.checked_add(length).filter(|end| *end <= self.window.len()) {
            return Ok(self.window.slice(start..end));
        }
        let wanted = to_usize(self.position.end_byte - from).min(length.max(WINDOW_BYTES));
        // A payload larger than the window begins in the one that its header was read with.
        let held = self.window.get(start..).unwrap_or_default();
        let mut window = vec![0; wanted];
        window[..held.len()].copy_from_slice(held);
        let filled = held.len() + self.file.read_at(&mut window[held.len()..], from + held.len() as u64)?;
        window.truncate(filled);
        self.window = Bytes::from(window);
        self.window_byte = from;
        if filled < length {
            return Err(self.position.bad("frame cut short"));
        }
        Ok(self.window.slice(..length))
    }
}

/// The frames up to `end_byte`, from the segment alone.
pub(crate) fn scan_extent(
    file: &Arc<dyn File>,
    header: &SegmentHeader,
    end_byte: u64,
) -> Result<Extent, ScanError> {
    let extent = Extent::empty(header);
    Scanner::new(file.clone(), extent.entries[0], end_byte).extend(extent, None)
}

/// The frames of `extent` up to `index`, which is one of them.
pub(crate) fn truncated_extent(
    file: &Arc<dyn File>,
    extent: &Extent,
    index: u64,
) -> Result<Extent, ScanError> {
    let before = extent.before_entry_of(index);
    let start = extent.entry_of_index(index);
    Scanner::new(file.clone(), start, extent.end_byte).extend(before, Some(index))
}

impl ScanError {
    pub(crate) fn fatal(&self, path: &Path) -> Fatal {
        match self {
            Self::Io(error) => Fatal::new("read", path, error),
            Self::Bad { at, what } => Fatal {
                operation: "read",
                path: path.display().to_string(),
                message: format!("corrupt at byte {at}: {what}"),
                disk_full: false,
                files_exhausted: false,
            },
        }
    }

    pub(crate) fn read_error(self, path: &Path) -> ReadError {
        let path = path.display().to_string();
        match self {
            Self::Io(error) => ReadError::Io { path, message: error.to_string() },
            Self::Bad { at, what } => ReadError::Corrupt { path, at, what: what.to_owned() },
        }
    }
}

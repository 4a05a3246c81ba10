//! Reads the frames of a segment in order and believes none that is not proven: chained header, place in the
//! log, payload checksum.
use std::{io, sync::Arc};

use bytes::Bytes;

use crate::{
    codec::to_usize,
    frame::{self, Frame, HEADER_BYTES, Link, Parsed, Payload},
    fs::File,
    segment::index::{Entry, Placed},
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
    end_byte: u64,
    byte: u64,
    link: Link,
    next_index: u64,
    next_offset: u64,
    window: Bytes,
    window_byte: u64,
}

impl Scanner {
    /// Frames from `start` up to `end_byte`.
    pub(crate) fn new(file: Arc<dyn File>, start: Entry, end_byte: u64) -> Self {
        Self {
            file,
            end_byte,
            byte: start.byte,
            link: start.link,
            next_index: start.index,
            next_offset: start.base_offset,
            window: Bytes::new(),
            window_byte: start.byte,
        }
    }

    pub(crate) fn byte(&self) -> u64 {
        self.byte
    }

    pub(crate) fn link(&self) -> Link {
        self.link
    }

    /// Of the frame that `next` would give.
    pub(crate) fn next_index(&self) -> u64 {
        self.next_index
    }

    /// None at `end_byte` exactly. After an error the scanner stands before the bad frame.
    pub(crate) fn next(&mut self) -> Result<Option<(Frame, Placed)>, ScanError> {
        while self.byte < self.end_byte {
            let header = self.take(self.byte, HEADER_BYTES)?;
            let header: &[u8; HEADER_BYTES] =
                header.first_chunk().ok_or_else(|| self.bad("frame cut short"))?;
            match frame::parse(header, self.link).map_err(|what| self.bad(what))? {
                Parsed::Epoch { link } => {
                    self.link = link;
                    self.byte += HEADER_BYTES as u64;
                }
                Parsed::Frame { header, payload_crc, link } => {
                    if header.position.index != self.next_index || header.base_offset != self.next_offset {
                        return Err(self.bad("frame does not continue the log"));
                    }
                    let payload =
                        self.take(self.byte + HEADER_BYTES as u64, header.payload_bytes as usize)?;
                    if crc32fast::hash(&payload) != payload_crc {
                        return Err(self.bad("payload checksum differs"));
                    }
                    let placed =
                        Placed { header: header.clone(), byte: self.byte, before: self.link, after: link };
                    self.byte += header.disk_bytes();
                    self.link = link;
                    self.next_index += 1;
                    self.next_offset = header.end_offset();
                    return Ok(Some((Frame { header, payload: Payload::new(vec![payload]) }, placed)));
                }
            }
        }
        Ok(None)
    }

    fn bad(&self, what: &'static str) -> ScanError {
        ScanError::Bad { at: self.byte, what }
    }

    fn take(&mut self, from: u64, length: usize) -> Result<Bytes, ScanError> {
        if from.checked_add(length as u64).is_none_or(|end| end > self.end_byte) {
            return Err(self.bad("frame cut short"));
        }
        let start = to_usize(from - self.window_byte);
        if let Some(end) = start.checked_add(length).filter(|end| *end <= self.window.len()) {
            return Ok(self.window.slice(start..end));
        }
        let wanted = to_usize(self.end_byte - from).min(length.max(WINDOW_BYTES));
        let mut window = vec![0; wanted];
        let filled = self.file.read_at(&mut window, from)?;
        window.truncate(filled);
        self.window = Bytes::from(window);
        self.window_byte = from;
        if filled < length {
            return Err(self.bad("frame cut short"));
        }
        Ok(self.window.slice(..length))
    }
}

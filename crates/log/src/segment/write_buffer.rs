//! Bytes on their way into one file: small parts are copied together, large ones are written from where they are.

use std::{io, io::IoSlice, ops::Range};

use bytes::Bytes;

use crate::fs::File;

/// From this length on, one more part of a write costs less than copying it.
const SHARED_BYTES_MIN: usize = 4096;
/// Less than a page is ever filled up.
const PADDING_BYTES_MAX: usize = 4096;
static ZEROS: [u8; PADDING_BYTES_MAX] = [0; PADDING_BYTES_MAX];

/// A round's frames of one log are handed to the kernel in pieces of about this size.
const FULL_BYTES: usize = 4 * 1024 * 1024;
/// Memory that the buffer holds between rounds. There is one buffer per data directory.
const KEPT_BYTES: usize = 2 * FULL_BYTES;

#[derive(Default)]
pub(crate) struct WriteBuffer {
    copied: Vec<u8>,
    parts: Vec<Part>,
    bytes: usize,
}

enum Part {
    /// A range of `copied`.
    Copied(Range<usize>),
    Shared(Bytes),
}

impl WriteBuffer {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= FULL_BYTES
    }

    pub(crate) fn copy(&mut self, bytes: &[u8]) {
        let start = self.copied.len();
        self.copied.extend_from_slice(bytes);
        self.bytes += bytes.len();
        match self.parts.last_mut() {
            Some(Part::Copied(range)) => range.end = self.copied.len(),
            _ => self.parts.push(Part::Copied(start..self.copied.len())),
        }
    }

    pub(crate) fn share(&mut self, part: &Bytes) {
        if part.len() < SHARED_BYTES_MIN {
            self.copy(part);
            return;
        }
        self.bytes += part.len();
        self.parts.push(Part::Shared(part.clone()));
    }

    /// Writes all parts from byte `start` on, and `padding` zeros, less than a page, behind them.
    pub(crate) fn write(&self, file: &dyn File, start: u64, padding: usize) -> io::Result<()> {
        let mut parts: Vec<IoSlice<'_>> =
            self.parts.iter().map(|part| IoSlice::new(self.part(part))).collect();
        if padding > 0 {
            parts.push(IoSlice::new(&ZEROS[..padding]));
        }
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        assert_eq!(bytes, self.bytes + padding, "invariant violation: the parts are not what was buffered");
        file.write_parts_at(&parts, start)
    }

    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes);
        self.parts.iter().for_each(|part| bytes.extend_from_slice(self.part(part)));
        bytes
    }

    pub(crate) fn clear(&mut self) {
        self.copied.clear();
        self.copied.shrink_to(KEPT_BYTES);
        self.parts.clear();
        self.bytes = 0;
    }

    fn part<'a>(&'a self, part: &'a Part) -> &'a [u8] {
        match part {
            Part::Copied(range) => &self.copied[range.clone()],
            Part::Shared(bytes) => bytes,
        }
    }
}

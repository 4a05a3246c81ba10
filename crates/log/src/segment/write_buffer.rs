//! Bytes on their way into one file: what is small is copied together, what is large goes as it is.
use std::{io, io::IoSlice, ops::Range};

use bytes::Bytes;

use crate::fs::File;

/// From here on one more part of a write costs less than copying it.
const SHARED_BYTES_MIN: usize = 4096;
/// Less than a page is ever filled up.
const PADDING_BYTES_MAX: usize = 4096;
static ZEROS: [u8; PADDING_BYTES_MAX] = [0; PADDING_BYTES_MAX];

#[derive(Default)]
pub(crate) struct Outgoing {
    copied: Vec<u8>,
    parts: Vec<Part>,
    bytes: usize,
}

enum Part {
    /// Of `copied`.
    Copied(Range<usize>),
    Shared(Bytes),
}

impl Outgoing {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
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

    /// Writes all, and `padding` zeros, less than a page, behind it.
    pub(crate) fn write(&self, file: &dyn File, at: u64, padding: usize) -> io::Result<()> {
        let mut parts: Vec<IoSlice<'_>> =
            self.parts.iter().map(|part| IoSlice::new(self.part(part))).collect();
        if padding > 0 {
            parts.push(IoSlice::new(&ZEROS[..padding]));
        }
        file.write_parts_at(&parts, at)
    }

    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes);
        self.parts.iter().for_each(|part| bytes.extend_from_slice(self.part(part)));
        bytes
    }

    /// Keeps at most `kept_bytes` of room.
    pub(crate) fn clear(&mut self, kept_bytes: usize) {
        self.copied.clear();
        self.copied.shrink_to(kept_bytes);
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

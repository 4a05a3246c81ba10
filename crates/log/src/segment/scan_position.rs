//! Where a scan of a segment stands, and the proof that a frame continues the log there.

use crate::{
    frame::{self, FrameHeader, HEADER_BYTES, Link, Parsed},
    segment::index::Entry,
    segment::scanner::ScanError,
};

/// The frames from here up to `end_byte` are still to be scanned.
pub(super) struct ScanPosition {
    pub(super) byte: u64,
    pub(super) end_byte: u64,
    pub(super) link: Link,
    pub(super) next_index: u64,
    pub(super) next_offset: u64,
}

/// The header of the frame at the position. The payload is not proven yet.
pub(super) struct ProvenHeader {
    pub(super) header: FrameHeader,
    pub(super) payload_crc: u32,
    /// Link that the header behind the frame continues.
    pub(super) link: Link,
}

impl ScanPosition {
    pub(super) fn new(start: Entry, end_byte: u64) -> Self {
        let Entry { index, base_offset, byte, link, .. } = start;
        Self { byte, end_byte, link, next_index: index, next_offset: base_offset }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.byte >= self.end_byte
    }

    pub(super) fn payload_byte(&self) -> u64 {
        self.byte + HEADER_BYTES as u64
    }

    /// Proves the header at the position: by the chain, by its place in the log, and by the end of the segment. None
    /// for an epoch mark, which the position has passed then.
    pub(super) fn prove(&mut self, header: &[u8; HEADER_BYTES]) -> Result<Option<ProvenHeader>, ScanError> {
        match frame::parse(header, self.link).map_err(|what| self.bad(what))? {
            Parsed::Epoch { link } => {
                self.link = link;
                self.byte += HEADER_BYTES as u64;
                Ok(None)
            }
            Parsed::Frame { header, payload_crc, link } => {
                // A chain proves the order within one segment; only this proves that nothing of the log is missing.
                if header.position.index != self.next_index || header.base_offset != self.next_offset {
                    return Err(self.bad("frame does not continue the log"));
                }
                if self.byte + header.disk_bytes() > self.end_byte {
                    return Err(self.bad("frame cut short"));
                }
                Ok(Some(ProvenHeader { header, payload_crc, link }))
            }
        }
    }

    /// Moves behind the frame.
    pub(super) fn pass(&mut self, header: &FrameHeader, link: Link) {
        self.byte += header.disk_bytes();
        self.link = link;
        self.next_index += 1;
        self.next_offset = header.end_offset();
        assert!(self.byte <= self.end_byte, "invariant violation: a scan passed the end of its segment");
    }

    /// An error unless `length` bytes from `from` on end within the segment.
    pub(super) fn check_range(&self, from: u64, length: usize) -> Result<(), ScanError> {
        let fits = from.checked_add(length as u64).is_some_and(|end| end <= self.end_byte);
        if fits { Ok(()) } else { Err(self.bad("frame cut short")) }
    }

    pub(super) fn bad(&self, what: &'static str) -> ScanError {
        ScanError::Bad { at: self.byte, what }
    }
}

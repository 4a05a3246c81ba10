//! One file of a log.
//!
//! A segment's name is durable before its header is written, and its header no later than its first frame. The header
//! names the byte of the older segment at which the log continues. So a segment with a successor was synced whole up to
//! that byte, and a segment that no successor leads back to is dead.
pub(crate) mod active;
pub(crate) mod header_scanner;
pub(crate) mod index;
pub(crate) mod number;
pub(crate) mod pool;
pub(crate) mod preallocated;
pub(crate) mod recovery;
pub(crate) mod roll;
mod scan_position;
pub(crate) mod scanner;
pub(crate) mod torn_tail;
pub(crate) mod write_buffer;
pub(crate) mod writer;

use std::{path::PathBuf, sync::Arc};

use fanfare_codec::{Malformed, Reader, Writer};

use crate::{
    frame::{Link, Position},
    fs::File,
    segment::index::Extent,
    segment::number::SegmentNumber,
    segment::scanner::ScanError,
};

/// The header has whole sectors of its own, so no write of frames can tear it.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 512;
const MAGIC: &[u8; 8] = b"FANFSEG\0";
const VERSION: u32 = 1;
const CHECKSUM_AT: usize = 12;

/// Where the segment before this one ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Predecessor {
    pub(crate) number: SegmentNumber,
    pub(crate) end_byte: u64,
    pub(crate) chain: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) number: SegmentNumber,
    pub(crate) nonce: u64,
    pub(crate) replica: u64,
    /// Checksum of the log's name.
    pub(crate) log: u32,
    pub(crate) first_index: u64,
    pub(crate) base_offset: u64,
    /// Position of the frame before the first one; None at the very start of a log.
    pub(crate) previous: Option<Position>,
    /// None if the log starts or starts anew here.
    pub(crate) predecessor: Option<Predecessor>,
}

/// True for a file made ahead of need, to which no header has been written.
pub(crate) fn is_unwritten(header: &[u8; SEGMENT_HEADER_BYTES]) -> bool {
    header.iter().all(|byte| *byte == 0)
}

pub(crate) enum HeaderError {
    Newer(u32),
    Bad(&'static str),
}

impl SegmentHeader {
    /// True if the segment belongs to this place of this log: a file of another log is never taken for one.
    pub(crate) fn is_of(&self, number: SegmentNumber, replica: u64, log: u32) -> bool {
        self.number == number && self.replica == replica && self.log == log
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(SEGMENT_HEADER_BYTES);
        out.bytes(MAGIC)
            .u32(VERSION)
            .u32(0)
            .u64(self.nonce)
            .u64(self.number.0)
            .u64(self.replica)
            .u32(self.log);
        // Absent values are written as zeros: the header has a fixed length, and flags tell them from real ones.
        let Position { term, leader, index } = self.previous.unwrap_or_default();
        out.u32(u32::from(self.previous.is_some())).u64(self.first_index).u64(self.base_offset);
        out.u64(term).u64(leader).u64(index);
        let before =
            self.predecessor.unwrap_or(Predecessor { number: SegmentNumber::NONE, end_byte: 0, chain: 0 });
        out.u64(before.number.0).u64(before.end_byte).u32(before.chain);
        let mut bytes = out.finish();
        bytes.resize(SEGMENT_HEADER_BYTES, 0);
        let checksum = checksum(&bytes);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Result<Self, HeaderError> {
        let mut fields = Reader::new(bytes, "segment header");
        if fields.array() != Ok(*MAGIC) {
            return Err(HeaderError::Bad("not a segment"));
        }
        let version = fields.u32().unwrap_or_default();
        let recorded = fields.u32();
        // A newer version may keep its checksum elsewhere; ours proves that the version is not just a flipped bit.
        if version == VERSION && recorded != Ok(checksum(bytes)) {
            return Err(HeaderError::Bad("segment header checksum differs"));
        }
        if version > VERSION {
            return Err(HeaderError::Newer(version));
        }
        read_fields(&mut fields)
            .ok()
            .filter(|_| version == VERSION)
            .ok_or(HeaderError::Bad("segment header is malformed"))
    }

    pub(crate) fn link(&self) -> Link {
        // Not zero, so that the first header's checksum differs from that of a bare nonce.
        Link { nonce: self.nonce, chain: self.log | 1 }
    }
}

fn read_fields(fields: &mut Reader<'_>) -> Result<SegmentHeader, Malformed> {
    let (nonce, number, replica) = (fields.u64()?, SegmentNumber(fields.u64()?), fields.u64()?);
    let (log, has_previous) = (fields.u32()?, fields.u32()?);
    let (first_index, base_offset) = (fields.u64()?, fields.u64()?);
    let previous = Position { term: fields.u64()?, leader: fields.u64()?, index: fields.u64()? };
    let before =
        Predecessor { number: SegmentNumber(fields.u64()?), end_byte: fields.u64()?, chain: fields.u32()? };
    Ok(SegmentHeader {
        number,
        nonce,
        replica,
        log,
        first_index,
        base_offset,
        previous: (has_previous == 1).then_some(previous),
        predecessor: (before.number != SegmentNumber::NONE).then_some(before),
    })
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CHECKSUM_AT]);
    hasher.update(&bytes[CHECKSUM_AT + 4..]);
    hasher.finalize()
}

/// A segment as readers know it: everything in `extent` is durable.
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    /// Length of the file when it was opened or became a segment.
    pub(crate) file_bytes: u64,
    pub(crate) extent: Extent,
    pub(crate) sealed: bool,
}

/// Which frames of a log a segment holds and what they are worth to retention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSpan {
    pub first_index: u64,
    pub last: Position,
    pub base_offset: u64,
    pub end_offset: u64,
    pub time_ms_max: u64,
    pub bytes: u64,
    pub sealed: bool,
}

/// A segment that is to lose its newest frames.
pub(crate) struct TruncationTarget {
    pub(crate) header: SegmentHeader,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    pub(crate) extent: Extent,
    pub(crate) is_newest: bool,
}

impl TruncationTarget {
    /// True if the log ends at this index already.
    pub(crate) fn ends_at(&self, index: Option<u64>) -> bool {
        self.is_newest && self.extent.last.map(|last| last.index) == index
    }

    /// The extent after the truncation. Reads the frames from the newest index entry below `index` on, not the whole
    /// segment.
    pub(crate) fn extent_up_to(&self, index: u64) -> Result<Extent, ScanError> {
        scanner::truncated_extent(&self.file, &self.extent, index)
    }
}

impl Segment {
    /// None as long as it holds no frame.
    pub(crate) fn span(&self) -> Option<SegmentSpan> {
        let last = self.extent.last?;
        Some(SegmentSpan {
            first_index: self.header.first_index,
            last,
            base_offset: self.header.base_offset,
            end_offset: self.extent.end_offset,
            time_ms_max: self.extent.time_ms_max,
            bytes: self.extent.end_byte,
            sealed: self.sealed,
        })
    }
}

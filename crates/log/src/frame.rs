//! One checksummed unit of a log and its bytes.
//!
//! A header of 64 bytes, then the payload. Each header's checksum continues that of the frame before and is seeded with
//! a nonce that is never used twice. So neither the earlier content of a recycled file nor truncated frames are ever
//! read as a continuation. A file that is continued after a restart first gets an epoch mark: a header without payload
//! that brings a fresh nonce.
use std::ops::Range;

use bytes::Bytes;
use fanfare_codec::{Malformed, Reader, Writer};

use crate::{codec::to_u32, segment::write_buffer::WriteBuffer};

pub(crate) const HEADER_BYTES: usize = 64;
const NONCE_TAG_AT: usize = 56;
const FLAG_FRAME: u8 = 0;
const FLAG_EPOCH: u8 = 1;

/// Identity of an entry: the term and leader that proposed it, and its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    pub term: u64,
    pub leader: u64,
    pub index: u64,
}

/// Bytes in one or more parts, kept as they arrived; concatenated on disk. Equality looks at the bytes alone.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    parts: Vec<Bytes>,
}

impl Payload {
    pub fn new(parts: Vec<Bytes>) -> Self {
        Self { parts }
    }

    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    pub fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shares memory if the range lies within one part, copies otherwise. Panics if out of range.
    pub fn slice(&self, range: Range<usize>) -> Bytes {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "slice {range:?} of {} bytes",
            self.len()
        );
        let mut start = 0;
        let mut copied = Vec::new();
        for part in &self.parts {
            let end = start + part.len();
            let from = range.start.clamp(start, end);
            let to = range.end.clamp(start, end);
            if from == range.start && to == range.end {
                return part.slice(from - start..to - start);
            }
            copied.extend_from_slice(&part[from - start..to - start]);
            start = end;
        }
        Bytes::from(copied)
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.parts.iter().flatten().eq(other.parts.iter().flatten())
    }
}
impl Eq for Payload {}

/// A frame as its caller appends it. The log does not interpret `kind`.
#[derive(Clone, Debug)]
pub struct NewFrame {
    pub kind: u8,
    pub position: Position,
    pub count: u32,
    pub time_ms: u64,
    pub payload: Payload,
}

/// Header of a stored frame: `base_offset` is the sum of the counts of all frames before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub kind: u8,
    pub position: Position,
    pub base_offset: u64,
    pub count: u32,
    pub time_ms: u64,
    pub payload_bytes: u32,
}

impl FrameHeader {
    /// Offset of the event behind the frame's last one. Saturates: a frame from a peer may claim any place, and is refused
    /// for it where it is appended or applied, with [`FrameHeader::has_offsets`].
    #[must_use]
    pub fn end_offset(&self) -> u64 {
        self.base_offset.saturating_add(u64::from(self.count))
    }

    /// True if there are as many offsets from the frame's first one on as the frame takes.
    #[must_use]
    pub fn has_offsets(&self) -> bool {
        self.base_offset.checked_add(u64::from(self.count)).is_some()
    }

    /// Header and payload on disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.payload_bytes)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub header: FrameHeader,
    pub payload: Payload,
}

/// Chain value that the checksum of the next header continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) nonce: u64,
    pub(crate) chain: u32,
}

impl Link {
    fn checksum(self, header: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.nonce.to_le_bytes());
        hasher.update(&self.chain.to_le_bytes());
        hasher.update(header);
        hasher.finalize()
    }

    fn nonce_tag(self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.nonce.to_le_bytes();
        [a, b, c, d]
    }
}

pub(crate) enum Parsed {
    Frame { header: FrameHeader, payload_crc: u32, link: Link },
    Epoch { link: Link },
}

/// Appends header and payload to `out`; returns what the next header continues.
pub(crate) fn encode(frame: &Frame, link: Link, out: &mut WriteBuffer) -> Link {
    let mut payload_crc = crc32fast::Hasher::new();
    for part in frame.payload.parts() {
        payload_crc.update(part);
    }
    let bytes = header_bytes(&frame.header, FLAG_FRAME, payload_crc.finalize());
    let next = seal_header(bytes, link, out);
    for part in frame.payload.parts() {
        out.share(part);
    }
    next
}

/// Appends an epoch mark: from here on the frames are sealed with `nonce`.
pub(crate) fn encode_epoch(nonce: u64, link: Link, out: &mut WriteBuffer) -> Link {
    let position = Position { term: nonce, leader: 0, index: 0 };
    let header = FrameHeader { kind: 0, position, base_offset: 0, count: 0, time_ms: 0, payload_bytes: 0 };
    // Sealed with the old nonce, so that a scan which comes from the frames before believes the new one.
    let next = seal_header(header_bytes(&header, FLAG_EPOCH, 0), link, out);
    Link { nonce, chain: next.chain }
}

fn header_bytes(header: &FrameHeader, flag: u8, payload_crc: u32) -> Vec<u8> {
    let Position { term, leader, index } = header.position;
    let mut out = Writer::with_capacity(HEADER_BYTES);
    out.u32(header.payload_bytes).bytes(&[header.kind, flag, 0, 0]);
    out.u64(term).u64(leader).u64(index).u64(header.base_offset);
    out.u32(header.count).u32(payload_crc).u64(header.time_ms);
    out.finish()
}

fn seal_header(mut bytes: Vec<u8>, link: Link, out: &mut WriteBuffer) -> Link {
    bytes.extend_from_slice(&link.nonce_tag());
    let chain = link.checksum(&bytes);
    bytes.extend_from_slice(&chain.to_le_bytes());
    out.copy(&bytes);
    Link { nonce: link.nonce, chain }
}

pub(crate) fn parse(bytes: &[u8; HEADER_BYTES], link: Link) -> Result<Parsed, &'static str> {
    let (sealed, chain) = bytes.split_last_chunk::<4>().ok_or("frame header cut short")?;
    let chain = u32::from_le_bytes(*chain);
    // The tag tells the usual end of a recycled file from damage; the checksum below proves the whole nonce.
    if sealed[NONCE_TAG_AT..] != link.nonce_tag() {
        return Err("frame of another segment or epoch");
    }
    if chain != link.checksum(sealed) {
        return Err("frame header checksum differs");
    }
    read_header(sealed, Link { nonce: link.nonce, chain }).map_err(|_| "frame header of an unknown kind")
}

/// A header that carries the nonce, whatever it continues; to be believed only with further proof.
pub(crate) fn parse_unlinked(bytes: &[u8], nonce: u64) -> Option<Parsed> {
    let (sealed, chain) = bytes.first_chunk::<HEADER_BYTES>()?.split_last_chunk::<4>()?;
    let link = Link { nonce, chain: u32::from_le_bytes(*chain) };
    if sealed[NONCE_TAG_AT..] != link.nonce_tag() {
        return None;
    }
    read_header(sealed, link).ok()
}

/// True if `bytes` hold what looks like a header that carries the nonce, whole or not.
pub(crate) fn holds_nonce(bytes: &[u8], nonce: u64) -> bool {
    let tag = Link { nonce, chain: 0 }.nonce_tag();
    bytes.get(NONCE_TAG_AT..).is_some_and(|tags| tags.windows(tag.len()).any(|found| found == tag))
}

fn read_header(sealed: &[u8], link: Link) -> Result<Parsed, Malformed> {
    const WHAT: &str = "frame header";
    let mut fields = Reader::new(sealed, WHAT);
    let payload_bytes = fields.u32()?;
    let [kind, flag, 0, 0] = fields.array::<4>()? else { return Err(Malformed(WHAT)) };
    let position = Position { term: fields.u64()?, leader: fields.u64()?, index: fields.u64()? };
    let base_offset = fields.u64()?;
    let (count, payload_crc, time_ms) = (fields.u32()?, fields.u32()?, fields.u64()?);
    match flag {
        FLAG_FRAME => {
            let header = FrameHeader { kind, position, base_offset, count, time_ms, payload_bytes };
            Ok(Parsed::Frame { header, payload_crc, link })
        }
        FLAG_EPOCH => Ok(Parsed::Epoch { link: Link { nonce: position.term, chain: link.chain } }),
        _ => Err(Malformed(WHAT)),
    }
}

/// Gives a new frame its place. Panics on a payload of 4 GiB, which admission rules out.
pub(crate) fn place(frame: NewFrame, base_offset: u64) -> Frame {
    let NewFrame { kind, position, count, time_ms, payload } = frame;
    let payload_bytes = to_u32(payload.len());
    Frame { header: FrameHeader { kind, position, base_offset, count, time_ms, payload_bytes }, payload }
}

//! The keys of a sealed segment, in a file beside it.
//!
//! ```text
//! magic 8 | version u32 | checksum u32 | length u64                          checksum: of header and directory
//! nonce u64 | segment number u64 | first index u64 | keys version u32 | frames u32 | postings u64
//! end: byte u64, offset u64, nonce u64, chain u32 | zero u32                 header, 96 bytes
//! per block of locations: base offset u64 | crc u32                          directory
//! per block of postings: key u64 | number u32 | crc u32
//! per frame: byte u64 | base offset u64 | nonce u64 | chain u32              locations, 144 in a block
//! per key and frame: key u64 | number u32                                    postings, ascending, 336 in a block
//! ```
//! Header and directory stay in memory while the file is in use; blocks are read and verified one at a time.
use std::{io, ops::Range, path::Path, sync::Arc};

use fanfare_codec::{Malformed, Reader, Writer};

use super::{FrameLocation, IndexKey, SegmentRef, draft::Posting, postings::Postings};
use crate::{
    codec::{to_u32, to_usize},
    frame::Link,
    fs::{File, FileSystem},
    segment::number::SegmentNumber,
};

const MAGIC: &[u8; 8] = b"FANFKEYS";
const VERSION: u32 = 2;
const CHECKSUM_AT: usize = 12;
const HEADER_BYTES: usize = 96;
const LOCATION_BYTES: usize = 28;
const LOCATIONS_PER_BLOCK: usize = 144;
const LOCATION_FENCE_BYTES: usize = 12;
const POSTING_BYTES: usize = 12;
const POSTINGS_PER_BLOCK: usize = 336;
const POSTING_FENCE_BYTES: usize = 16;

/// An index file without its blocks, which stay on disk.
pub(super) struct IndexFile {
    file: Arc<dyn File>,
    pub(super) segment: SegmentRef,
    postings: u64,
    location_fences: Vec<LocationFence>,
    posting_fences: Vec<PostingFence>,
}

/// A directory entry of one block of locations.
struct LocationFence {
    first_offset: u64,
    crc: u32,
}

/// A directory entry of one block of postings.
struct PostingFence {
    first: Posting,
    crc: u32,
}

/// One query of an index file. Remembers the last block of locations.
pub(super) struct IndexCursor<'a> {
    index: &'a IndexFile,
    locations: Option<LocationBlock>,
}

struct LocationBlock {
    number: usize,
    bytes: Vec<u8>,
}

/// `postings` are ascending; `locations` has one element for each frame of the segment.
pub(super) fn encode(
    segment: &SegmentRef,
    keys_version: u32,
    locations: &[FrameLocation],
    postings: &[Posting],
) -> Vec<u8> {
    assert_eq!(
        locations.len() as u64,
        segment.next_index - segment.first_index,
        "invariant violation: an index file has one location per frame"
    );
    let location_blocks: Vec<Vec<u8>> = locations.chunks(LOCATIONS_PER_BLOCK).map(encode_locations).collect();
    let posting_blocks: Vec<Vec<u8>> = postings.chunks(POSTINGS_PER_BLOCK).map(encode_postings).collect();
    let directory_bytes =
        location_blocks.len() * LOCATION_FENCE_BYTES + posting_blocks.len() * POSTING_FENCE_BYTES;
    let length =
        HEADER_BYTES + directory_bytes + locations.len() * LOCATION_BYTES + postings.len() * POSTING_BYTES;
    let mut out = Writer::with_capacity(length);
    out.bytes(MAGIC).u32(VERSION).u32(0).u64(length as u64);
    out.u64(segment.nonce).u64(segment.number.0).u64(segment.first_index);
    out.u32(keys_version).count(locations.len()).u64(postings.len() as u64);
    let FrameLocation { byte, base_offset, link } = segment.end;
    out.u64(byte).u64(base_offset).u64(link.nonce).u32(link.chain).u32(0);
    assert_eq!(out.len(), HEADER_BYTES, "invariant violation: length of an index file's header");
    for (first, block) in locations.chunks(LOCATIONS_PER_BLOCK).zip(&location_blocks) {
        out.u64(first[0].base_offset).u32(crc32fast::hash(block));
    }
    for (first, block) in postings.chunks(POSTINGS_PER_BLOCK).zip(&posting_blocks) {
        out.u64(first[0].key.0).u32(first[0].number).u32(crc32fast::hash(block));
    }
    let mut bytes = out.finish();
    let checksum = checksum(&bytes);
    bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
    for block in location_blocks.iter().chain(&posting_blocks) {
        bytes.extend_from_slice(block);
    }
    assert_eq!(bytes.len(), length, "invariant violation: length of an index file");
    bytes
}

fn encode_locations(locations: &[FrameLocation]) -> Vec<u8> {
    let mut out = Writer::with_capacity(locations.len() * LOCATION_BYTES);
    for FrameLocation { byte, base_offset, link } in locations {
        out.u64(*byte).u64(*base_offset).u64(link.nonce).u32(link.chain);
    }
    out.finish()
}

fn encode_postings(postings: &[Posting]) -> Vec<u8> {
    let mut out = Writer::with_capacity(postings.len() * POSTING_BYTES);
    for Posting { key, number } in postings {
        out.u64(key.0).u32(*number);
    }
    out.finish()
}

/// Covers header and directory, without the checksum itself.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CHECKSUM_AT]);
    hasher.update(&bytes[CHECKSUM_AT + 4..]);
    hasher.finalize()
}

impl IndexFile {
    /// None if there is no file, or the file describes another segment or other keys, or is damaged.
    pub(super) fn load(
        fs: &dyn FileSystem,
        path: &Path,
        segment: &SegmentRef,
        keys_version: u32,
    ) -> Option<Self> {
        let loaded = fs.open(path).and_then(|file| Self::read(file, segment, keys_version));
        loaded
            .inspect_err(|error| {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::debug!(path = %path.display(), %error, "ignored an unusable index file; it will be rebuilt");
                }
            })
            .ok()
    }

    fn read(file: Arc<dyn File>, segment: &SegmentRef, keys_version: u32) -> io::Result<Self> {
        let mut bytes = read_exactly(&*file, 0, HEADER_BYTES)?;
        let Header { length, checksum: recorded, frames, postings } =
            Header::decode(&bytes, segment, keys_version)?;
        if length != file.length()? || postings > length {
            return Err(damaged("length differs"));
        }
        let location_blocks = (frames as usize).div_ceil(LOCATIONS_PER_BLOCK);
        let posting_blocks = to_usize(postings).div_ceil(POSTINGS_PER_BLOCK);
        let directory_bytes = location_blocks * LOCATION_FENCE_BYTES + posting_blocks * POSTING_FENCE_BYTES;
        let blocks_bytes =
            u64::from(frames) * LOCATION_BYTES as u64 + postings.saturating_mul(POSTING_BYTES as u64);
        if length != (HEADER_BYTES + directory_bytes) as u64 + blocks_bytes {
            return Err(damaged("lengths differ"));
        }
        bytes.extend(read_exactly(&*file, HEADER_BYTES as u64, directory_bytes)?);
        if recorded != checksum(&bytes) {
            return Err(damaged("checksum differs"));
        }
        let mut directory = Reader::new(&bytes[HEADER_BYTES..], "directory of an index file");
        let mut location_fences = Vec::with_capacity(location_blocks);
        for _ in 0..location_blocks {
            let (first_offset, crc) =
                (directory.u64().map_err(io_error)?, directory.u32().map_err(io_error)?);
            location_fences.push(LocationFence { first_offset, crc });
        }
        let mut posting_fences = Vec::with_capacity(posting_blocks);
        for _ in 0..posting_blocks {
            let first = take_posting(&mut directory).map_err(io_error)?;
            posting_fences.push(PostingFence { first, crc: directory.u32().map_err(io_error)? });
        }
        Ok(Self { file, segment: *segment, postings, location_fences, posting_fences })
    }

    /// Memory that the directory takes.
    pub(super) fn directory_bytes(&self) -> u64 {
        (self.location_fences.len() * size_of::<LocationFence>()
            + self.posting_fences.len() * size_of::<PostingFence>()) as u64
    }

    pub(super) fn cursor(&self) -> IndexCursor<'_> {
        IndexCursor { index: self, locations: None }
    }

    fn frame_count(&self) -> usize {
        to_usize(self.segment.next_index - self.segment.first_index)
    }

    fn locations_at(&self) -> usize {
        HEADER_BYTES
            + self.location_fences.len() * LOCATION_FENCE_BYTES
            + self.posting_fences.len() * POSTING_FENCE_BYTES
    }

    fn location_block(&self, block: usize) -> io::Result<Vec<u8>> {
        let first = block * LOCATIONS_PER_BLOCK;
        let count = LOCATIONS_PER_BLOCK.min(self.frame_count() - first);
        let at = self.locations_at() + first * LOCATION_BYTES;
        self.block(at, count * LOCATION_BYTES, self.location_fences[block].crc)
    }

    fn posting_block(&self, block: usize) -> io::Result<Vec<Posting>> {
        let first = block * POSTINGS_PER_BLOCK;
        let count = POSTINGS_PER_BLOCK.min(to_usize(self.postings) - first);
        let at = self.locations_at() + self.frame_count() * LOCATION_BYTES + first * POSTING_BYTES;
        let bytes = self.block(at, count * POSTING_BYTES, self.posting_fences[block].crc)?;
        let mut fields = Reader::new(&bytes, "postings of an index file");
        (0..count).map(|_| take_posting(&mut fields)).collect::<Result<_, _>>().map_err(io_error)
    }

    fn block(&self, at: usize, length: usize, crc: u32) -> io::Result<Vec<u8>> {
        let bytes = read_exactly(&*self.file, at as u64, length)?;
        if crc32fast::hash(&bytes) == crc { Ok(bytes) } else { Err(damaged("block checksum differs")) }
    }

    /// The last block that begins at or below `posting`, or the first block.
    fn posting_block_with(&self, posting: Posting) -> usize {
        self.posting_fences.partition_point(|fence| fence.first <= posting).saturating_sub(1)
    }
}

/// The lengths that an index file's header tells.
struct Header {
    length: u64,
    checksum: u32,
    frames: u32,
    postings: u64,
}

impl Header {
    /// An error unless the header is one of `segment` and of this version of the keys.
    fn decode(bytes: &[u8], segment: &SegmentRef, keys_version: u32) -> io::Result<Self> {
        let mut fields = Reader::new(bytes, "header of an index file");
        if fields.array() != Ok(*MAGIC) || fields.u32() != Ok(VERSION) {
            return Err(damaged("not an index file of this version"));
        }
        let mut decode = || -> Result<(Self, SegmentRef, u32), Malformed> {
            let (checksum, length) = (fields.u32()?, fields.u64()?);
            let (nonce, number, first_index) = (fields.u64()?, SegmentNumber(fields.u64()?), fields.u64()?);
            let (recorded_version, frames, postings) = (fields.u32()?, fields.u32()?, fields.u64()?);
            let end = take_location(&mut fields)?;
            let next_index = first_index.saturating_add(u64::from(frames));
            let recorded = SegmentRef { number, nonce, first_index, next_index, end };
            Ok((Self { length, checksum, frames, postings }, recorded, recorded_version))
        };
        let (header, recorded, recorded_version) = decode().map_err(io_error)?;
        if recorded != *segment || recorded_version != keys_version {
            return Err(damaged("index of another segment or of other keys"));
        }
        Ok(header)
    }
}

fn take_location(fields: &mut Reader<'_>) -> Result<FrameLocation, Malformed> {
    let (byte, base_offset) = (fields.u64()?, fields.u64()?);
    Ok(FrameLocation { byte, base_offset, link: Link { nonce: fields.u64()?, chain: fields.u32()? } })
}

fn take_posting(fields: &mut Reader<'_>) -> Result<Posting, Malformed> {
    Ok(Posting { key: IndexKey(fields.u64()?), number: fields.u32()? })
}

fn io_error(error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn read_exactly(file: &dyn File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    if file.read_at(&mut bytes, at)? < length {
        return Err(damaged("cut short"));
    }
    Ok(bytes)
}

impl IndexCursor<'_> {
    fn locations(&mut self, number: usize) -> io::Result<&[u8]> {
        if self.locations.as_ref().is_none_or(|block| block.number != number) {
            self.locations = Some(LocationBlock { number, bytes: self.index.location_block(number)? });
        }
        Ok(self.locations.as_ref().map(|block| &block.bytes[..]).unwrap_or_default())
    }
}

impl Postings for IndexCursor<'_> {
    fn frames(&self) -> u32 {
        to_u32(self.index.frame_count())
    }

    fn location(&mut self, number: u32) -> io::Result<FrameLocation> {
        if number >= self.frames() {
            return Ok(self.index.segment.end);
        }
        let number = number as usize;
        let bytes = self.locations(number / LOCATIONS_PER_BLOCK)?;
        let start = number % LOCATIONS_PER_BLOCK * LOCATION_BYTES;
        let mut fields = Reader::new(bytes.get(start..).unwrap_or_default(), "locations of an index file");
        take_location(&mut fields).map_err(io_error)
    }

    fn numbers(&mut self, key: IndexKey, range: Range<u32>, max: usize) -> io::Result<Vec<u32>> {
        let (start, end) = (Posting { key, number: range.start }, Posting { key, number: range.end });
        let mut numbers = Vec::new();
        for block in self.index.posting_block_with(start)..self.index.posting_fences.len() {
            if self.index.posting_fences[block].first >= end {
                break;
            }
            let postings = self.index.posting_block(block)?;
            let from = postings.partition_point(|posting| *posting < start);
            let to = postings.partition_point(|posting| *posting < end);
            let more = postings[from..to.max(from)].iter().map(|posting| posting.number);
            numbers.extend(more.take(max - numbers.len()));
            if numbers.len() == max {
                break;
            }
        }
        Ok(numbers)
    }

    fn last_number(&mut self, key: IndexKey, range: Range<u32>) -> io::Result<Option<u32>> {
        let (start, end) = (Posting { key, number: range.start }, Posting { key, number: range.end });
        // The block that begins just below the end of the range holds the last posting below that end.
        let above = self.index.posting_fences.partition_point(|fence| fence.first < end);
        let Some(block) = above.checked_sub(1) else { return Ok(None) };
        let postings = self.index.posting_block(block)?;
        let below = postings.partition_point(|posting| *posting < end);
        let last = below.checked_sub(1).map(|at| postings[at]);
        Ok(last.filter(|posting| *posting >= start).map(|posting| posting.number))
    }

    fn number_of_offset(&mut self, offset: u64) -> io::Result<Option<u32>> {
        let above = self.index.location_fences.partition_point(|fence| fence.first_offset <= offset);
        let is_below_end = offset < self.index.segment.end.base_offset;
        let Some(block) = above.checked_sub(1).filter(|_| is_below_end) else { return Ok(None) };
        let bytes = self.locations(block)?;
        let mut offsets = Vec::with_capacity(LOCATIONS_PER_BLOCK);
        let mut fields = Reader::new(bytes, "locations of an index file");
        while fields.remaining() > 0 {
            offsets.push(take_location(&mut fields).map_err(io_error)?.base_offset);
        }
        let within = offsets.partition_point(|base_offset| *base_offset <= offset);
        Ok(within.checked_sub(1).map(|number| to_u32(block * LOCATIONS_PER_BLOCK + number)))
    }
}

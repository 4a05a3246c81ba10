//! The tags of a sealed segment, in a file beside it.
//!
//! ```text
//! magic 8 | version u32 | checksum u32 | length u64                          checksum: of header and directory
//! nonce u64 | sequence u64 | first index u64 | tagger version u32 | frames u32 | tags u64
//! end: byte u64, offset u64, nonce u64, chain u32 | zero u32                 header, 96 bytes
//! per block of places: base offset u64 | crc u32                             directory
//! per block of tags: tag u64 | number u32 | crc u32
//! per frame: byte u64 | base offset u64 | nonce u64 | chain u32              places, 144 in a block
//! per tag and frame: tag u64 | number u32                                    tags, ascending, 336 in a block
//! ```
//! Header and directory are held in memory while the file is in use; blocks are read and checked one at a time.
use std::{io, ops::Range, path::Path, sync::Arc};

use super::{Place, Postings, Subject};
use crate::{
    codec::{Fields, to_u32, to_usize},
    frame::Link,
    fs::{File, FileSystem},
};

const MAGIC: &[u8; 8] = b"FANFTAGS";
const VERSION: u32 = 1;
const CHECKSUM_AT: usize = 12;
const HEADER_BYTES: usize = 96;
const PLACE_BYTES: usize = 28;
const PLACES_PER_BLOCK: usize = 144;
const PLACE_FENCE_BYTES: usize = 12;
const TAG_BYTES: usize = 12;
const TAGS_PER_BLOCK: usize = 336;
const TAG_FENCE_BYTES: usize = 16;

/// Everything of a tag file but its blocks, which stay on disk.
pub(crate) struct TagIndex {
    file: Arc<dyn File>,
    pub(crate) subject: Subject,
    tags: u64,
    /// Base offset of each block's first place, and the block's checksum.
    place_fences: Vec<(u64, u32)>,
    /// Each block's first tag and number, and the block's checksum.
    tag_fences: Vec<((u64, u32), u32)>,
}

/// One look into a file; keeps the last block of places.
pub(crate) struct Cursor<'a> {
    index: &'a TagIndex,
    places: Option<(usize, Vec<u8>)>,
}

/// `tags` are ascending; there is one place for each frame of the segment.
pub(crate) fn encode(
    subject: &Subject,
    tagger_version: u32,
    places: &[Place],
    tags: &[(u64, u32)],
) -> Vec<u8> {
    let place_blocks: Vec<Vec<u8>> = places.chunks(PLACES_PER_BLOCK).map(encode_places).collect();
    let tag_blocks: Vec<Vec<u8>> = tags.chunks(TAGS_PER_BLOCK).map(encode_tags).collect();
    let directory_bytes = place_blocks.len() * PLACE_FENCE_BYTES + tag_blocks.len() * TAG_FENCE_BYTES;
    let length = HEADER_BYTES + directory_bytes + places.len() * PLACE_BYTES + tags.len() * TAG_BYTES;
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    for field in [length as u64, subject.nonce, subject.sequence, subject.first_index] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes.extend_from_slice(&tagger_version.to_le_bytes());
    bytes.extend_from_slice(&to_u32(places.len()).to_le_bytes());
    bytes.extend_from_slice(&(tags.len() as u64).to_le_bytes());
    let Place { byte, base_offset, link } = subject.end;
    for field in [byte, base_offset, link.nonce, link.chain.into()] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    debug_assert_eq!(bytes.len(), HEADER_BYTES);
    for (first, block) in places.chunks(PLACES_PER_BLOCK).zip(&place_blocks) {
        bytes.extend_from_slice(&first[0].base_offset.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(block).to_le_bytes());
    }
    for (first, block) in tags.chunks(TAGS_PER_BLOCK).zip(&tag_blocks) {
        let (tag, number) = first[0];
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(block).to_le_bytes());
    }
    let checksum = checksum(&bytes);
    bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
    for block in place_blocks.iter().chain(&tag_blocks) {
        bytes.extend_from_slice(block);
    }
    bytes
}

fn encode_places(places: &[Place]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(places.len() * PLACE_BYTES);
    for Place { byte, base_offset, link } in places {
        for field in [*byte, *base_offset, link.nonce] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&link.chain.to_le_bytes());
    }
    bytes
}

fn encode_tags(tags: &[(u64, u32)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(tags.len() * TAG_BYTES);
    for (tag, number) in tags {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes
}

/// Of header and directory without the checksum itself.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CHECKSUM_AT]);
    hasher.update(&bytes[CHECKSUM_AT + 4..]);
    hasher.finalize()
}

impl TagIndex {
    /// None if there is no file, or it is not one of `subject` by this version of the tagger, or it is damaged.
    pub(crate) fn load(
        fs: &dyn FileSystem,
        path: &Path,
        subject: &Subject,
        tagger_version: u32,
    ) -> Option<Self> {
        let loaded = fs.open(path).and_then(|file| Self::read(file, subject, tagger_version));
        loaded
            .inspect_err(|error| {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::debug!(path = %path.display(), %error, "pass over a tag index");
                }
            })
            .ok()
    }

    fn read(file: Arc<dyn File>, subject: &Subject, tagger_version: u32) -> io::Result<Self> {
        let header = exactly(&*file, 0, HEADER_BYTES)?;
        let mut fields = Fields::new(&header);
        let magic = fields.array() == Some(*MAGIC);
        let head = (|| Some((fields.u32()?, fields.u32()?, fields.u64()?)))();
        let (version, found, length) = head.ok_or_else(|| damaged("header cut short"))?;
        if !magic || version != VERSION || length != file.length()? {
            return Err(damaged("not a tag index of this version, whole"));
        }
        let (frames, tags) = decode_subject(&mut fields, subject, tagger_version)
            .filter(|(_, tags)| *tags <= length)
            .ok_or_else(|| damaged("of another segment"))?;
        let place_blocks = (frames as usize).div_ceil(PLACES_PER_BLOCK);
        let tag_blocks = to_usize(tags).div_ceil(TAGS_PER_BLOCK);
        let directory_bytes = place_blocks * PLACE_FENCE_BYTES + tag_blocks * TAG_FENCE_BYTES;
        let blocks_bytes = u64::from(frames) * PLACE_BYTES as u64 + tags.saturating_mul(TAG_BYTES as u64);
        if length != (HEADER_BYTES + directory_bytes) as u64 + blocks_bytes {
            return Err(damaged("lengths differ"));
        }
        let mut head = header;
        head.extend(exactly(&*file, HEADER_BYTES as u64, directory_bytes)?);
        if found != checksum(&head) {
            return Err(damaged("checksum differs"));
        }
        let mut fields = Fields::new(&head[HEADER_BYTES..]);
        let mut place_fence = || Some((fields.u64()?, fields.u32()?));
        let place_fences = (0..place_blocks).map_while(|_| place_fence()).collect();
        let mut tag_fence = || Some(((fields.u64()?, fields.u32()?), fields.u32()?));
        let tag_fences = (0..tag_blocks).map_while(|_| tag_fence()).collect();
        Ok(Self { file, subject: *subject, tags, place_fences, tag_fences })
    }

    /// Memory that it takes.
    pub(crate) fn size_bytes(&self) -> u64 {
        (self.place_fences.len() * size_of::<(u64, u32)>()
            + self.tag_fences.len() * size_of::<((u64, u32), u32)>()) as u64
    }

    pub(crate) fn cursor(&self) -> Cursor<'_> {
        Cursor { index: self, places: None }
    }

    fn frame_count(&self) -> usize {
        to_usize(self.subject.next_index - self.subject.first_index)
    }

    fn places_at(&self) -> usize {
        HEADER_BYTES + self.place_fences.len() * PLACE_FENCE_BYTES + self.tag_fences.len() * TAG_FENCE_BYTES
    }

    fn place_block(&self, block: usize) -> io::Result<Vec<u8>> {
        let first = block * PLACES_PER_BLOCK;
        let count = PLACES_PER_BLOCK.min(self.frame_count() - first);
        let at = self.places_at() + first * PLACE_BYTES;
        self.block(at, count * PLACE_BYTES, self.place_fences[block].1)
    }

    fn tag_block(&self, block: usize) -> io::Result<Vec<(u64, u32)>> {
        let first = block * TAGS_PER_BLOCK;
        let count = TAGS_PER_BLOCK.min(to_usize(self.tags) - first);
        let at = self.places_at() + self.frame_count() * PLACE_BYTES + first * TAG_BYTES;
        let bytes = self.block(at, count * TAG_BYTES, self.tag_fences[block].1)?;
        let mut fields = Fields::new(&bytes);
        Ok((0..count).map_while(|_| Some((fields.u64()?, fields.u32()?))).collect())
    }

    fn block(&self, at: usize, length: usize, crc: u32) -> io::Result<Vec<u8>> {
        let bytes = exactly(&*self.file, at as u64, length)?;
        if crc32fast::hash(&bytes) == crc { Ok(bytes) } else { Err(damaged("block checksum differs")) }
    }

    /// The last block that begins at or below `key`, or the first.
    fn tag_block_with(&self, key: (u64, u32)) -> usize {
        self.tag_fences.partition_point(|(first, _)| *first <= key).saturating_sub(1)
    }
}

/// Number of frames and of tags; None unless the fields are those of `subject`.
fn decode_subject(fields: &mut Fields<'_>, subject: &Subject, tagger_version: u32) -> Option<(u32, u64)> {
    let (nonce, sequence, first_index) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let (found_version, frames, tags) = (fields.u32()?, fields.u32()?, fields.u64()?);
    let (byte, base_offset) = (fields.u64()?, fields.u64()?);
    let link = Link { nonce: fields.u64()?, chain: fields.u32()? };
    let end = Place { byte, base_offset, link };
    let next_index = first_index.checked_add(u64::from(frames))?;
    let found = Subject { sequence, nonce, first_index, next_index, end };
    (found == *subject && found_version == tagger_version).then_some((frames, tags))
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn exactly(file: &dyn File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    if file.read_at(&mut bytes, at)? < length {
        return Err(damaged("cut short"));
    }
    Ok(bytes)
}

impl Cursor<'_> {
    fn places(&mut self, block: usize) -> io::Result<&[u8]> {
        if self.places.as_ref().is_none_or(|(kept, _)| *kept != block) {
            self.places = Some((block, self.index.place_block(block)?));
        }
        Ok(self.places.as_ref().map(|(_, bytes)| &bytes[..]).unwrap_or_default())
    }
}

impl Postings for Cursor<'_> {
    fn frames(&self) -> u32 {
        to_u32(self.index.frame_count())
    }

    fn place(&mut self, number: u32) -> io::Result<Place> {
        if number >= self.frames() {
            return Ok(self.index.subject.end);
        }
        let number = number as usize;
        let bytes = self.places(number / PLACES_PER_BLOCK)?;
        let mut fields = Fields::new(&bytes[number % PLACES_PER_BLOCK * PLACE_BYTES..]);
        let mut place = || {
            let (byte, base_offset) = (fields.u64()?, fields.u64()?);
            Some(Place { byte, base_offset, link: Link { nonce: fields.u64()?, chain: fields.u32()? } })
        };
        place().ok_or_else(|| damaged("places cut short"))
    }

    fn numbers(&mut self, tag: u64, range: Range<u32>, max: usize) -> io::Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for block in self.index.tag_block_with((tag, range.start))..self.index.tag_fences.len() {
            if self.index.tag_fences[block].0 >= (tag, range.end) {
                break;
            }
            let tags = self.index.tag_block(block)?;
            let start = tags.partition_point(|found| *found < (tag, range.start));
            let end = tags.partition_point(|found| *found < (tag, range.end));
            let more = tags[start..end.max(start)].iter().map(|(_, number)| *number);
            numbers.extend(more.take(max - numbers.len()));
            if numbers.len() == max {
                break;
            }
        }
        Ok(numbers)
    }

    fn last_number(&mut self, tag: u64, range: Range<u32>) -> io::Result<Option<u32>> {
        if self.index.tag_fences.first().is_none_or(|(first, _)| *first >= (tag, range.end)) {
            return Ok(None);
        }
        // The block that begins just below the end of the range holds the last entry below it.
        let above = self.index.tag_fences.partition_point(|(first, _)| *first < (tag, range.end));
        let tags = self.index.tag_block(above - 1)?;
        let end = tags.partition_point(|found| *found < (tag, range.end));
        let last = end.checked_sub(1).map(|at| tags[at]);
        Ok(last.filter(|found| *found >= (tag, range.start)).map(|(_, number)| number))
    }

    fn holding(&mut self, offset: u64) -> io::Result<Option<u32>> {
        let subject = self.index.subject;
        let above = self.index.place_fences.partition_point(|(first, _)| *first <= offset);
        let Some(block) = above.checked_sub(1).filter(|_| offset < subject.end.base_offset) else {
            return Ok(None);
        };
        let bytes = self.places(block)?;
        let base_of = |place: &[u8]| place.get(8..16).and_then(|field| Fields::new(field).u64());
        let places: Vec<u64> = bytes.chunks(PLACE_BYTES).map_while(base_of).collect();
        let within = places.partition_point(|base| *base <= offset);
        Ok(within.checked_sub(1).map(|number| to_u32(block * PLACES_PER_BLOCK + number)))
    }
}

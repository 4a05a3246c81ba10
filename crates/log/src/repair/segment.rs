//! One segment file, damaged or not: which of its frames prove themselves, and the same segment written anew with
//! fillers where they do not.
use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    codec::to_usize,
    frame::{self, Frame, FrameHeader, HEADER_BYTES, Link, Parsed, Payload, Position},
    segment::write_buffer::Outgoing,
    segment::{Predecessor, SEGMENT_HEADER_BYTES, SegmentHeader},
};

/// Up to where frames are looked for, and up to where they must be.
#[derive(Clone, Copy)]
pub(super) struct Expected {
    /// First index and offset of the next segment, if there is one.
    pub(super) next: Option<(u64, u64)>,
    /// No frames are looked for at or above it.
    pub(super) end_byte: u64,
    /// A bad frame below it is damage; at or above it, the end.
    pub(super) synced_byte: u64,
}

/// A frame that is there, or the header of one whose payload is lost.
pub(super) enum Found {
    Kept(Frame),
    Lost(FrameHeader),
}

/// What a segment file holds.
pub(super) struct Contents {
    pub(super) frames: Vec<Found>,
    /// Behind the last frame that was found.
    pub(super) byte: u64,
    pub(super) link: Link,
    pub(super) next_index: u64,
    pub(super) next_offset: u64,
    pub(super) time_ms: u64,
    /// The first thing that is wrong: where, and what.
    pub(super) damage: Option<(u64, &'static str)>,
}

impl Contents {
    /// Reads the frames of `bytes`, a whole segment file.
    pub(super) fn read(bytes: &Bytes, header: &SegmentHeader, expected: Expected) -> Self {
        let mut contents = Self {
            frames: Vec::new(),
            byte: SEGMENT_HEADER_BYTES as u64,
            link: header.link(),
            next_index: header.first_index,
            next_offset: header.base_offset,
            time_ms: 0,
            damage: None,
        };
        let end = to_usize(expected.end_byte.min(bytes.len() as u64));
        let bytes = bytes.slice(..end);
        while expected.next.is_none_or(|(next, _)| contents.next_index < next) {
            let Err(what) = contents.step(&bytes, expected.synced_byte) else { continue };
            if contents.byte >= expected.synced_byte {
                break;
            }
            contents.damage.get_or_insert((contents.byte, what));
            if !contents.resume(&bytes, expected) {
                break;
            }
        }
        contents
    }

    /// Goes on at the next place that proves itself without what is before it: a frame by the segment's nonce, its
    /// payload's checksum, and the header behind it, which continues it; an epoch mark by the segment's nonce and the
    /// frame behind it. What lies between is lost. What was never synced may be of an earlier run, so nothing goes on
    /// there.
    fn resume(&mut self, bytes: &Bytes, expected: Expected) -> bool {
        let damaged = to_usize(self.byte);
        let end = to_usize(expected.synced_byte.min(bytes.len() as u64));
        for start in damaged..end {
            let resumes = start > damaged && self.resume_at(bytes, start, expected);
            if resumes || self.resume_behind(bytes, start, expected) {
                return true;
            }
        }
        false
    }

    fn resume_at(&mut self, bytes: &Bytes, start: usize, expected: Expected) -> bool {
        let parsed = frame::parse_unlinked(&bytes[start..], self.link.nonce);
        let Some(Parsed::Frame { header, payload_crc, link }) = parsed else { return false };
        let index = header.position.index;
        let end = start + HEADER_BYTES + header.payload_bytes as usize;
        let payload = bytes.get(start + HEADER_BYTES..end);
        if !self.may_follow(&header, expected)
            || payload.is_none_or(|payload| crc32fast::hash(payload) != payload_crc)
        {
            return false;
        }
        let is_last =
            expected.next.is_some_and(|(next, _)| next == index + 1) || end as u64 >= expected.synced_byte;
        let behind = bytes.get(end..).and_then(<[u8]>::first_chunk);
        if !is_last && behind.is_none_or(|behind| frame::parse(behind, link).is_err())
            || self.lose_before(&header).is_err()
        {
            return false;
        }
        self.byte = end as u64;
        self.link = link;
        self.keep(header, bytes.slice(start + HEADER_BYTES..end));
        true
    }

    /// Behind an epoch mark at `start` and those that follow it at once.
    fn resume_behind(&mut self, bytes: &Bytes, start: usize, expected: Expected) -> bool {
        let parsed = frame::parse_unlinked(&bytes[start..], self.link.nonce);
        let Some(Parsed::Epoch { mut link }) = parsed else { return false };
        let mut at = start + HEADER_BYTES;
        while let Some(behind) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
            match frame::parse(behind, link) {
                Ok(Parsed::Epoch { link: next }) => (at, link) = (at + HEADER_BYTES, next),
                Ok(Parsed::Frame { header, .. }) => {
                    if !self.may_follow(&header, expected) || self.lose_before(&header).is_err() {
                        return false;
                    }
                    (self.byte, self.link) = (at as u64, link);
                    return true;
                }
                Err(_) => return false,
            }
        }
        false
    }

    /// Whether the frame may be the next one or, with others lost, a later one, and leaves the next segment its place.
    fn may_follow(&self, header: &FrameHeader, expected: Expected) -> bool {
        let (index, base_offset) = (header.position.index, header.base_offset);
        let Some(end_offset) = base_offset.checked_add(header.count.into()) else { return false };
        let fits = expected.next.is_none_or(|(next, next_offset)| {
            index < next && end_offset <= next_offset && (index + 1 < next || end_offset == next_offset)
        });
        let continues = index == self.next_index && base_offset == self.next_offset;
        fits && (continues || index > self.next_index && base_offset >= self.next_offset)
    }

    fn lose_before(&mut self, header: &FrameHeader) -> Result<(), &'static str> {
        let Position { index, .. } = header.position;
        self.lose_up_to(index, header.base_offset, &BTreeMap::from([(index, header.position)]))
    }

    /// An epoch mark may stand behind the last frame, and then the next segment continues that.
    pub(super) fn pass_epochs(&mut self, bytes: &Bytes, end_byte: u64) {
        while self.byte < end_byte {
            match self.header_at(bytes) {
                Ok(Parsed::Epoch { link }) => {
                    self.link = link;
                    self.byte += HEADER_BYTES as u64;
                }
                Ok(Parsed::Frame { .. }) | Err(_) => return,
            }
        }
    }

    fn header_at(&self, bytes: &Bytes) -> Result<Parsed, &'static str> {
        let rest = bytes.get(to_usize(self.byte)..).unwrap_or_default();
        frame::parse(rest.first_chunk().ok_or("frame cut short")?, self.link)
    }

    fn step(&mut self, bytes: &Bytes, synced_byte: u64) -> Result<(), &'static str> {
        let (header, payload_crc, link) = match self.header_at(bytes)? {
            Parsed::Epoch { link } => {
                self.link = link;
                self.byte += HEADER_BYTES as u64;
                return Ok(());
            }
            Parsed::Frame { header, payload_crc, link } => (header, payload_crc, link),
        };
        if header.position.index != self.next_index || header.base_offset != self.next_offset {
            return Err("frame does not continue the log");
        }
        let start = to_usize(self.byte) + HEADER_BYTES;
        let end = start + header.payload_bytes as usize;
        let payload = bytes.get(start..end).ok_or("frame cut short")?;
        let is_whole = crc32fast::hash(payload) == payload_crc;
        // Only what was synced is worth going on behind: a torn write ends the log.
        if !is_whole && self.byte >= synced_byte {
            return Err("payload checksum differs");
        }
        if !is_whole {
            self.damage.get_or_insert((self.byte, "payload checksum differs"));
        }
        self.byte = end as u64;
        self.link = link;
        if is_whole {
            self.keep(header, bytes.slice(start..end));
        } else {
            self.lose(header);
        }
        Ok(())
    }

    fn keep(&mut self, header: FrameHeader, payload: Bytes) {
        self.pass(&header);
        self.frames.push(Found::Kept(Frame { header, payload: Payload::new(vec![payload]) }));
    }

    fn lose(&mut self, header: FrameHeader) {
        self.pass(&header);
        self.frames.push(Found::Lost(header));
    }

    fn pass(&mut self, header: &FrameHeader) {
        self.next_index += 1;
        self.next_offset = header.end_offset();
        self.time_ms = self.time_ms.max(header.time_ms);
    }

    /// Takes up to `end_index` and `end_offset` for lost: their headers are gone, too. Entries get the positions that
    /// are `known`, or those of the newest known one before them.
    ///
    /// # Errors
    /// If so many entries cannot have held these offsets.
    pub(super) fn lose_up_to(
        &mut self,
        end_index: u64,
        end_offset: u64,
        known: &BTreeMap<u64, Position>,
    ) -> Result<(), &'static str> {
        let entries = end_index.saturating_sub(self.next_index);
        let most = entries.saturating_mul(u32::MAX.into());
        if end_offset.checked_sub(self.next_offset).is_none_or(|offsets| offsets > most) {
            return Err("its entries and what follows them do not fit together");
        }
        while self.next_index < end_index {
            let index = self.next_index;
            let newest = known.range(..=index).next_back().map(|(_, position)| *position);
            let before = self.frames.last().map(|found| found.header().position);
            let position = Position { index, ..newest.max(before).unwrap_or_default() };
            let count = u32::try_from(end_offset - self.next_offset).unwrap_or(u32::MAX);
            let header = FrameHeader {
                kind: 0,
                position,
                base_offset: self.next_offset,
                count,
                time_ms: self.time_ms,
                payload_bytes: 0,
            };
            self.lose(header);
        }
        Ok(())
    }

    /// A whole segment file of these frames, with a filler of this kind for each lost one.
    pub(super) fn rewrite(&self, header: &SegmentHeader, filler_kind: u8) -> (Vec<u8>, Link) {
        let mut out = Outgoing::default();
        out.copy(&header.encode());
        let mut link = header.link();
        for found in &self.frames {
            let filler;
            let frame = match found {
                Found::Kept(frame) => frame,
                Found::Lost(lost) => {
                    let header = FrameHeader { kind: filler_kind, payload_bytes: 0, ..lost.clone() };
                    filler = Frame { header, payload: Payload::default() };
                    &filler
                }
            };
            link = frame::encode(frame, link, &mut out);
        }
        (out.to_vec(), link)
    }

    pub(super) fn is_damaged(&self) -> bool {
        self.damage.is_some() || self.frames.iter().any(|found| matches!(found, Found::Lost(_)))
    }

    /// Where these frames end as they lie in the file.
    pub(super) fn end(&self, sequence: u64) -> Predecessor {
        Predecessor { sequence, end_byte: self.byte, chain: self.link.chain }
    }
}

impl Found {
    pub(super) fn header(&self) -> &FrameHeader {
        match self {
            Self::Kept(frame) => &frame.header,
            Self::Lost(header) => header,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: u64 = 77;

    fn frame(index: u64, base_offset: u64) -> Frame {
        let position = Position { index, ..Position::default() };
        let payload = Payload::new(vec![Bytes::from_static(b"payload")]);
        let header = FrameHeader { kind: 1, position, base_offset, count: 5, time_ms: 0, payload_bytes: 7 };
        Frame { header, payload }
    }

    /// Two frames, the first of them without a header.
    fn damaged() -> (Bytes, SegmentHeader) {
        let header = SegmentHeader {
            sequence: 1,
            nonce: NONCE,
            replica: 1,
            log: 1,
            first_index: 0,
            base_offset: 0,
            previous: None,
            predecessor: None,
        };
        let mut out = Outgoing::default();
        out.copy(&header.encode());
        let link = frame::encode(&frame(0, 0), header.link(), &mut out);
        frame::encode(&frame(1, 5), link, &mut out);
        let mut bytes = out.to_vec();
        bytes[SEGMENT_HEADER_BYTES] ^= 1;
        (Bytes::from(bytes), header)
    }

    #[test]
    fn a_frame_that_leaves_the_next_segment_no_place_is_no_frame() {
        let (bytes, header) = damaged();
        for (next_offset, next_index) in [(10, 2), (9, 2), (11, 2), (10, 1)] {
            let next = Some((next_index, next_offset));
            let contents =
                Contents::read(&bytes, &header, Expected { next, end_byte: u64::MAX, synced_byte: u64::MAX });
            let fits = (next_offset, next_index) == (10, 2);
            assert_eq!(contents.frames.len(), if fits { 2 } else { 0 }, "{next:?}");
        }
    }

    #[test]
    fn entries_that_cannot_have_held_the_offsets_are_refused() {
        let (bytes, header) = damaged();
        let next = Some((2, 10));
        let mut contents =
            Contents::read(&bytes, &header, Expected { next, end_byte: u64::MAX, synced_byte: u64::MAX });
        let most = u64::from(u32::MAX);
        for (end_index, end_offset) in [(3, 9), (2, 11), (3, 11 + most)] {
            assert!(contents.lose_up_to(end_index, end_offset, &BTreeMap::new()).is_err());
        }
        contents.lose_up_to(3, 10 + most, &BTreeMap::new()).expect("one entry can");
        assert_eq!((contents.next_index, contents.next_offset), (3, 10 + most));
    }
}

//! One segment file, damaged or not: the frames that prove themselves, and the same segment rewritten with fillers in
//! the place of all others.
use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    codec::to_usize,
    frame::{self, Frame, FrameHeader, HEADER_BYTES, Link, Parsed, Payload, Position},
    segment::number::SegmentNumber,
    segment::write_buffer::WriteBuffer,
    segment::{Predecessor, SEGMENT_HEADER_BYTES, SegmentHeader},
};

/// The range in which frames are looked for, and the range in which they must be.
#[derive(Clone, Copy)]
pub(super) struct ReadLimits {
    /// First index and offset of the next segment, if there is one.
    pub(super) next: Option<(u64, u64)>,
    /// No frame is looked for at or above this byte.
    pub(super) end_byte: u64,
    /// A bad frame below this byte is damage; at or above it, the end of the log.
    pub(super) synced_byte: u64,
}

/// One entry's place: the frame, or a header for the filler of a lost one.
pub(super) enum Slot {
    Intact(Frame),
    Lost(FrameHeader),
}

/// The entries of a segment file.
pub(super) struct SegmentContents {
    pub(super) slots: Vec<Slot>,
    /// Behind the last frame.
    pub(super) byte: u64,
    pub(super) link: Link,
    pub(super) next_index: u64,
    pub(super) next_offset: u64,
    pub(super) time_ms: u64,
    /// The first damage: byte and cause.
    pub(super) damage: Option<(u64, &'static str)>,
}

impl SegmentContents {
    /// Reads the frames of `bytes`, a whole segment file.
    pub(super) fn read(bytes: &Bytes, header: &SegmentHeader, limits: ReadLimits) -> Self {
        let mut contents = Self {
            slots: Vec::new(),
            byte: SEGMENT_HEADER_BYTES as u64,
            link: header.link(),
            next_index: header.first_index,
            next_offset: header.base_offset,
            time_ms: 0,
            damage: None,
        };
        let end = to_usize(limits.end_byte.min(bytes.len() as u64));
        let bytes = bytes.slice(..end);
        while limits.next.is_none_or(|(next, _)| contents.next_index < next) {
            let Err(what) = contents.step(&bytes, limits.synced_byte) else { continue };
            if contents.byte >= limits.synced_byte {
                break;
            }
            contents.damage.get_or_insert((contents.byte, what));
            if !contents.resume(&bytes, limits) {
                break;
            }
        }
        contents
    }

    /// Continues at the next place that proves itself without the bytes before: a frame by the segment's nonce, its
    /// payload's checksum and the header that continues it; an epoch mark by the segment's nonce and the frame behind
    /// it. Everything between is lost. Above the synced byte nothing is resumed: those bytes may be of an earlier run.
    fn resume(&mut self, bytes: &Bytes, limits: ReadLimits) -> bool {
        let damaged = to_usize(self.byte);
        let end = to_usize(limits.synced_byte.min(bytes.len() as u64));
        for start in damaged..end {
            let resumes = start > damaged && self.resume_at(bytes, start, limits);
            if resumes || self.resume_behind(bytes, start, limits) {
                return true;
            }
        }
        false
    }

    fn resume_at(&mut self, bytes: &Bytes, start: usize, limits: ReadLimits) -> bool {
        let parsed = frame::parse_unlinked(&bytes[start..], self.link.nonce);
        let Some(Parsed::Frame { header, payload_crc, link }) = parsed else { return false };
        let index = header.position.index;
        let end = start + HEADER_BYTES + header.payload_bytes as usize;
        let payload = bytes.get(start + HEADER_BYTES..end);
        if !self.may_follow(&header, limits)
            || payload.is_none_or(|payload| crc32fast::hash(payload) != payload_crc)
        {
            return false;
        }
        let is_last =
            limits.next.is_some_and(|(next, _)| next == index + 1) || end as u64 >= limits.synced_byte;
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

    /// Continues behind an epoch mark at `start` and the marks that follow it directly.
    fn resume_behind(&mut self, bytes: &Bytes, start: usize, limits: ReadLimits) -> bool {
        let parsed = frame::parse_unlinked(&bytes[start..], self.link.nonce);
        let Some(Parsed::Epoch { mut link }) = parsed else { return false };
        let mut at = start + HEADER_BYTES;
        while let Some(behind) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
            match frame::parse(behind, link) {
                Ok(Parsed::Epoch { link: next }) => (at, link) = (at + HEADER_BYTES, next),
                Ok(Parsed::Frame { header, .. }) => {
                    if !self.may_follow(&header, limits) || self.lose_before(&header).is_err() {
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

    /// True if the frame may be the next one or, with others lost, a later one, and fits before the next segment.
    fn may_follow(&self, header: &FrameHeader, limits: ReadLimits) -> bool {
        let (index, base_offset) = (header.position.index, header.base_offset);
        let Some(end_offset) = base_offset.checked_add(header.count.into()) else { return false };
        let fits = limits.next.is_none_or(|(next, next_offset)| {
            index < next && end_offset <= next_offset && (index + 1 < next || end_offset == next_offset)
        });
        let continues = index == self.next_index && base_offset == self.next_offset;
        fits && (continues || index > self.next_index && base_offset >= self.next_offset)
    }

    fn lose_before(&mut self, header: &FrameHeader) -> Result<(), &'static str> {
        let Position { index, .. } = header.position;
        self.lose_up_to(index, header.base_offset, &BTreeMap::from([(index, header.position)]))
    }

    /// Moves the end behind epoch marks after the last frame: the next segment continues the last of them.
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
        let is_intact = crc32fast::hash(payload) == payload_crc;
        // A bad payload above the synced byte is a torn write and ends the log; below, only this entry is lost.
        if !is_intact && self.byte >= synced_byte {
            return Err("payload checksum differs");
        }
        if !is_intact {
            self.damage.get_or_insert((self.byte, "payload checksum differs"));
        }
        self.byte = end as u64;
        self.link = link;
        if is_intact {
            self.keep(header, bytes.slice(start..end));
        } else {
            self.lose(header);
        }
        Ok(())
    }

    fn keep(&mut self, header: FrameHeader, payload: Bytes) {
        self.pass(&header);
        self.slots.push(Slot::Intact(Frame { header, payload: Payload::new(vec![payload]) }));
    }

    fn lose(&mut self, header: FrameHeader) {
        self.pass(&header);
        self.slots.push(Slot::Lost(header));
    }

    fn pass(&mut self, header: &FrameHeader) {
        self.next_index += 1;
        self.next_offset = header.end_offset();
        self.time_ms = self.time_ms.max(header.time_ms);
    }

    /// Counts all entries before `end_index` and `end_offset` as lost, headers included. Each gets its position of
    /// `positions`, or term and leader of the newest position before it.
    ///
    /// # Errors
    /// If so many entries cannot have held these offsets.
    pub(super) fn lose_up_to(
        &mut self,
        end_index: u64,
        end_offset: u64,
        positions: &BTreeMap<u64, Position>,
    ) -> Result<(), &'static str> {
        let entries = end_index.saturating_sub(self.next_index);
        let most = entries.saturating_mul(u32::MAX.into());
        if end_offset.checked_sub(self.next_offset).is_none_or(|offsets| offsets > most) {
            return Err("its entries and what follows them do not fit together");
        }
        while self.next_index < end_index {
            let index = self.next_index;
            let newest = positions.range(..=index).next_back().map(|(_, position)| *position);
            let before = self.slots.last().map(|slot| slot.header().position);
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

    /// The segment file rewritten, with a filler of `filler_kind` for each lost entry, and the link at its end.
    pub(super) fn rewrite(&self, header: &SegmentHeader, filler_kind: u8) -> (Vec<u8>, Link) {
        let mut out = WriteBuffer::default();
        out.copy(&header.encode());
        let mut link = header.link();
        for slot in &self.slots {
            let filler;
            let frame = match slot {
                Slot::Intact(frame) => frame,
                Slot::Lost(lost) => {
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
        self.damage.is_some() || self.slots.iter().any(|slot| matches!(slot, Slot::Lost(_)))
    }

    /// The segment's end in the file as it is.
    pub(super) fn end(&self, number: SegmentNumber) -> Predecessor {
        Predecessor { number, end_byte: self.byte, chain: self.link.chain }
    }
}

impl Slot {
    pub(super) fn header(&self) -> &FrameHeader {
        match self {
            Self::Intact(frame) => &frame.header,
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
            number: SegmentNumber::FIRST,
            nonce: NONCE,
            replica: 1,
            log: 1,
            first_index: 0,
            base_offset: 0,
            previous: None,
            predecessor: None,
        };
        let mut out = WriteBuffer::default();
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
            let contents = SegmentContents::read(
                &bytes,
                &header,
                ReadLimits { next, end_byte: u64::MAX, synced_byte: u64::MAX },
            );
            let fits = (next_offset, next_index) == (10, 2);
            assert_eq!(contents.slots.len(), if fits { 2 } else { 0 }, "{next:?}");
        }
    }

    #[test]
    fn entries_that_cannot_have_held_the_offsets_are_refused() {
        let (bytes, header) = damaged();
        let next = Some((2, 10));
        let mut contents = SegmentContents::read(
            &bytes,
            &header,
            ReadLimits { next, end_byte: u64::MAX, synced_byte: u64::MAX },
        );
        let most = u64::from(u32::MAX);
        for (end_index, end_offset) in [(3, 9), (2, 11), (3, 11 + most)] {
            assert!(contents.lose_up_to(end_index, end_offset, &BTreeMap::new()).is_err());
        }
        contents.lose_up_to(3, 10 + most, &BTreeMap::new()).expect("one entry can");
        assert_eq!((contents.next_index, contents.next_offset), (3, 10 + most));
    }
}

//! One segment file, damaged or not: which of its frames prove themselves, and the same segment written anew with
//! fillers where they do not.
use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    codec::to_usize,
    frame::{self, Frame, FrameHeader, HEADER_BYTES, Link, Parsed, Payload, Position},
    outgoing::Outgoing,
    segment::{Predecessor, SEGMENT_HEADER_BYTES, SegmentHeader},
};

/// Up to where frames are looked for, and up to where they must be.
#[derive(Clone, Copy)]
pub(super) struct Expected {
    /// First index of the next segment, if there is one.
    pub(super) next_index: Option<u64>,
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
        while expected.next_index.is_none_or(|next| contents.next_index < next) {
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

    /// Goes on at the next frame that proves itself without the one before: by the segment's nonce, its payload's
    /// checksum, and the header behind it, which continues it. What lies between is lost.
    fn resume(&mut self, bytes: &Bytes, expected: Expected) -> bool {
        let starts = to_usize(self.byte) + 1..bytes.len().saturating_sub(HEADER_BYTES);
        for start in starts {
            let Some((header, payload_crc, link)) = frame::parse_unlinked(&bytes[start..], self.link.nonce)
            else {
                continue;
            };
            let index = header.position.index;
            let continues = index == self.next_index && header.base_offset == self.next_offset;
            let is_next = (continues || index > self.next_index && header.base_offset >= self.next_offset)
                && expected.next_index.is_none_or(|next| index < next);
            let end = start + HEADER_BYTES + header.payload_bytes as usize;
            let payload = bytes.get(start + HEADER_BYTES..end);
            if !is_next || payload.is_none_or(|payload| crc32fast::hash(payload) != payload_crc) {
                continue;
            }
            let is_last = expected.next_index == Some(index + 1) || end as u64 >= expected.synced_byte;
            let behind = bytes.get(end..).and_then(<[u8]>::first_chunk);
            if is_last || behind.is_some_and(|behind| frame::parse(behind, link).is_ok()) {
                self.lose_up_to(index, header.base_offset, &BTreeMap::from([(index, header.position)]));
                self.byte = end as u64;
                self.link = link;
                self.keep(header, bytes.slice(start + HEADER_BYTES..end));
                return true;
            }
        }
        false
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
    pub(super) fn lose_up_to(&mut self, end_index: u64, end_offset: u64, known: &BTreeMap<u64, Position>) {
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
        assert_eq!(self.next_offset, end_offset, "each lost entry held less than 2^32 events");
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

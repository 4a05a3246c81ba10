//! The sparse index of a segment: one entry per 64 KiB or 256 frames.
//!
//! An index is in memory while its segment lives, and is written to a file when the segment is sealed. A missing or
//! damaged file is rebuilt from the segment.

use fanfare_codec::{Malformed, Reader, Writer};

use crate::{
    frame::{FrameHeader, Link, Position},
    journal::SyncMark,
    segment::{SEGMENT_HEADER_BYTES, SegmentHeader, number::SegmentNumber},
};

const ENTRY_SPACING_BYTES: u64 = 64 * 1024;
const ENTRY_SPACING_FRAMES: u64 = 256;
pub(crate) const INDEX_VERSION: u32 = 2;
const HEADER_BYTES: usize = 82;
const ENTRY_BYTES: usize = 44;

/// A frame from which a scan can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) index: u64,
    pub(crate) base_offset: u64,
    /// Greatest time of the segment's frames before this one.
    pub(crate) time_ms_before: u64,
    pub(crate) byte: u64,
    pub(crate) link: Link,
}

/// A frame with the place that it has on disk.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) header: FrameHeader,
    pub(crate) byte: u64,
    pub(crate) before: Link,
    pub(crate) after: Link,
}

/// Frames that a segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) end_byte: u64,
    pub(crate) link: Link,
    /// None while there is no frame.
    pub(crate) last: Option<Position>,
    pub(crate) end_offset: u64,
    pub(crate) time_ms_max: u64,
    /// Time of the oldest frame that holds events.
    pub(crate) first_event_ms: Option<u64>,
    pub(crate) entries: Vec<Entry>,
}

impl Extent {
    pub(crate) fn empty(header: &SegmentHeader) -> Self {
        let start = Entry {
            index: header.first_index,
            base_offset: header.base_offset,
            time_ms_before: 0,
            byte: SEGMENT_HEADER_BYTES as u64,
            link: header.link(),
        };
        Self {
            end_byte: start.byte,
            link: start.link,
            last: None,
            end_offset: start.base_offset,
            time_ms_max: 0,
            first_event_ms: None,
            entries: vec![start],
        }
    }

    pub(crate) fn push(&mut self, placed: &Placed) {
        let header = &placed.header;
        let newest = self.entries.last().expect("an extent starts with an entry");
        let next_index = self.last.map_or(newest.index, |last| last.index + 1);
        assert!(
            header.position.index == next_index && placed.byte >= self.end_byte,
            "invariant violation: frame {} at byte {} is pushed onto an extent that ends at frame {:?}, byte {}",
            header.position.index,
            placed.byte,
            self.last,
            self.end_byte
        );
        let far = placed.byte - newest.byte >= ENTRY_SPACING_BYTES
            || header.position.index - newest.index >= ENTRY_SPACING_FRAMES;
        if far {
            self.entries.push(Entry {
                index: header.position.index,
                base_offset: header.base_offset,
                time_ms_before: self.time_ms_max,
                byte: placed.byte,
                link: placed.before,
            });
        }
        self.end_byte = placed.byte + header.disk_bytes();
        self.link = placed.after;
        self.last = Some(header.position);
        self.end_offset = header.end_offset();
        self.time_ms_max = self.time_ms_max.max(header.time_ms);
        if header.count > 0 {
            self.first_event_ms = self.first_event_ms.or(Some(header.time_ms));
        }
    }

    /// The frames before the newest entry at or below `index`: a scan from there reads less than the spacing of two
    /// entries to reach `index`. `last` is for the scan to tell.
    pub(crate) fn before_entry_of(&self, index: u64) -> Self {
        let kept = self.entries.partition_point(|entry| entry.index <= index).max(1);
        let entry = self.entries[kept - 1];
        // The time of the oldest event is that of a kept frame only if an event lies before the entry.
        let has_events = entry.base_offset > self.entries[0].base_offset;
        Self {
            end_byte: entry.byte,
            link: entry.link,
            last: None,
            end_offset: entry.base_offset,
            time_ms_max: entry.time_ms_before,
            first_event_ms: self.first_event_ms.filter(|_| has_events),
            entries: self.entries[..kept].to_vec(),
        }
    }

    /// The synced end of the segment `number`, which ends as this extent does; None without a frame.
    pub(crate) fn mark(&self, number: SegmentNumber) -> Option<SyncMark> {
        let index = self.last?.index;
        Some(SyncMark { index, segment: number, byte: self.end_byte, end_offset: self.end_offset })
    }

    /// Index after the last frame.
    pub(crate) fn next_index(&self) -> u64 {
        self.last.map_or(self.entries[0].index, |last| last.index + 1)
    }

    pub(crate) fn entry_of_index(&self, index: u64) -> Entry {
        self.last_entry(|entry| entry.index <= index)
    }

    pub(crate) fn entry_of_offset(&self, offset: u64) -> Entry {
        self.last_entry(|entry| entry.base_offset <= offset)
    }

    pub(crate) fn entry_of_time(&self, time_ms: u64) -> Entry {
        self.last_entry(|entry| entry.time_ms_before < time_ms)
    }

    fn last_entry(&self, before: impl Fn(&Entry) -> bool) -> Entry {
        let above = self.entries.partition_point(before);
        self.entries[above.saturating_sub(1)]
    }

    pub(crate) fn encode(&self, header: &SegmentHeader) -> Vec<u8> {
        let mut out = Writer::with_capacity(HEADER_BYTES + self.entries.len() * ENTRY_BYTES);
        let last = self.last.unwrap_or_default();
        out.u64(header.nonce).u64(self.end_byte).u64(self.link.nonce).u32(self.link.chain);
        out.bool(self.last.is_some()).u64(last.term).u64(last.leader).u64(last.index);
        out.u64(self.end_offset).u64(self.time_ms_max);
        out.bool(self.first_event_ms.is_some()).u64(self.first_event_ms.unwrap_or_default());
        out.count(self.entries.len());
        for Entry { index, base_offset, time_ms_before, byte, link } in &self.entries {
            out.u64(*index).u64(*base_offset).u64(*time_ms_before).u64(*byte).u64(link.nonce).u32(link.chain);
        }
        out.finish()
    }

    /// None unless `bytes` are the whole index of the segment with this header.
    pub(crate) fn decode(bytes: &[u8], header: &SegmentHeader) -> Option<Self> {
        Self::read(bytes, header).ok().flatten()
    }

    fn read(bytes: &[u8], header: &SegmentHeader) -> Result<Option<Self>, Malformed> {
        let mut fields = Reader::new(bytes, "segment index");
        let nonce = fields.u64()?;
        let end_byte = fields.u64()?;
        let link = Link { nonce: fields.u64()?, chain: fields.u32()? };
        let has_last = fields.bool()?;
        let last = Position { term: fields.u64()?, leader: fields.u64()?, index: fields.u64()? };
        let (end_offset, time_ms_max) = (fields.u64()?, fields.u64()?);
        let (has_events, first_event_ms) = (fields.bool()?, fields.u64()?);
        let count = fields.count(ENTRY_BYTES)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(Entry {
                index: fields.u64()?,
                base_offset: fields.u64()?,
                time_ms_before: fields.u64()?,
                byte: fields.u64()?,
                link: Link { nonce: fields.u64()?, chain: fields.u32()? },
            });
        }
        fields.finish()?;
        let belongs = nonce == header.nonce && entries.first() == Self::empty(header).entries.first();
        let (last, first_event_ms) = (has_last.then_some(last), has_events.then_some(first_event_ms));
        Ok(belongs.then_some(Self { end_byte, link, last, end_offset, time_ms_max, first_event_ms, entries }))
    }
}

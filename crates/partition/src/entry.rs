//! The entry: all batches that were proposed for the partition together, in one frame of the log.
//!
//! ```text
//! version u16 | zero u16 | sections u32 | table crc u32                        entry head, 12 bytes
//! account 16 | shard epoch u32 | base delta u32 | count u32 | body length u32 | body crc u32      per section, 36 bytes
//! id hash 16 | key hash u64 | checksum u32 | length u32                        per event, 32 bytes
//! bodies, one after another: per event a varint length and the producer's bytes
//! ```
//! All numbers are little-endian. Sections lie in the order of their offsets; a section begins at the frame's base
//! offset plus its base delta. The frame's own checksum covers all of it; the section's is computed before the bytes
//! reach the log, so it also covers the way there. The table's checksum covers section heads and events' lines: a start
//! reads tables alone, which the frame's checksum does not prove.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use fanfare_codec::{Malformed, Reader};
use fanfare_log::{Frame, Payload};
use fanfare_model::{AccountId, EventIdHash, KeyHash, Offset, Timestamp};

use crate::{CodecError, RecordBatch, RecordHeader, StoredBatch};

/// Kind of the frames that hold an entry of batches.
pub(crate) const KIND: u8 = 1;
const VERSION: u16 = 2;
/// Name of the format in errors.
const FORMAT: &str = "entry";
const CUT_SHORT: CodecError = CodecError::Malformed(Malformed(FORMAT));
const HEAD_BYTES: usize = 12;
const TABLE_CRC_AT: usize = 8;
const SECTION_BYTES: usize = 36;
pub(crate) const RECORD_BYTES: usize = 32;
/// Neighbouring batches of one account share a section, at the price of one copy, while they are smaller than this:
/// below it the copy is cheaper than a section's head and a part of its own for every reader.
const MERGE_BYTES_MAX: usize = 16 << 10;

/// One section's head in the table: enough to skip the section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SectionHead {
    account: AccountId,
    shard_epoch: u32,
    base_delta: u32,
    count: u32,
    body_bytes: u32,
    crc: u32,
}

/// Gathers batches into one entry.
#[derive(Default)]
pub(crate) struct EntryBuilder {
    sections: Vec<Section>,
    size_bytes: usize,
    count: u32,
}

struct Section {
    account: AccountId,
    shard_epoch: u32,
    records: Vec<RecordHeader>,
    body: Body,
}

enum Body {
    Shared { body: Bytes, crc: u32 },
    Merged(BytesMut),
}

/// A finished entry, ready to be proposed.
pub(crate) struct BuiltEntry {
    pub(crate) payload: Payload,
    pub(crate) count: u32,
    /// The accounts and identities in it, in offset order.
    pub(crate) identities: Vec<(AccountId, Vec<RecordHeader>)>,
}

impl EntryBuilder {
    /// Bytes of the entry so far.
    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Events so far, which is the next batch's base delta.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Upper bound of the bytes that the batch adds to an entry.
    pub(crate) fn cost(batch: &RecordBatch) -> usize {
        SECTION_BYTES + batch.records.len() * RECORD_BYTES + batch.body.len()
    }

    pub(crate) fn push(&mut self, batch: RecordBatch) {
        assert!(!batch.is_empty(), "a section holds at least one event");
        let count =
            u32::try_from(batch.records.len()).expect("a batch is bounded in bytes, each event has some");
        self.count = self.count.checked_add(count).expect("an entry is bounded in bytes");
        self.size_bytes += Self::cost(&batch);
        if let Some(last) = self.sections.last_mut()
            && last.account == batch.account
            && last.shard_epoch == batch.shard_epoch
            && last.body.len() + batch.body.len() <= MERGE_BYTES_MAX
        {
            last.body.merge(&batch.body);
            last.records.extend_from_slice(&batch.records);
            return;
        }
        self.sections.push(Section {
            account: batch.account,
            shard_epoch: batch.shard_epoch,
            records: batch.records,
            body: Body::Shared { body: batch.body, crc: batch.crc },
        });
    }

    pub(crate) fn finish(self) -> BuiltEntry {
        let sections = self.sections.len();
        let mut table = BytesMut::with_capacity(
            HEAD_BYTES + sections * SECTION_BYTES + self.count as usize * RECORD_BYTES,
        );
        table.put_u16_le(VERSION);
        table.put_u16_le(0);
        table.put_u32_le(u32::try_from(sections).expect("an entry is bounded in bytes"));
        table.put_u32_le(0);
        let mut parts = Vec::with_capacity(1 + sections);
        parts.push(Bytes::new());
        let mut identities = Vec::with_capacity(sections);
        let mut base_delta = 0;
        for section in self.sections {
            let (body, crc) = section.body.finish();
            let count = u32::try_from(section.records.len()).expect("checked when it was pushed");
            table.put_slice(section.account.as_bytes());
            table.put_u32_le(section.shard_epoch);
            table.put_u32_le(base_delta);
            table.put_u32_le(count);
            table.put_u32_le(u32::try_from(body.len()).expect("an entry is bounded in bytes"));
            table.put_u32_le(crc);
            base_delta += count;
            parts.push(body);
            identities.push((section.account, section.records));
        }
        for record in identities.iter().flat_map(|(_, records)| records) {
            table.put_u128_le(record.id.0);
            table.put_u64_le(record.key.0);
            table.put_u32_le(record.checksum);
            table.put_u32_le(record.length);
        }
        let crc = crc32fast::hash(&table[HEAD_BYTES..]);
        table[TABLE_CRC_AT..HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
        parts[0] = table.freeze();
        BuiltEntry { payload: Payload::new(parts), count: self.count, identities }
    }
}

impl Body {
    fn len(&self) -> usize {
        match self {
            Self::Shared { body, .. } => body.len(),
            Self::Merged(body) => body.len(),
        }
    }

    fn merge(&mut self, more: &[u8]) {
        match self {
            Self::Shared { body, .. } => {
                let mut merged = BytesMut::with_capacity(MERGE_BYTES_MAX);
                merged.put_slice(body);
                merged.put_slice(more);
                *self = Self::Merged(merged);
            }
            Self::Merged(merged) => merged.put_slice(more),
        }
    }

    fn finish(self) -> (Bytes, u32) {
        match self {
            Self::Shared { body, crc } => (body, crc),
            Self::Merged(body) => {
                let crc = crc32fast::hash(&body);
                (body.freeze(), crc)
            }
        }
    }
}

/// An entry read back: its table is checked, its bodies are checked when they are read.
pub(crate) struct Entry<'a> {
    payload: &'a Payload,
    table: EntryTable,
}

/// The table of an entry: everything but the bodies.
pub(crate) struct EntryTable {
    heads: Vec<SectionHead>,
    lines: Bytes,
    bodies_at: usize,
}

/// One section's lines of the table.
pub(crate) struct SectionRecords<'a> {
    pub(crate) account: AccountId,
    pub(crate) base_delta: u32,
    pub(crate) body_bytes: u32,
    lines: &'a [u8],
}

impl EntryTable {
    /// First bytes of a payload that hold the table of `count` events, however many sections they are in.
    pub(crate) fn prefix_bytes_max(count: u32) -> usize {
        HEAD_BYTES + count as usize * (SECTION_BYTES + RECORD_BYTES)
    }

    /// Reads the table from the first bytes of a payload of `payload_bytes` and checks it against its own checksum: the
    /// rest of the frame has not been read.
    pub(crate) fn decode_prefix(prefix: &[u8], payload_bytes: u32, count: u32) -> Result<Self, CodecError> {
        let bytes = Bytes::copy_from_slice(prefix);
        let part = |range: Range<usize>| {
            if range.end <= bytes.len() { Ok(bytes.slice(range)) } else { Err(CUT_SHORT) }
        };
        let (table, crc) = Self::decode(part, payload_bytes as usize, count)?;
        if crc32fast::hash(&part(HEAD_BYTES..table.bodies_at)?) != crc {
            return Err(CodecError::Checksum);
        }
        Ok(table)
    }

    /// Reads and checks the table against `count` and the payload's size. Returns its checksum, too.
    fn decode(
        part: impl Fn(Range<usize>) -> Result<Bytes, CodecError>,
        size: usize,
        count: u32,
    ) -> Result<(Self, u32), CodecError> {
        let head = part(0..HEAD_BYTES)?;
        let mut head = Reader::new(&head, FORMAT);
        match head.u16()? {
            VERSION => {}
            version => return Err(CodecError::Version { what: "entry", version, known: VERSION }),
        }
        if head.u16()? != 0 {
            return Err(CodecError::Value("entry head"));
        }
        let sections = head.u32()? as usize;
        let crc = head.u32()?;
        let lines_at =
            sections.checked_mul(SECTION_BYTES).map(|bytes| bytes + HEAD_BYTES).ok_or(CUT_SHORT)?;
        let heads = part(HEAD_BYTES..lines_at)?;
        let heads = decode_heads(&heads, sections, count)?;
        let bodies_at = lines_at + count as usize * RECORD_BYTES;
        let lines = part(lines_at..bodies_at)?;
        let bodies: u64 = heads.iter().map(|head| u64::from(head.body_bytes)).sum();
        if bodies_at as u64 + bodies != size as u64 {
            return Err(CodecError::Value("body lengths"));
        }
        Ok((Self { heads, lines, bodies_at }, crc))
    }

    pub(crate) fn sections(&self) -> impl Iterator<Item = SectionRecords<'_>> {
        let mut rest = &self.lines[..];
        self.heads.iter().map(move |head| {
            let (lines, others) = rest.split_at(head.count as usize * RECORD_BYTES);
            rest = others;
            SectionRecords {
                account: head.account,
                base_delta: head.base_delta,
                body_bytes: head.body_bytes,
                lines,
            }
        })
    }
}

impl<'a> Entry<'a> {
    /// Reads and checks the table against `count` and the payload's size. The frame's checksum has proven the bytes.
    pub(crate) fn decode(payload: &'a Payload, count: u32) -> Result<Self, CodecError> {
        let size = payload.len();
        let part = |range: Range<usize>| {
            if range.end <= size { Ok(payload.slice(range)) } else { Err(CUT_SHORT) }
        };
        let (table, _) = EntryTable::decode(part, size, count)?;
        Ok(Self { payload, table })
    }

    pub(crate) fn table(&self) -> &EntryTable {
        &self.table
    }

    pub(crate) fn sections(&self) -> impl Iterator<Item = SectionRecords<'_>> {
        self.table.sections()
    }

    /// The batches of accounts for which `matches` is true, each checked against its section's checksum. Bodies of other
    /// accounts are not touched.
    pub(crate) fn batches(
        &self,
        base: Offset,
        append_time: Timestamp,
        matches: impl Fn(AccountId) -> bool,
    ) -> impl Iterator<Item = Result<StoredBatch, CodecError>> {
        let mut at = self.table.bodies_at;
        self.table.heads.iter().zip(self.sections()).filter_map(move |(head, section)| {
            let range = at..at + head.body_bytes as usize;
            at = range.end;
            if !matches(head.account) {
                return None;
            }
            let records: Vec<RecordHeader> = section.records().collect();
            if records.iter().map(|record| record.size_in_body() as u64).sum::<u64>()
                != u64::from(head.body_bytes)
            {
                return Some(Err(CodecError::Value("event lengths")));
            }
            let body = self.payload.slice(range);
            if crc32fast::hash(&body) != head.crc {
                return Some(Err(CodecError::Checksum));
            }
            Some(Ok(StoredBatch::new(
                head.account,
                base.plus(head.base_delta.into()),
                append_time,
                records,
                body,
            )))
        })
    }
}

impl SectionRecords<'_> {
    pub(crate) fn records(&self) -> impl ExactSizeIterator<Item = RecordHeader> {
        self.lines.as_chunks::<RECORD_BYTES>().0.iter().map(decode_record)
    }
}

/// The batches of `account` (None: of all) in a frame of [`KIND`].
pub(crate) fn stored_batches(
    frame: &Frame,
    account: Option<AccountId>,
) -> Result<Vec<StoredBatch>, CodecError> {
    let entry = Entry::decode(&frame.payload, frame.header.count)?;
    let matches = |owner| account.is_none_or(|account| account == owner);
    entry.batches(Offset(frame.header.base_offset), Timestamp(frame.header.time_ms), matches).collect()
}

fn decode_heads(bytes: &[u8], sections: usize, count: u32) -> Result<Vec<SectionHead>, CodecError> {
    let mut fields = Reader::new(bytes, FORMAT);
    let mut heads = Vec::with_capacity(sections);
    let mut delta = 0_u32;
    for _ in 0..sections {
        let head = SectionHead {
            account: AccountId::from_bytes(fields.array()?),
            shard_epoch: fields.u32()?,
            base_delta: fields.u32()?,
            count: fields.u32()?,
            body_bytes: fields.u32()?,
            crc: fields.u32()?,
        };
        if head.base_delta != delta || head.count == 0 {
            return Err(CodecError::Value("section counts"));
        }
        delta = delta.checked_add(head.count).ok_or(CodecError::Value("section counts"))?;
        heads.push(head);
    }
    if delta != count {
        return Err(CodecError::Value("section counts"));
    }
    Ok(heads)
}

fn decode_record(line: &[u8; RECORD_BYTES]) -> RecordHeader {
    let mut fields = Reader::new(line, FORMAT);
    let mut read = || -> Result<RecordHeader, Malformed> {
        Ok(RecordHeader {
            id: EventIdHash(fields.u128()?),
            key: KeyHash(fields.u64()?),
            checksum: fields.u32()?,
            length: fields.u32()?,
        })
    };
    read().expect("a line is as long as its fields")
}

#[cfg(test)]
mod tests;

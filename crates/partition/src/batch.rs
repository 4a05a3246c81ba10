//! Batches of events: as a producer's edge builds them, and as they are read back from the log.
//!
//! The producer's bytes are copied once, into the batch's body; from there on they are shared and never re-encoded.

use std::{ops::Range, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use fanfare_model::{AccountId, EventIdHash, KeyHash, Offset, Timestamp, body_checksum};

/// One event's line in a batch's header, computed by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    pub id: EventIdHash,
    pub key: KeyHash,
    /// [`fanfare_model::body_checksum`] of the event's bytes.
    pub checksum: u32,
    /// Bytes of the event alone, without the length before it.
    pub length: u32,
}

impl RecordHeader {
    /// Bytes of the event in a body: its length as a varint, and the event.
    pub(crate) fn size_in_body(&self) -> usize {
        varint_size(self.length) + self.length as usize
    }
}

/// Events of one account for one partition. Body: per event a varint length, then the producer's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordBatch {
    pub account: AccountId,
    pub shard_epoch: u32,
    pub(crate) records: Vec<RecordHeader>,
    pub(crate) body: Bytes,
    /// CRC-32 of the body.
    pub(crate) crc: u32,
}

/// Collects a batch.
#[derive(Debug)]
pub struct RecordBatchBuilder {
    account: AccountId,
    shard_epoch: u32,
    records: Vec<RecordHeader>,
    body: BytesMut,
}

impl RecordBatchBuilder {
    #[must_use]
    pub fn new(account: AccountId, shard_epoch: u32) -> Self {
        Self { account, shard_epoch, records: Vec::new(), body: BytesMut::new() }
    }

    /// Makes room for `events` more events of `size_bytes` in all.
    pub fn reserve(&mut self, events: usize, size_bytes: usize) {
        self.records.reserve(events);
        self.body.reserve(size_bytes + events * varint_size(u32::MAX));
    }

    /// Identity and key are computed by the caller once: [`fanfare_model::Event::id_hash`] and `key_hash`.
    ///
    /// # Panics
    /// If the event is 4 GiB or larger; edges refuse events far below that.
    pub fn push(&mut self, event: &[u8], id: EventIdHash, key: KeyHash) {
        let length = u32::try_from(event.len()).expect("edges bound the size of an event");
        self.records.push(RecordHeader { id, key, checksum: body_checksum(event), length });
        put_varint(&mut self.body, length);
        self.body.put_slice(event);
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.body.len()
    }

    #[must_use]
    pub fn finish(self) -> RecordBatch {
        let body = self.body.freeze();
        let crc = crc32fast::hash(&body);
        RecordBatch { account: self.account, shard_epoch: self.shard_epoch, records: self.records, body, crc }
    }
}

impl RecordBatch {
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.body.len()
    }

    /// The same batch without the events at the indexes `left_out` (ascending): header rebuilt, event bytes untouched.
    pub(crate) fn without(&self, left_out: &[u32]) -> Self {
        let mut left_out = left_out.iter().map(|&index| index as usize).peekable();
        let mut records = Vec::with_capacity(self.records.len());
        let mut body = BytesMut::with_capacity(self.body.len());
        let mut at = 0;
        for (index, record) in self.records.iter().enumerate() {
            let end = at + record.size_in_body();
            if left_out.next_if_eq(&index).is_none() {
                records.push(*record);
                body.put_slice(&self.body[at..end]);
            }
            at = end;
        }
        let body = body.freeze();
        let crc = crc32fast::hash(&body);
        Self { account: self.account, shard_epoch: self.shard_epoch, records, body, crc }
    }
}

/// Committed events of one account at consecutive offsets from `base`, as read from the log.
#[derive(Clone, Debug)]
pub struct StoredBatch {
    pub account: AccountId,
    pub base: Offset,
    pub append_time: Timestamp,
    records: Arc<[RecordHeader]>,
    /// Which of `records` are left after a cut; `body` holds those alone.
    range: Range<usize>,
    body: Bytes,
}

/// One committed event.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    pub offset: Offset,
    pub append_time: Timestamp,
    pub header: RecordHeader,
    /// Shares the batch's memory.
    pub bytes: Bytes,
}

impl StoredBatch {
    /// `body` must be exactly the events of `records`: the entry's decoder has checked it.
    pub(crate) fn new(
        account: AccountId,
        base: Offset,
        append_time: Timestamp,
        records: Vec<RecordHeader>,
        body: Bytes,
    ) -> Self {
        assert_eq!(records.iter().map(RecordHeader::size_in_body).sum::<usize>(), body.len());
        let range = 0..records.len();
        Self { account, base, append_time, records: records.into(), range, body }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Bytes of the events and the lengths between them.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.body.len()
    }

    #[must_use]
    pub fn end(&self) -> Offset {
        self.base.plus(self.range.len() as u64)
    }

    #[must_use]
    pub fn headers(&self) -> &[RecordHeader] {
        &self.records[self.range.clone()]
    }

    pub fn events(&self) -> impl Iterator<Item = StoredEvent> + '_ {
        let mut at = 0;
        self.headers().iter().enumerate().map(move |(index, header)| {
            let start = at + varint_size(header.length);
            at += header.size_in_body();
            StoredEvent {
                offset: self.base.plus(index as u64),
                append_time: self.append_time,
                header: *header,
                bytes: self.body.slice(start..at),
            }
        })
    }

    /// The events at or above `from`, sharing memory with the whole.
    pub(crate) fn cut_below(mut self, from: Offset) -> Self {
        let cut = usize::try_from(from.since(self.base)).unwrap_or(usize::MAX).min(self.len());
        let bytes: usize = self.headers()[..cut].iter().map(RecordHeader::size_in_body).sum();
        self.base = self.base.plus(cut as u64);
        self.range.start += cut;
        self.body = self.body.slice(bytes..);
        self
    }
}

fn varint_size(value: u32) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        0x1000_0000.. => 5,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
fn put_varint(body: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        body.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    body.put_u8(value as u8);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A batch of the texts, each its own id and, before a `:`, its key.
    pub(crate) fn batch(account: u8, events: &[&str]) -> RecordBatch {
        let mut builder = RecordBatchBuilder::new(AccountId::from_bytes([account; 16]), 0);
        for event in events {
            let key = event.split(':').next().expect("split yields at least one part");
            builder.push(event.as_bytes(), EventIdHash::of("/test", event), KeyHash::of(key));
        }
        builder.finish()
    }

    fn texts(batch: &StoredBatch) -> Vec<(u64, String)> {
        batch
            .events()
            .map(|event| (event.offset.0, String::from_utf8(event.bytes.to_vec()).expect("tests write text")))
            .collect()
    }

    #[test]
    fn removing_events_keeps_the_bytes_of_the_others() {
        let long = "x".repeat(70_000);
        let whole = batch(1, &["a", &long, "", "b", &"y".repeat(200)]);
        assert_eq!(whole.without(&[]), whole);
        assert_eq!(whole.without(&[1, 4]), batch(1, &["a", "", "b"]));
        assert_eq!(whole.without(&[0, 2, 3]), batch(1, &[&long, &"y".repeat(200)]));
        assert!(whole.without(&[0, 1, 2, 3, 4]).is_empty());
    }

    #[test]
    fn cut_batch_starts_at_the_cut_and_shares_memory() {
        let whole = batch(1, &["a", "bb", "ccc"]);
        let stored =
            StoredBatch::new(whole.account, Offset(10), Timestamp(7), whole.records.clone(), whole.body);
        assert_eq!(texts(&stored), [(10, "a".into()), (11, "bb".into()), (12, "ccc".into())]);
        assert_eq!(stored.end(), Offset(13));
        let cut = stored.clone().cut_below(Offset(11)).cut_below(Offset(12));
        assert_eq!(texts(&cut), [(12, "ccc".into())]);
        assert_eq!((cut.base, cut.end(), cut.len()), (Offset(12), Offset(13), 1));
        assert_eq!(stored.clone().cut_below(Offset(3)).len(), 3);
        assert!(stored.cut_below(Offset(13)).is_empty());
    }
}

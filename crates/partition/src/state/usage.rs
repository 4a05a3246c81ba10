//! Retained bytes by account: added when an entry is applied, removed when a trim has passed them.
//!
//! A trim names an offset, not bytes. Sections are therefore summed up in buckets of consecutive entries, and a bucket's
//! bytes are removed when all of it is trimmed: at most one bucket counts more than is retained. The bucket size is
//! part of the replicated state's definition and no option: all replicas must agree on it.

use std::collections::VecDeque;

use fanfare_codec::{Reader, Writer};
use fanfare_model::{AccountId, Offset, Stream};

use crate::{
    CodecError,
    entry::{Entry, RECORD_BYTES},
    quota::{AccountBytes, Usage},
};

/// A bucket takes no further entry when it holds this much. The events of a partition take many GiB, of many accounts.
fn bucket_bytes(stream: Stream) -> u64 {
    match stream {
        Stream::Events => 64 << 20,
        Stream::DeadLetters => 16 << 20,
    }
}

/// Bytes that events count for: their bodies and their lines of the table.
pub(crate) fn bytes_of(events: usize, body_bytes: usize) -> u64 {
    (events * RECORD_BYTES + body_bytes) as u64
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RetainedBytes {
    stream: Stream,
    /// Ascending by `end`.
    buckets: VecDeque<Bucket>,
    /// The sum of all buckets.
    sum: AccountBytes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Bucket {
    /// End of its last entry.
    end: Offset,
    bytes: AccountBytes,
}

impl RetainedBytes {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, buckets: VecDeque::new(), sum: AccountBytes::default() }
    }

    pub(super) fn stream(&self) -> Stream {
        self.stream
    }

    pub(super) fn usage(&self, account: AccountId) -> Usage {
        self.sum.usage(account)
    }

    /// Adds the events of an entry that ends at `end`.
    pub(super) fn add(&mut self, entry: &Entry<'_>, end: Offset) {
        let is_full = self.buckets.back().is_none_or(|last| last.bytes.total() >= bucket_bytes(self.stream));
        if is_full {
            self.buckets.push_back(Bucket::default());
        }
        let Some(bucket) = self.buckets.back_mut() else { return };
        bucket.end = end;
        for section in entry.sections() {
            let bytes = bytes_of(section.records().len(), section.body_bytes as usize);
            bucket.bytes.add(section.account, bytes);
            self.sum.add(section.account, bytes);
        }
    }

    /// Removes the buckets that end at or below `log_start`.
    pub(super) fn trim(&mut self, log_start: Offset) {
        while self.buckets.front().is_some_and(|bucket| bucket.end <= log_start)
            && let Some(bucket) = self.buckets.pop_front()
        {
            for (account, bytes) in bucket.bytes.iter() {
                self.sum.remove(account, bytes);
            }
        }
    }

    /// count u32, per bucket, ascending: end u64, count u32, per account, ascending: account 16, bytes u64
    pub(super) fn encode(&self, out: &mut Writer) {
        out.count(self.buckets.len());
        for bucket in &self.buckets {
            let accounts = bucket.bytes.iter();
            out.u64(bucket.end.0).count(accounts.len());
            for (account, bytes) in accounts {
                out.bytes(account.as_bytes()).u64(bytes);
            }
        }
    }

    pub(super) fn decode(fields: &mut Reader<'_>, stream: Stream) -> Result<Self, CodecError> {
        let mut retained = Self::new(stream);
        for _ in 0..fields.count(12)? {
            let end = Offset(fields.u64()?);
            if retained.buckets.back().is_some_and(|last| last.end >= end) {
                return Err(CodecError::Value("order of buckets"));
            }
            let mut bytes = AccountBytes::default();
            for _ in 0..fields.count(24)? {
                let (account, account_bytes) = (AccountId::from_bytes(fields.array()?), fields.u64()?);
                bytes.add(account, account_bytes);
                retained.sum.add(account, account_bytes);
            }
            retained.buckets.push_back(Bucket { end, bytes });
        }
        Ok(retained)
    }
}

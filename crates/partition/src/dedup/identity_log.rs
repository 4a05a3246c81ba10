//! One record per remembered event, in pages, found by the low half of its offset.

use std::collections::VecDeque;

use fanfare_model::{EventIdHash, Offset};

use super::hash_seed::{HashSeed, IdentityHash, halves};

const PAGE_RECORDS: usize = 1024;

/// The identity and body checksum of one event. 24 bytes: most of the window's memory.
#[derive(Clone, Copy, Default)]
pub(super) struct IdentityRecord {
    id: [u64; 2],
    account: u32,
    pub(super) checksum: u32,
}

impl IdentityRecord {
    pub(super) fn new(id: EventIdHash, account: u32, checksum: u32) -> Self {
        Self { id: halves(id.0), account, checksum }
    }

    pub(super) fn same_identity(&self, other: &Self) -> bool {
        self.id == other.id && self.account == other.account
    }

    pub(super) fn id(&self) -> [u64; 2] {
        self.id
    }

    pub(super) fn hash(&self, seed: HashSeed) -> IdentityHash {
        seed.hash(self.id, [self.account.into(), 0])
    }
}

/// The records of the offsets `start..end`, without gaps. `low` is the low half of an offset: fewer than 2^31 records
/// are kept, so it identifies one of them.
#[derive(Default)]
pub(super) struct IdentityLog {
    pages: VecDeque<Box<[IdentityRecord]>>,
    start: u64,
    end: u64,
}

impl IdentityLog {
    /// An empty log whose first record will be that of offset `start`.
    pub(super) fn from(start: Offset) -> Self {
        Self { pages: VecDeque::new(), start: start.0, end: start.0 }
    }

    pub(super) fn end(&self) -> Offset {
        Offset(self.end)
    }

    pub(super) fn push(&mut self, record: IdentityRecord) {
        let (page, at) = self.locate(self.end);
        if page == self.pages.len() {
            self.pages.push_back(vec![IdentityRecord::default(); PAGE_RECORDS].into());
        }
        self.pages[page][at] = record;
        self.end += 1;
    }

    /// The record at `low`, which must be one of `start..end`.
    pub(super) fn get(&self, low: u32) -> &IdentityRecord {
        let (page, at) = self.locate(self.offset(low).0);
        &self.pages[page][at]
    }

    pub(super) fn offset(&self, low: u32) -> Offset {
        Offset(self.start + u64::from(low.wrapping_sub(low_half(self.start))))
    }

    /// Records with the low halves of their offsets.
    pub(super) fn since(&self, first: Offset) -> impl Iterator<Item = (u32, &IdentityRecord)> {
        self.range(first.0, self.end)
    }

    /// Records with the low halves of their offsets.
    pub(super) fn oldest(&self, count: u32) -> impl Iterator<Item = (u32, &IdentityRecord)> {
        self.range(self.start, self.start + u64::from(count))
    }

    fn range(&self, start: u64, end: u64) -> impl Iterator<Item = (u32, &IdentityRecord)> {
        (start..end).map(|offset| {
            let (page, at) = self.locate(offset);
            (low_half(offset), &self.pages[page][at])
        })
    }

    pub(super) fn drop_oldest(&mut self, count: u32) {
        assert!(
            u64::from(count) <= self.end - self.start,
            "invariant violation: {count} identities are dropped from {}..{}",
            self.start,
            self.end
        );
        let (pages, _) = self.locate(self.start + u64::from(count));
        self.start += u64::from(count);
        self.pages.drain(..pages);
    }

    pub(super) fn len(&self) -> u64 {
        self.end - self.start
    }

    #[cfg(test)]
    pub(super) fn size_bytes(&self) -> usize {
        self.pages.len() * PAGE_RECORDS * size_of::<IdentityRecord>()
    }

    /// Index of the page, and of the record within it.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "fewer pages than records, and these are counted by 32 bits"
    )]
    fn locate(&self, offset: u64) -> (usize, usize) {
        let page_records = PAGE_RECORDS as u64;
        let page = offset / page_records - self.start / page_records;
        (page as usize, (offset % page_records) as usize)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half")]
fn low_half(offset: u64) -> u32 {
    offset as u32
}

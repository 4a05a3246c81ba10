//! The dedup window: recently committed event identities and their offsets.
//!
//! Derived from the section tables of the log alone and rebuilt from them at start; never part of a checkpoint, and
//! nothing replicated depends on it: only a leader asks it, before it proposes. So its hash tables may be seeded, and
//! its budget may differ between replicas. It forgets a whole section at a time, oldest first, when the section is older
//! than the window or the memory budget is used up. What the budget pushes out is retained for accounts that had little
//! of the window, so that a flood of one account makes nobody else's window short.
//!
//! Offsets are dense, so the window is one range of them: a record per event in pages, found by its offset, and tables
//! from an identity's hash to its offset.

mod hash_seed;
mod identity_log;
mod inflight_ids;
mod offset_table;
mod retained_ids;

use std::collections::{HashMap, VecDeque};

use fanfare_model::{AccountId, EventIdHash, Offset, Timestamp};

pub(crate) use self::{hash_seed::HashSeed, inflight_ids::InflightIds};
use self::{
    hash_seed::IdentityHash,
    identity_log::{IdentityLog, IdentityRecord},
    offset_table::OffsetTable,
    retained_ids::{RetainedIds, RetainedSection},
};
use crate::RecordHeader;

/// A table that grows moves all its slots at once; many small tables keep that pause short.
const TABLES: usize = 64;
/// Memory of one remembered identity: its record of 24 bytes, and slots of 8 in a table that is at least half
/// full.
const IDENTITY_BYTES: u64 = 40;
const SECTION_BYTES: u64 = 64;
/// Number of an account that has nothing in the window: sections, and so accounts, are fewer.
const NO_NUMBER: u32 = u32::MAX;
/// Tables hold 32 bits of an offset: enough to tell apart the identities remembered at one time.
const IDENTITIES_MAX: u64 = 1 << 31;

/// Offset of a committed event, and the checksum of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommittedEvent {
    pub(crate) offset: Offset,
    pub(crate) checksum: u32,
}

/// Age and memory up to which identities are remembered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DedupLimits {
    pub(crate) window_ms: u64,
    pub(crate) bytes_max: u64,
}

impl DedupLimits {
    /// Upper bound of the identities remembered at one time.
    pub(crate) fn identities_max(self) -> u64 {
        (self.bytes_max / IDENTITY_BYTES).min(IDENTITIES_MAX)
    }
}

pub(crate) struct DedupWindow {
    limits: DedupLimits,
    seed: HashSeed,
    /// The offset of each identity's newest event.
    tables: Vec<OffsetTable>,
    identities: IdentityLog,
    /// Hashes of the section at hand; kept for its allocation.
    hashes: Vec<IdentityHash>,
    account_numbers: HashMap<AccountId, u32>,
    /// By account number.
    accounts: Vec<Option<AccountInWindow>>,
    free_numbers: Vec<u32>,
    sections: VecDeque<Section>,
    bytes: u64,
    retained: RetainedIds,
    clock: SectionClock,
}

/// An account, and the number of its sections and identities in the window.
struct AccountInWindow {
    account: AccountId,
    sections: u64,
    identities: u64,
}

/// Time as sections pass it. A pause longer than the window may be a jump of the clock between two starts, so it counts
/// as a part of the window only: identities are remembered longer where events are rare, and never too short.
#[derive(Default)]
struct SectionClock {
    /// Everything appended at or after this time is remembered.
    complete_from: Timestamp,
    last_time: Timestamp,
    /// Sum of the pauses, as they count.
    age_ms: u64,
}

impl SectionClock {
    fn advance(&mut self, time: Timestamp, window_ms: u64) {
        let pause_ms = time.millis_since(self.last_time);
        self.age_ms += if pause_ms > window_ms { long_pause_ms(window_ms) } else { pause_ms };
        self.last_time = time;
    }
}

/// The part of a window that a pause longer than the window counts as.
pub(crate) const fn long_pause_ms(window_ms: u64) -> u64 {
    window_ms / LONG_PAUSES_MAX + 1
}

/// Pauses longer than the window that one window spans.
pub(crate) const LONG_PAUSES_MAX: u64 = 8;

struct Section {
    base: Offset,
    time: Timestamp,
    age_ms: u64,
    account: u32,
    count: u32,
}

impl DedupWindow {
    pub(crate) fn new(limits: DedupLimits, seed: HashSeed) -> Self {
        Self {
            limits,
            seed,
            tables: (0..TABLES).map(|_| OffsetTable::default()).collect(),
            identities: IdentityLog::default(),
            hashes: Vec::new(),
            account_numbers: HashMap::new(),
            accounts: Vec::new(),
            free_numbers: Vec::new(),
            sections: VecDeque::new(),
            bytes: 0,
            retained: RetainedIds::new(seed),
            clock: SectionClock::default(),
        }
    }

    /// Changes the memory budget from the next insert on.
    pub(crate) fn set_bytes_max(&mut self, bytes_max: u64) {
        self.limits.bytes_max = bytes_max;
    }

    /// Remembers a committed section. `base` is the end of the section before; times never fall.
    ///
    /// # Errors
    /// If `base` is not where the section before ended.
    pub(crate) fn insert(
        &mut self,
        account: AccountId,
        base: Offset,
        time: Timestamp,
        records: impl ExactSizeIterator<Item = RecordHeader>,
    ) -> Result<(), OffsetGap> {
        let count = u32::try_from(records.len()).expect("an entry is bounded in bytes");
        let bytes = section_bytes(count);
        let bytes_max = self.limits.bytes_max.min(IDENTITIES_MAX * IDENTITY_BYTES);
        if bytes > bytes_max {
            // The section would push out everything, itself included. A filler may stand for more events than memory
            // holds.
            let complete_from = after(time);
            let clock = SectionClock { complete_from, last_time: time, age_ms: 0 };
            *self = Self { clock, ..Self::new(self.limits, self.seed) };
            return Ok(());
        }
        if !self.sections.is_empty() && self.identities.end() != base {
            return Err(OffsetGap { expected: self.identities.end(), base });
        }
        // Forget before inserting, or a large section takes memory beside the sections it pushes out.
        self.bytes += bytes;
        self.clock.advance(time, self.limits.window_ms);
        self.forget(bytes_max);
        let account = self.retain_account(account, count);
        if self.sections.is_empty() {
            self.identities = IdentityLog::from(base);
        }
        let Self { identities, tables, seed, hashes, .. } = self;
        hashes.clear();
        for record in records {
            let record = IdentityRecord::new(record.id, account, record.checksum);
            hashes.push(record.hash(*seed));
            identities.push(record);
        }
        prefetch(tables, &*hashes);
        for (&hash, (low, record)) in hashes.iter().zip(identities.since(base)) {
            let is_same = |other| identities.get(other).same_identity(record);
            tables[table_of(hash)].insert(hash, low, is_same);
        }
        let age_ms = self.clock.age_ms;
        self.sections.push_back(Section { base, time, age_ms, account, count });
        Ok(())
    }

    pub(crate) fn account(&self, account: AccountId) -> Option<AccountWindow<'_>> {
        let number = self.account_numbers.get(&account).copied();
        let is_known = number.is_some() || self.retained.holds(account);
        is_known.then(|| AccountWindow { window: self, account, number: number.unwrap_or(NO_NUMBER) })
    }

    /// First offset of the window as of `now`; None if the window is empty then. A log that starts at or below it can
    /// rebuild the window.
    pub(crate) fn first_offset(&self, now: Timestamp) -> Option<Offset> {
        let first =
            self.sections.partition_point(|section| now.millis_since(section.time) > self.limits.window_ms);
        self.sections.get(first).map(|section| section.base)
    }

    /// Length of the window in milliseconds, if the budget makes it shorter than configured.
    pub(crate) fn shortened_ms(&self) -> Option<u64> {
        let length_ms = self.clock.last_time.millis_since(self.clock.complete_from);
        (self.clock.complete_from > Timestamp(0) && length_ms < self.limits.window_ms).then_some(length_ms)
    }

    /// Drops the oldest sections that are too old, or that do not fit into `bytes_max`.
    fn forget(&mut self, bytes_max: u64) {
        if !self.retained.is_empty() {
            self.retained.forget(self.clock.age_ms, self.limits.window_ms);
        }
        while let Some(oldest) = self.sections.front() {
            let expired = self.clock.age_ms - oldest.age_ms > self.limits.window_ms;
            if !expired && self.bytes + self.retained.bytes() <= bytes_max {
                return;
            }
            let Section { base, time, age_ms, account, count } = *oldest;
            if !expired && self.is_to_retain(account, count, bytes_max / 2) {
                let ids = self.identities.oldest(count).map(|(_, record)| record.id()).collect();
                let checksums = self.identities.oldest(count).map(|(_, record)| record.checksum);
                let section = RetainedSection { account: self.account_of(account), base, age_ms, ids };
                self.retained.add(section, checksums);
            }
            self.sections.pop_front();
            // Other sections of the same millisecond may remain, but not all of them.
            self.clock.complete_from = after(time);
            self.bytes -= section_bytes(count);
            let Self { identities, tables, seed, hashes, .. } = self;
            hashes.clear();
            hashes.extend(identities.oldest(count).map(|(_, record)| record.hash(*seed)));
            prefetch(tables, &*hashes);
            for (&hash, (low, _)) in hashes.iter().zip(identities.oldest(count)) {
                // An identity that was committed again is in the table at its later offset, which stays.
                tables[table_of(hash)].remove(hash, low);
            }
            self.identities.drop_oldest(count);
            self.release_account(account, count);
        }
    }

    /// True if the account has less than half of what accounts have of the window on average, and room to retain.
    fn is_to_retain(&self, account: u32, count: u32, bytes_max: u64) -> bool {
        let accounts = self.account_numbers.len() as u64;
        let own = self.accounts[account as usize].as_ref().map_or(0, |account| account.identities);
        own.saturating_mul(2 * accounts) < self.identities.len()
            && self.retained.has_room(self.account_of(account), count, accounts, bytes_max)
    }

    fn account_of(&self, number: u32) -> AccountId {
        let account = self.accounts[number as usize].as_ref();
        account.expect("invariant violation: a section's account has no number").account
    }

    /// The account's number, with one section of `count` identities more.
    fn retain_account(&mut self, account: AccountId, count: u32) -> u32 {
        if let Some(&number) = self.account_numbers.get(&account) {
            let slot = self.accounts[number as usize].as_mut();
            let slot = slot.expect("invariant violation: an account's number is not its own");
            slot.sections += 1;
            slot.identities += u64::from(count);
            return number;
        }
        let number = self.free_numbers.pop().unwrap_or_else(|| {
            self.accounts.push(None);
            u32::try_from(self.accounts.len() - 1)
                .expect("the budget bounds the sections, each has one account")
        });
        let identities = u64::from(count);
        self.accounts[number as usize] = Some(AccountInWindow { account, sections: 1, identities });
        self.account_numbers.insert(account, number);
        number
    }

    /// Takes one section from the account; the last one frees its number.
    fn release_account(&mut self, number: u32, count: u32) {
        let slot = &mut self.accounts[number as usize];
        let in_window = slot.as_mut().expect("invariant violation: a section's account has no number");
        in_window.sections -= 1;
        in_window.identities -= u64::from(count);
        if in_window.sections == 0 {
            self.account_numbers.remove(&in_window.account);
            *slot = None;
            self.free_numbers.push(number);
        }
    }
}

/// A section that does not begin where the one before it ended: entries are missing between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an entry begins at offset {base} instead of {expected}")]
pub(crate) struct OffsetGap {
    pub(crate) expected: Offset,
    pub(crate) base: Offset,
}

/// The window's identities of one account.
pub(crate) struct AccountWindow<'a> {
    window: &'a DedupWindow,
    account: AccountId,
    number: u32,
}

impl AccountWindow<'_> {
    pub(crate) fn get(&self, id: EventIdHash) -> Option<CommittedEvent> {
        let identity = IdentityRecord::new(id, self.number, 0);
        self.find(&identity, identity.hash(self.window.seed))
    }

    /// The remembered ones among `ids`, with their indexes.
    pub(crate) fn get_all(&self, ids: impl Iterator<Item = EventIdHash>) -> Vec<(u32, CommittedEvent)> {
        let identities: Vec<_> = ids
            .map(|id| IdentityRecord::new(id, self.number, 0))
            .map(|identity| (identity.hash(self.window.seed), identity))
            .collect();
        prefetch(&self.window.tables, identities.iter().map(|(hash, _)| hash));
        let numbered = (0_u32..).zip(&identities);
        numbered.filter_map(|(index, (hash, identity))| Some((index, self.find(identity, *hash)?))).collect()
    }

    fn find(&self, identity: &IdentityRecord, hash: IdentityHash) -> Option<CommittedEvent> {
        let DedupWindow { identities, tables, retained, .. } = self.window;
        let low = tables[table_of(hash)].get(hash, |other| identities.get(other).same_identity(identity));
        let Some(low) = low else {
            return if retained.is_empty() { None } else { retained.get(self.account, identity.id()) };
        };
        Some(CommittedEvent { offset: identities.offset(low), checksum: identities.get(low).checksum })
    }
}

/// Brings the first slots of all `hashes` into the processor's cache. The tables are larger than the cache: looked up
/// one after the other, each identity would wait for memory by itself; like this they wait together.
fn prefetch<'hash>(tables: &[OffsetTable], hashes: impl IntoIterator<Item = &'hash IdentityHash>) {
    let tags = hashes.into_iter().fold(0, |tags, &hash| tags ^ tables[table_of(hash)].home_tag(hash));
    std::hint::black_box(tags);
}

/// The next millisecond. Saturates: a time comes from the clock of a leader, which may say anything.
fn after(time: Timestamp) -> Timestamp {
    Timestamp(time.0.saturating_add(1))
}

fn section_bytes(count: u32) -> u64 {
    SECTION_BYTES + u64::from(count) * IDENTITY_BYTES
}

fn table_of(hash: IdentityHash) -> usize {
    hash.high() as usize % TABLES
}

#[cfg(test)]
mod tests;

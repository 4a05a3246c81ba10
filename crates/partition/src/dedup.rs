//! The dedup window: which event identities were committed lately, and where.
//!
//! Derived from the section tables of the log alone and rebuilt from them at start; never part of a checkpoint, and
//! nothing replicated depends on it: only a leader asks it, before it proposes. It forgets a whole section at a time,
//! oldest first, when the section is older than the window or the memory budget is used up.
//!
//! Offsets are dense, so the window is one run of them: a line per event in pages, found by its offset, and a table
//! from an identity's hash to its offset.

mod lines;
mod places;
mod seed;
mod under_way;

use std::collections::{HashMap, VecDeque};

use fanfare_model::{AccountId, EventIdHash, Offset, Timestamp};

pub(crate) use self::under_way::UnderWay;
use self::{
    lines::{Line, Lines},
    places::Places,
    seed::{Hash, Seed},
};
use crate::RecordHeader;

/// A table that grows does so at once; many small ones keep that moment short.
const TABLES: usize = 64;
/// What one remembered identity takes: its line of 24 bytes, and slots of 8 in a table that is three fifths full or more.
const IDENTITY_BYTES: u64 = 40;
const SECTION_BYTES: u64 = 64;
/// Places are 32 bits of an offset: enough to tell apart what is remembered at one time.
const IDENTITIES_MAX: u64 = 1 << 31;

/// Where an identity was committed, and the checksum of the body it came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) offset: Offset,
    pub(crate) checksum: u32,
}

/// How long and how much to remember.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) window_ms: u64,
    pub(crate) bytes_max: u64,
}

impl Limits {
    /// No more identities than this are ever remembered.
    pub(crate) fn identities_max(self) -> u64 {
        (self.bytes_max / IDENTITY_BYTES).min(IDENTITIES_MAX)
    }
}

pub(crate) struct Window {
    limits: Limits,
    seed: Seed,
    /// The place of each identity's newest line.
    tables: Vec<Places>,
    lines: Lines,
    /// Of the section that is worked on.
    hashes: Vec<Hash>,
    accounts: HashMap<AccountId, u32>,
    /// By account number: the account and its sections in `order`.
    numbered: Vec<Option<(AccountId, u64)>>,
    free_numbers: Vec<u32>,
    order: VecDeque<Section>,
    bytes: u64,
    /// Everything appended at or after it is remembered.
    complete_from: Timestamp,
    last_time: Timestamp,
}

struct Section {
    base: Offset,
    time: Timestamp,
    account: u32,
    count: u32,
}

impl Window {
    pub(crate) fn new(limits: Limits) -> Self {
        let bytes_max = limits.bytes_max.min(IDENTITIES_MAX * IDENTITY_BYTES);
        Self {
            limits: Limits { bytes_max, ..limits },
            seed: Seed::random(),
            tables: (0..TABLES).map(|_| Places::default()).collect(),
            lines: Lines::default(),
            hashes: Vec::new(),
            accounts: HashMap::new(),
            numbered: Vec::new(),
            free_numbers: Vec::new(),
            order: VecDeque::new(),
            bytes: 0,
            complete_from: Timestamp(0),
            last_time: Timestamp(0),
        }
    }

    /// Remembers a committed section. Each section begins where the one before it ended, and times never fall.
    pub(crate) fn insert(
        &mut self,
        account: AccountId,
        base: Offset,
        time: Timestamp,
        records: impl ExactSizeIterator<Item = RecordHeader>,
    ) {
        let count = u32::try_from(records.len()).expect("an entry is bounded in bytes");
        let bytes = section_bytes(count);
        if bytes > self.limits.bytes_max {
            // It would push out everything, at last itself. Lost events may be more than memory holds.
            let complete_from = Timestamp(time.0 + 1);
            *self = Self { complete_from, last_time: time, ..Self::new(self.limits) };
            return;
        }
        // Room first, lest a large section take memory beside what it pushes out.
        (self.bytes, self.last_time) = (self.bytes + bytes, time);
        self.forget();
        let account = self.number(account);
        if self.order.is_empty() {
            self.lines = Lines::from(base);
        }
        assert_eq!(self.lines.end(), base, "offsets are dense");
        let Self { lines, tables, seed, hashes, .. } = self;
        hashes.clear();
        let first = lines.end();
        for record in records {
            let line = Line::new(record.id, account, record.checksum);
            hashes.push(line.hash(*seed));
            lines.push(line);
        }
        fetch(tables, &*hashes);
        for (&hash, (place, line)) in hashes.iter().zip(lines.since(first)) {
            tables[table(hash)].put(hash, place, |known| lines.at(known).same_identity(line));
        }
        self.order.push_back(Section { base, time, account, count });
    }

    pub(crate) fn account(&self, account: AccountId) -> Option<AccountWindow<'_>> {
        self.accounts.get(&account).map(|&account| AccountWindow { window: self, account })
    }

    /// First offset of the window as of `now`: a log that starts at or below it can rebuild the window.
    pub(crate) fn start(&self, now: Timestamp) -> Option<Offset> {
        let first =
            self.order.partition_point(|section| now.millis_since(section.time) > self.limits.window_ms);
        self.order.get(first).map(|section| section.base)
    }

    /// How far back, from the last append, every identity is remembered, if the budget is too small for the window.
    pub(crate) fn shortened_ms(&self) -> Option<u64> {
        let length_ms = self.last_time.millis_since(self.complete_from);
        (self.complete_from > Timestamp(0) && length_ms < self.limits.window_ms).then_some(length_ms)
    }

    fn forget(&mut self) {
        while let Some(oldest) = self.order.front() {
            let expired = self.last_time.millis_since(oldest.time) > self.limits.window_ms;
            if !expired && self.bytes <= self.limits.bytes_max {
                return;
            }
            let oldest = self.order.pop_front().expect("just looked at");
            // Others of the same millisecond may remain, but not all of it.
            self.complete_from = Timestamp(oldest.time.0 + 1);
            self.bytes -= section_bytes(oldest.count);
            let Self { lines, tables, seed, hashes, .. } = self;
            hashes.clear();
            hashes.extend(lines.oldest(oldest.count).map(|(_, line)| line.hash(*seed)));
            fetch(tables, &*hashes);
            for (&hash, (place, _)) in hashes.iter().zip(lines.oldest(oldest.count)) {
                // Committed again since, it is known by its later place, which stays.
                tables[table(hash)].remove(hash, place);
            }
            self.lines.drop_oldest(oldest.count);
            self.release(oldest.account);
        }
    }

    fn number(&mut self, account: AccountId) -> u32 {
        if let Some(&number) = self.accounts.get(&account) {
            let (_, sections) =
                self.numbered[number as usize].as_mut().expect("a listed account has its number");
            *sections += 1;
            return number;
        }
        let number = self.free_numbers.pop().unwrap_or_else(|| {
            self.numbered.push(None);
            u32::try_from(self.numbered.len() - 1)
                .expect("the budget bounds the sections, each has one account")
        });
        self.numbered[number as usize] = Some((account, 1));
        self.accounts.insert(account, number);
        number
    }

    fn release(&mut self, number: u32) {
        let slot = &mut self.numbered[number as usize];
        let (account, sections) = slot.as_mut().expect("a section's account has its number");
        *sections -= 1;
        if *sections == 0 {
            self.accounts.remove(account);
            *slot = None;
            self.free_numbers.push(number);
        }
    }
}

/// The window's part of one account.
pub(crate) struct AccountWindow<'a> {
    window: &'a Window,
    account: u32,
}

impl AccountWindow<'_> {
    pub(crate) fn get(&self, id: EventIdHash) -> Option<Committed> {
        let sought = Line::new(id, self.account, 0);
        self.find(&sought, sought.hash(self.window.seed))
    }

    /// Those that are known, by their index.
    pub(crate) fn get_all(&self, ids: impl Iterator<Item = EventIdHash>) -> Vec<(u32, Committed)> {
        let sought: Vec<_> = ids
            .map(|id| Line::new(id, self.account, 0))
            .map(|line| (line.hash(self.window.seed), line))
            .collect();
        fetch(&self.window.tables, sought.iter().map(|(hash, _)| hash));
        let found = |(index, (hash, line)): (u32, &(Hash, Line))| Some((index, self.find(line, *hash)?));
        (0..).zip(&sought).filter_map(found).collect()
    }

    fn find(&self, sought: &Line, hash: Hash) -> Option<Committed> {
        let Window { lines, tables, .. } = self.window;
        let place = tables[table(hash)].get(hash, |known| lines.at(known).same_identity(sought))?;
        Some(Committed { offset: lines.offset(place), checksum: lines.at(place).checksum })
    }
}

/// Brings into the processor's cache what is about to be looked at. The tables are larger than the cache: looked at one
/// after the other, each identity would wait for memory by itself; like this they wait together.
fn fetch<'hash>(tables: &[Places], hashes: impl IntoIterator<Item = &'hash Hash>) {
    let seen = hashes.into_iter().fold(0, |seen, &hash| seen ^ tables[table(hash)].first_tag(hash));
    std::hint::black_box(seen);
}

fn section_bytes(count: u32) -> u64 {
    SECTION_BYTES + u64::from(count) * IDENTITY_BYTES
}

fn table(hash: Hash) -> usize {
    hash.high() as usize % TABLES
}

#[cfg(test)]
mod tests;

//! The dedup window: which event identities were committed lately, and where.
//!
//! Derived from the section tables of the log alone and rebuilt from them at start; never part of a checkpoint, and
//! nothing replicated depends on it: only a leader asks it, before it proposes. It forgets a whole section at a time,
//! oldest first, when the section is older than the window or the memory budget is used up.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::{BuildHasher, Hash, Hasher, RandomState},
};

use fanfare_model::{AccountId, EventIdHash, Offset, Timestamp};

use crate::RecordHeader;

/// A map that grows does so at once; many small ones keep that moment short.
const SHARDS: usize = 64;
/// What one remembered identity takes: its slot in a map that is two thirds full on average, and its place in the order.
const IDENTITY_BYTES: u64 = 80;
const SECTION_BYTES: u64 = 64;

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
        self.bytes_max / IDENTITY_BYTES
    }
}

pub(crate) struct Window {
    limits: Limits,
    shards: Vec<HashMap<Identity, Committed, Seeded>>,
    accounts: HashMap<AccountId, u32, Seeded>,
    /// By account number: the account and its sections in `order`.
    numbered: Vec<Option<(AccountId, u64)>>,
    free_numbers: Vec<u32>,
    order: VecDeque<Section>,
    bytes: u64,
    /// Everything appended at or after it is remembered.
    complete_from: Timestamp,
    last_time: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    id: [u64; 2],
    account: u32,
}

struct Section {
    base: Offset,
    time: Timestamp,
    account: u32,
    ids: Box<[EventIdHash]>,
}

impl Window {
    pub(crate) fn new(limits: Limits) -> Self {
        let seed = Seeded::random();
        Self {
            limits,
            shards: (0..SHARDS).map(|_| HashMap::with_hasher(seed)).collect(),
            accounts: HashMap::with_hasher(seed),
            numbered: Vec::new(),
            free_numbers: Vec::new(),
            order: VecDeque::new(),
            bytes: 0,
            complete_from: Timestamp(0),
            last_time: Timestamp(0),
        }
    }

    /// Remembers a committed section. Sections come in offset order, and times never fall.
    pub(crate) fn insert(
        &mut self,
        account: AccountId,
        base: Offset,
        time: Timestamp,
        records: impl ExactSizeIterator<Item = RecordHeader>,
    ) {
        let account = self.number(account);
        let mut ids = Vec::with_capacity(records.len());
        for (record, at) in records.zip(0..) {
            ids.push(record.id);
            let identity = Identity::of(account, record.id);
            let committed = Committed { offset: base.plus(at), checksum: record.checksum };
            self.shards[identity.shard()].insert(identity, committed);
        }
        self.bytes += SECTION_BYTES + ids.len() as u64 * IDENTITY_BYTES;
        self.order.push_back(Section { base, time, account, ids: ids.into() });
        self.last_time = time;
        self.forget();
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

    /// How far back, from the last append, every identity is remembered: the window, or less if the budget is too small.
    pub(crate) fn length_ms(&self) -> u64 {
        self.last_time.millis_since(self.complete_from).min(self.limits.window_ms)
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
            self.bytes -= SECTION_BYTES + oldest.ids.len() as u64 * IDENTITY_BYTES;
            for (&id, at) in oldest.ids.iter().zip(0..) {
                let identity = Identity::of(oldest.account, id);
                let shard = &mut self.shards[identity.shard()];
                // Committed again since, it is known by its later place.
                if let Entry::Occupied(known) = shard.entry(identity)
                    && known.get().offset == oldest.base.plus(at)
                {
                    known.remove();
                }
            }
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
        let identity = Identity::of(self.account, id);
        self.window.shards[identity.shard()].get(&identity).copied()
    }
}

impl Identity {
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of 128 bits")]
    fn of(account: u32, id: EventIdHash) -> Self {
        Self { id: [id.0 as u64, (id.0 >> 64) as u64], account }
    }

    #[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
    fn shard(&self) -> usize {
        self.id[0] as usize % SHARDS
    }
}

/// Hashes what is a hash already, with a seed of this process: producers choose the ids and know the stored hash, but
/// not where it lands in a map. Nothing stored or replicated depends on the seed.
#[derive(Clone, Copy)]
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn random() -> Self {
        Self(RandomState::new().hash_one(0_u8))
    }
}

impl BuildHasher for Seeded {
    type Hasher = Folding;

    fn build_hasher(&self) -> Folding {
        Folding(self.0)
    }
}

/// Folded multiplication, as in ahash and foldhash.
pub(crate) struct Folding(u64);

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.write_u64(u64::from_le_bytes(*word)));
        rest.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves of 128 bits are folded")]
    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value) * 0x9e37_79b9_7f4a_7c15;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_u128(&mut self, value: u128) {
        self.write(&value.to_le_bytes());
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::tests::batch;

    const LIMITS: Limits = Limits { window_ms: 100, bytes_max: 1 << 20 };

    fn insert(window: &mut Window, account: u8, base: u64, time: u64, events: &[&str]) {
        let records = batch(account, events).records;
        window.insert(
            AccountId::from_bytes([account; 16]),
            Offset(base),
            Timestamp(time),
            records.into_iter(),
        );
    }

    fn get(window: &Window, account: u8, event: &str) -> Option<u64> {
        let found =
            window.account(AccountId::from_bytes([account; 16]))?.get(EventIdHash::of("/test", event));
        found.map(|committed| committed.offset.0)
    }

    #[test]
    fn an_identity_is_known_within_its_account_and_window_only() {
        let mut window = Window::new(LIMITS);
        insert(&mut window, 1, 0, 1_000, &["a", "b"]);
        insert(&mut window, 2, 2, 1_050, &["a"]);
        assert_eq!(
            [get(&window, 1, "a"), get(&window, 1, "b"), get(&window, 2, "a")],
            [Some(0), Some(1), Some(2)]
        );
        assert_eq!((get(&window, 2, "b"), get(&window, 3, "a")), (None, None));
        assert_eq!(window.start(Timestamp(1_100)), Some(Offset(0)));
        assert_eq!(window.start(Timestamp(1_101)), Some(Offset(2)));
        assert_eq!(window.start(Timestamp(9_999)), None);
        insert(&mut window, 2, 3, 1_101, &["c"]);
        assert_eq!([get(&window, 1, "a"), get(&window, 1, "b")], [None, None]);
        assert_eq!([get(&window, 2, "a"), get(&window, 2, "c")], [Some(2), Some(3)]);
    }

    #[test]
    fn an_identity_committed_again_is_known_by_its_last_place() {
        let mut window = Window::new(LIMITS);
        insert(&mut window, 1, 0, 1_000, &["a"]);
        insert(&mut window, 1, 1, 1_090, &["a"]);
        insert(&mut window, 1, 2, 1_150, &["b"]);
        assert_eq!(get(&window, 1, "a"), Some(1));
    }

    #[test]
    fn a_budget_shortens_the_window_and_says_so() {
        let mut window =
            Window::new(Limits { window_ms: 100, bytes_max: 3 * (SECTION_BYTES + IDENTITY_BYTES) });
        for (offset, time) in (0..10).zip((1_000..).step_by(10)) {
            insert(&mut window, 1, offset, time, &[&offset.to_string()]);
        }
        let known: Vec<_> = (0..10).filter_map(|offset: u64| get(&window, 1, &offset.to_string())).collect();
        assert_eq!(known, [7, 8, 9]);
        assert_eq!(window.length_ms(), 29);
        assert!(window.bytes <= window.limits.bytes_max);
    }

    proptest! {
        #[test]
        fn the_window_is_what_a_list_of_the_last_sections_says(
            sections in prop::collection::vec((0_u8..4, 0_u64..40, prop::collection::vec(0_u32..50, 1..4)), 1..60)
        ) {
            let mut window = Window::new(LIMITS);
            let (mut time, mut next, mut all) = (0, 0, Vec::new());
            for (account, wait, ids) in sections {
                time += wait;
                let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
                insert(&mut window, account, next, time, &ids.iter().map(String::as_str).collect::<Vec<_>>());
                for id in ids {
                    all.push((account, id, time, next));
                    next += 1;
                }
            }
            for account in 0..4 {
                for id in (0..50).map(|id: u32| id.to_string()) {
                    let expected = all.iter().rev().find(|(a, i, t, _)| *a == account && *i == id && time - t <= 100);
                    prop_assert_eq!(get(&window, account, &id), expected.map(|(.., offset)| *offset));
                }
            }
            let remembered: usize = window.order.iter().map(|section| section.ids.len()).sum();
            prop_assert_eq!(remembered, all.iter().filter(|(.., t, _)| time - t <= 100).count());
            prop_assert!(window.shards.iter().map(HashMap::len).sum::<usize>() <= remembered);
            prop_assert_eq!(window.numbered.iter().flatten().count(), window.accounts.len());
        }
    }
}

//! Identities that others would have pushed out of the window: kept, up to a share, for accounts that publish little.
//!
//! Empty unless memory is too small for the window, so that a look-up costs nothing else.

use std::collections::{HashMap, VecDeque};

use fanfare_model::{AccountId, Offset};
use hashbrown::{HashTable, hash_table::Entry};

use super::{
    CommittedEvent,
    hash_seed::{HashSeed, account_halves},
};

/// Memory of one identity: its entry in a table that is at least half full, and its place in the list of its section.
const IDENTITY_BYTES: u64 = 128;

pub(super) struct RetainedIds {
    seed: HashSeed,
    ids: HashTable<RetainedId>,
    /// Oldest first.
    sections: VecDeque<RetainedSection>,
    /// Bytes of each account.
    accounts: HashMap<AccountId, u64>,
    bytes: u64,
}

struct RetainedId {
    account: AccountId,
    id: [u64; 2],
    event: CommittedEvent,
}

/// The identities of a section that has left the window before its time; event by event from `base` on.
pub(super) struct RetainedSection {
    pub(super) account: AccountId,
    pub(super) base: Offset,
    pub(super) age_ms: u64,
    pub(super) ids: Box<[[u64; 2]]>,
}

impl RetainedIds {
    pub(super) fn new(seed: HashSeed) -> Self {
        Self { seed, ids: HashTable::new(), sections: VecDeque::new(), accounts: HashMap::new(), bytes: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sections.is_empty()
    }

    pub(super) fn holds(&self, account: AccountId) -> bool {
        self.accounts.contains_key(&account)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// True if `count` identities more of the account fit into `bytes_max`, of which each of `accounts` has its share.
    pub(super) fn has_room(&self, account: AccountId, count: u32, accounts: u64, bytes_max: u64) -> bool {
        let more = u64::from(count) * IDENTITY_BYTES;
        let own = self.accounts.get(&account).copied().unwrap_or_default() + more;
        own <= bytes_max / accounts.max(1) && self.bytes + more <= bytes_max
    }

    /// Adds a section that is younger than those before, with the checksums of its events' bodies.
    pub(super) fn add(&mut self, section: RetainedSection, checksums: impl Iterator<Item = u32>) {
        let Self { seed, ids, .. } = self;
        let (seed, account) = (*seed, section.account);
        for ((&id, checksum), delta) in section.ids.iter().zip(checksums).zip(0..) {
            let event = CommittedEvent { offset: section.base.plus(delta), checksum };
            let retained = RetainedId { account, id, event };
            let is_same = |other: &RetainedId| other.id == id && other.account == account;
            match ids.entry(hash(seed, account, id), is_same, |other| hash(seed, other.account, other.id)) {
                Entry::Occupied(mut other) => *other.get_mut() = retained,
                Entry::Vacant(free) => drop(free.insert(retained)),
            }
        }
        let bytes = section.bytes();
        *self.accounts.entry(account).or_default() += bytes;
        self.bytes += bytes;
        self.sections.push_back(section);
    }

    pub(super) fn get(&self, account: AccountId, id: [u64; 2]) -> Option<CommittedEvent> {
        let is_same = |other: &RetainedId| other.id == id && other.account == account;
        self.ids.find(hash(self.seed, account, id), is_same).map(|found| found.event)
    }

    /// Drops the sections that are older than the window.
    pub(super) fn forget(&mut self, age_ms: u64, window_ms: u64) {
        while let Some(section) = self.sections.pop_front_if(|oldest| age_ms - oldest.age_ms > window_ms) {
            let account = section.account;
            for (&id, delta) in section.ids.iter().zip(0..) {
                let offset = section.base.plus(delta);
                // An identity that was retained again is there at its later offset, which stays.
                let is_same = |other: &RetainedId| {
                    other.id == id && other.account == account && other.event.offset == offset
                };
                if let Ok(entry) = self.ids.find_entry(hash(self.seed, account, id), is_same) {
                    entry.remove();
                }
            }
            self.bytes -= section.bytes();
            if let Some(own) = self.accounts.get_mut(&account) {
                *own -= section.bytes();
                if *own == 0 {
                    self.accounts.remove(&account);
                }
            }
        }
        if self.sections.is_empty() {
            self.ids = HashTable::new();
        }
    }
}

impl RetainedSection {
    fn bytes(&self) -> u64 {
        self.ids.len() as u64 * IDENTITY_BYTES
    }
}

fn hash(seed: HashSeed, account: AccountId, id: [u64; 2]) -> u64 {
    seed.hash(id, account_halves(account)).0
}

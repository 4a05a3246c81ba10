//! Identities that were proposed and are not yet applied.

use fanfare_model::{AccountId, EventIdHash};
use hashbrown::{HashTable, hash_table::Entry};

use super::{
    CommittedEvent,
    hash_seed::{HashSeed, account_halves, halves},
};
use crate::RecordHeader;

pub(crate) struct InflightIds {
    seed: HashSeed,
    ids: HashTable<InflightId>,
}

struct InflightId {
    account: AccountId,
    id: [u64; 2],
    /// The offset is a prediction.
    event: CommittedEvent,
}

impl InflightIds {
    pub(crate) fn new(seed: HashSeed) -> Self {
        Self { seed, ids: HashTable::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Adds an identity; if it is in flight already, changes nothing and returns the event it is in flight with.
    pub(crate) fn insert(
        &mut self,
        account: AccountId,
        id: EventIdHash,
        event: CommittedEvent,
    ) -> Result<(), CommittedEvent> {
        let id = halves(id.0);
        let seed = self.seed;
        let is_same = |other: &InflightId| other.id == id && other.account == account;
        match self.ids.entry(hash(seed, account, id), is_same, |other| hash(seed, other.account, other.id)) {
            Entry::Occupied(other) => Err(other.get().event),
            Entry::Vacant(free) => {
                free.insert(InflightId { account, id, event });
                Ok(())
            }
        }
    }

    pub(crate) fn remove(&mut self, account: AccountId, records: &[RecordHeader]) {
        for record in records {
            let id = halves(record.id.0);
            let is_same = |other: &InflightId| other.id == id && other.account == account;
            if let Ok(entry) = self.ids.find_entry(hash(self.seed, account, id), is_same) {
                entry.remove();
            }
        }
    }
}

fn hash(seed: HashSeed, account: AccountId, id: [u64; 2]) -> u64 {
    seed.hash(id, account_halves(account)).0
}

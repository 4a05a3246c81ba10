//! Identities that were proposed and are not yet applied.

use fanfare_model::{AccountId, EventIdHash};
use hashbrown::{HashTable, hash_table::Entry};

use super::{
    Committed,
    seed::{Seed, account_halves, halves},
};
use crate::RecordHeader;

pub(crate) struct UnderWay {
    seed: Seed,
    listed: HashTable<Listed>,
}

struct Listed {
    account: AccountId,
    id: [u64; 2],
    place: Committed,
}

impl UnderWay {
    pub(crate) fn new() -> Self {
        Self { seed: Seed::random(), listed: HashTable::new() }
    }

    /// Lists an identity at `place`, unless it is listed already: then says at which.
    pub(crate) fn list(
        &mut self,
        account: AccountId,
        id: EventIdHash,
        place: Committed,
    ) -> Result<(), Committed> {
        let id = halves(id.0);
        let seed = self.seed;
        let is_listed = |listed: &Listed| listed.id == id && listed.account == account;
        match self
            .listed
            .entry(hash(seed, account, id), is_listed, |listed| hash(seed, listed.account, listed.id))
        {
            Entry::Occupied(other) => Err(other.get().place),
            Entry::Vacant(free) => {
                free.insert(Listed { account, id, place });
                Ok(())
            }
        }
    }

    pub(crate) fn forget(&mut self, account: AccountId, records: &[RecordHeader]) {
        for record in records {
            let id = halves(record.id.0);
            let is_listed = |listed: &Listed| listed.id == id && listed.account == account;
            if let Ok(listed) = self.listed.find_entry(hash(self.seed, account, id), is_listed) {
                listed.remove();
            }
        }
    }
}

fn hash(seed: Seed, account: AccountId, id: [u64; 2]) -> u64 {
    seed.hash(id, account_halves(account)).0
}

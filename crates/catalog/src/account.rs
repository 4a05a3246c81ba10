//! Tenants, their keys, and the partitions their events go to.

use std::fmt;

use fanfare_model::{AccountId, KeyHash, KeyId, Timestamp};
use serde::{Deserialize, Serialize};

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub id: AccountId,
    /// Unique in the catalog.
    pub name: String,
    pub shard: Shard,
    pub created: Timestamp,
}

/// The partitions of `events` that an account's events go to, in routing order. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Raised when the list changes; an append under an older epoch is refused.
    pub epoch: u32,
    pub partitions: Vec<u16>,
}

impl Shard {
    /// The partition of a key: stays the same for as long as the epoch does.
    #[must_use]
    pub fn route(&self, key: KeyHash) -> u16 {
        let count = self.partitions.len() as u64;
        self.partitions[usize::try_from(key.0 % count).expect("a remainder of a length is an index")]
    }
}

/// The stored half of an API key: enough to recognise the secret, not to make it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    pub id: KeyId,
    pub account: AccountId,
    pub description: String,
    /// SHA-256 of the secret's 32 bytes.
    #[serde(with = "crate::hex::array")]
    pub secret_hash: [u8; 32],
    pub created: Timestamp,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("id", &self.id)
            .field("account", &self.account)
            .field("description", &self.description)
            .field("created", &self.created)
            .finish_non_exhaustive()
    }
}

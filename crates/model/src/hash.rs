//! The fixed hashes that are stored and replicated. Changing one is a format change.
//!
//! XXH3 (<https://github.com/Cyan4973/xxHash>, `xxh3` 64 and 128 bit, seed 0): fast, fixed and public.
//! It is not collision resistant against an adversary; each hash is only compared within one account,
//! so a producer who forges a collision harms nobody else.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Hash of a partition key: chooses the partition and names the delivery lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyHash(pub u64);

impl KeyHash {
    #[must_use]
    pub fn of(partition_key: &str) -> Self {
        Self(xxh3_64(partition_key.as_bytes()))
    }
}

/// Hash of an event's identity within its account: `source`, a zero byte, `id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventIdHash(pub u128);

impl EventIdHash {
    #[must_use]
    pub fn of(source: &str, id: &str) -> Self {
        let mut identity = [0u8; 256];
        let length = source.len() + 1 + id.len();
        if length <= identity.len() {
            identity[..source.len()].copy_from_slice(source.as_bytes());
            identity[source.len() + 1..length].copy_from_slice(id.as_bytes());
            return Self(xxh3_128(&identity[..length]));
        }
        let mut long = Vec::with_capacity(length);
        long.extend_from_slice(source.as_bytes());
        long.push(0);
        long.extend_from_slice(id.as_bytes());
        Self(xxh3_128(&long))
    }
}

/// Checksum that tells two bodies under one identity apart: the low half of XXH3-64 of the stored bytes.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are what is stored")]
pub fn body_checksum(event: &[u8]) -> u32 {
    xxh3_64(event) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_hashes_never_change() {
        assert_eq!(KeyHash::of("customer-42").0, 17_584_627_642_848_206_433);
        let short = EventIdHash::of("/orders", "1");
        let mut identity = b"/orders".to_vec();
        identity.push(0);
        identity.push(b'1');
        assert_eq!(short.0, xxh3_128(&identity));
        let long = "x".repeat(300);
        let mut identity = b"/orders".to_vec();
        identity.push(0);
        identity.extend_from_slice(long.as_bytes());
        assert_eq!(EventIdHash::of("/orders", &long).0, xxh3_128(&identity));
    }
}

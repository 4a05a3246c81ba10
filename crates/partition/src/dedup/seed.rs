//! Where an identity lands in this process's tables.

use std::hash::{BuildHasher, RandomState};

use fanfare_model::AccountId;

/// Producers choose the ids and know their stored hash, so it is folded with numbers that only this process knows.
/// Nothing stored or replicated depends on them.
#[derive(Clone, Copy)]
pub(super) struct Seed([u64; 2]);

impl Seed {
    pub(super) fn random() -> Self {
        Self([0_u8, 1].map(|half| RandomState::new().hash_one(half)))
    }

    /// Folded multiplication, as in ahash and foldhash; `id` is a good hash already.
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of 128 bits are folded")]
    pub(super) fn hash(self, id: [u64; 2], account: [u64; 2]) -> Hash {
        let factor = |half: usize| u128::from(id[half] ^ account[half] ^ self.0[half]);
        let product = factor(0) * factor(1);
        Hash(product as u64 ^ (product >> 64) as u64)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hash(pub(super) u64);

impl Hash {
    /// Never zero.
    #[expect(clippy::cast_possible_truncation, reason = "the low half")]
    pub(super) fn tag(self) -> u32 {
        (self.0 as u32).max(1)
    }

    pub(super) fn high(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// A 128-bit number as two halves, low first.
#[expect(clippy::cast_possible_truncation, reason = "the two halves of 128 bits")]
pub(super) fn halves(number: u128) -> [u64; 2] {
    [number as u64, (number >> 64) as u64]
}

pub(super) fn account_halves(account: AccountId) -> [u64; 2] {
    halves(u128::from_le_bytes(*account.as_bytes()))
}

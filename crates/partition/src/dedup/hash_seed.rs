//! The hash of an identity in this process's tables.

use fanfare_environment::Random;
use fanfare_model::AccountId;

/// Numbers that only this process knows. Producers choose the ids and know their stored hash; without a secret they
/// could choose ids that collide. Nothing stored or replicated depends on the seed.
#[derive(Clone, Copy)]
pub(crate) struct HashSeed([u64; 2]);

impl HashSeed {
    pub(crate) fn new(random: &dyn Random) -> Self {
        Self([random.next_u64(), random.next_u64()])
    }

    /// Folded multiplication, as in ahash and foldhash; `id` is a good hash already.
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of 128 bits are folded")]
    pub(super) fn hash(self, id: [u64; 2], account: [u64; 2]) -> IdentityHash {
        let factor = |half: usize| u128::from(id[half] ^ account[half] ^ self.0[half]);
        let product = factor(0) * factor(1);
        IdentityHash(product as u64 ^ (product >> 64) as u64)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IdentityHash(pub(super) u64);

impl IdentityHash {
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

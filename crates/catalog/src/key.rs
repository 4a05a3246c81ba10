//! API keys as text, and the authentication of a caller by one.
//!
//! A key is `fanfare_sk_`, 32 hex digits of its id, `_`, 64 hex digits of its secret. The catalog keeps only a hash
//! of the secret: with 256 random bits no slow hash is needed.

use fanfare_environment::Random;
use fanfare_model::{AccountId, KeyId, Secret};
use sha2::{Digest, Sha256};

use crate::{View, hex};

const PREFIX: &str = "fanfare_sk_";

/// The authenticated caller. Only authentication makes one, and every object of an account is reached through one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenant {
    account: AccountId,
    key: KeyId,
}

impl Tenant {
    #[must_use]
    pub fn account(&self) -> AccountId {
        self.account
    }

    #[must_use]
    pub fn key(&self) -> KeyId {
        self.key
    }
}

/// A fresh key with its text, which cannot be shown again later.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub id: KeyId,
    pub text: Secret,
    /// The stored half.
    pub(crate) secret_hash: [u8; 32],
}

impl NewKey {
    /// A key that is live once the catalog has stored it.
    pub fn generate(random: &dyn Random) -> Self {
        let id = KeyId::from_bytes(random_bytes(random));
        let secret = random_bytes(random);
        let text = format!("{PREFIX}{}_{}", hex::text(id.as_bytes()), hex::text(&secret));
        Self { id, text: Secret::new(text), secret_hash: hash(&secret) }
    }
}

/// The tenant of the live key `text`. Takes the same time for every wrong secret.
pub(crate) fn authenticate(view: &View, text: &str) -> Option<Tenant> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let (id, secret) = (KeyId::from_bytes(hex::parse(id)?), hex::parse(secret)?);
    let account = *view.keys.get(&id)?;
    let key = view.account(account)?.keys.get(&id)?;
    same(&key.secret_hash, &hash(&secret)).then_some(Tenant { account, key: id })
}

pub(crate) fn random_bytes<const N: usize>(random: &dyn Random) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill(&mut bytes);
    bytes
}

fn hash(secret: &[u8; 32]) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// Compares every byte, also after a difference. The hashes are of unguessable secrets, so even a comparison that the
/// compiler shortened would give away a prefix of a hash and no secret.
fn same(left: &[u8; 32], right: &[u8; 32]) -> bool {
    left.iter().zip(right).fold(0, |difference, (left, right)| difference | (left ^ right)) == 0
}

#[cfg(test)]
mod tests;

//! API keys as text, and the proof of identity that they buy.
//!
//! A key is `fanfare_sk_`, 32 hex digits of its id, `_`, 64 hex digits of its secret. The catalog keeps only a hash
//! of the secret: with 256 random bits no slow hash is needed.

use fanfare_model::{AccountId, KeyId, Secret};
use rand::Rng;
use sha2::{Digest, Sha256};

use crate::{View, hex};

const PREFIX: &str = "fanfare_sk_";

/// Proof of who calls: only authentication makes one. Everything a tenant touches is reached through it.
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

/// A fresh key with its text. Shown once; nothing can show it again.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub id: KeyId,
    pub text: Secret,
    /// What is stored of it.
    pub(crate) secret_hash: [u8; 32],
}

impl NewKey {
    /// A key that nothing knows yet: it is live once the catalog has taken it.
    pub fn generate(rng: &mut impl Rng) -> Self {
        let id = KeyId::random(rng);
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        let text = format!("{PREFIX}{}_{}", hex::text(id.as_bytes()), hex::text(&secret));
        Self { id, text: Secret::new(text), secret_hash: hash(&secret) }
    }
}

/// The tenant that `text` proves, if it is a live key's. Takes the same time for every wrong secret.
pub(crate) fn authenticate(view: &View, text: &str) -> Option<Tenant> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let (id, secret) = (KeyId::from_bytes(hex::parse(id)?), hex::parse(secret)?);
    let account = *view.keys.get(&id)?;
    let key = view.account(account)?.keys.get(&id)?;
    same(&key.secret_hash, &hash(&secret)).then_some(Tenant { account, key: id })
}

fn hash(secret: &[u8; 32]) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// Looks at every byte whatever it finds. The hashes are of unguessable secrets, so even a compiler that found a
/// shortcut would give away a hash's prefix and no secret.
fn same(left: &[u8; 32], right: &[u8; 32]) -> bool {
    left.iter().zip(right).fold(0, |difference, (left, right)| difference | (left ^ right)) == 0
}

#[cfg(test)]
mod tests;

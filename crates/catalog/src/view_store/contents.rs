//! States as records: what one state needs beyond another, and a state read back.

use std::{collections::BTreeMap, ops::Deref, sync::Arc};

use fanfare_log::{Identity, Position};
use fanfare_model::{AccountId, Sink, Subscription};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::{
    Operation, RebuildReason, StoreError, ViewStore,
    key::{self, Kind, MARK},
};
use crate::{
    Account, AccountView, ApiKey, EventType, Schema, View, hex,
    machine::Reached,
    state::{MarkRecord, PositionRecord, State},
};

const VERSION: u32 = 1;

/// What the store holds.
#[derive(Clone, Default)]
pub(super) struct Contents {
    pub(super) state: State,
    /// The last entry of any kind that is contained; none in an empty store.
    pub(super) upto: Option<Position>,
    digest: Digest,
}

/// Tells any two sets of records apart; follows a change without reading the rest.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Digest {
    records: u64,
    sum: u128,
}

/// Stored beside the objects in each batch: which state of which log they are.
#[derive(Serialize, Deserialize)]
struct Mark {
    v: u32,
    #[serde(with = "hex::array")]
    cluster: [u8; 16],
    node: u64,
    #[serde(with = "hex::array")]
    incarnation: [u8; 16],
    upto: PositionRecord,
    state: MarkRecord,
    records: u64,
    #[serde(with = "hex::array")]
    digest: [u8; 16],
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

impl Contents {
    /// What the store holds, unless that is nothing whole or not of this data directory.
    pub(super) fn load(
        store: &dyn ViewStore,
        identity: Identity,
    ) -> Result<Result<Self, RebuildReason>, StoreError> {
        let Some(stored) = store.get(MARK)? else { return Ok(Err(RebuildReason::Missing)) };
        let Version { v } = parse(MARK, &stored)?;
        if v != VERSION {
            return Ok(Err(RebuildReason::Foreign));
        }
        let mark: Mark = parse(MARK, &stored)?;
        let own = Identity { cluster: mark.cluster, node: mark.node, incarnation: mark.incarnation };
        if own != identity {
            return Ok(Err(RebuildReason::Foreign));
        }
        let mut accounts = BTreeMap::new();
        let mut digest = Digest::default();
        store.scan(&mut |key, value| {
            if key == MARK {
                return Ok(());
            }
            digest = digest.with(key, value);
            read_object(&mut accounts, key, value)
        })?;
        if digest != (Digest { records: mark.records, sum: u128::from_be_bytes(mark.digest) }) {
            return Err(StoreError::Mark);
        }
        let accounts = accounts.into_iter().map(|(id, view)| (id, Arc::new(view))).collect();
        Ok(Ok(Self { state: State::assemble(mark.state, accounts), upto: Some(mark.upto.into()), digest }))
    }

    /// The operations, the mark's last, that make a store of `self` a store of `next`; and `next` as contents.
    pub(super) fn advance(&self, next: &Reached, identity: Identity) -> (Vec<Operation>, Self) {
        let mut difference = Difference { operations: Vec::new(), digest: self.digest };
        difference.of_views(&self.state.view, &next.state.view);
        let Difference { mut operations, digest } = difference;
        let mark = Mark {
            v: VERSION,
            cluster: identity.cluster,
            node: identity.node,
            incarnation: identity.incarnation,
            upto: next.upto.into(),
            state: next.state.mark(),
            records: digest.records,
            digest: digest.sum.to_be_bytes(),
        };
        operations.push(Operation::Put { key: MARK.to_vec(), value: record(&mark) });
        (operations, Self { state: next.state.clone(), upto: Some(next.upto), digest })
    }
}

impl Digest {
    fn with(self, key: &[u8], value: &[u8]) -> Self {
        Self { records: self.records + 1, sum: self.sum.wrapping_add(sum_of(key, value)) }
    }

    fn without(self, key: &[u8], value: &[u8]) -> Self {
        Self { records: self.records - 1, sum: self.sum.wrapping_sub(sum_of(key, value)) }
    }
}

fn sum_of(key: &[u8], value: &[u8]) -> u128 {
    let mut hash = Sha256::new();
    hash.update((key.len() as u64).to_be_bytes());
    hash.update(key);
    hash.update(value);
    let hash: [u8; 32] = hash.finalize().into();
    u128::from_be_bytes(*hash.first_chunk().expect("32 bytes begin with 16"))
}

/// Objects of one kind, as a view holds them.
type Shared<K, V> = BTreeMap<K, Arc<V>>;

/// Collects how one view differs from an earlier one. Objects are shared between views, so equal pointers are equal
/// objects; accounts are never deleted.
struct Difference {
    operations: Vec<Operation>,
    digest: Digest,
}

impl Difference {
    fn of_views(&mut self, old: &View, new: &View) {
        for (id, view) in &new.accounts {
            match old.accounts.get(id) {
                Some(known) if Arc::ptr_eq(known, view) => {}
                Some(known) => self.of_accounts(known, view),
                None => {
                    let key = key::encode(*id, Kind::Account, &[]);
                    self.replace::<Account>(key, None, Some(&view.account));
                    self.of_accounts(&AccountView::new(view.account.clone()), view);
                }
            }
        }
    }

    fn of_accounts(&mut self, old: &AccountView, new: &AccountView) {
        let id = new.account.id;
        if old.account != new.account {
            self.replace(key::encode(id, Kind::Account, &[]), Some(&old.account), Some(&new.account));
        }
        self.of_maps((&old.keys, &new.keys), |key| key::encode(id, Kind::ApiKey, key.as_bytes()));
        self.of_maps((&old.event_types, &new.event_types), |name| {
            key::encode(id, Kind::EventType, name.as_bytes())
        });
        self.of_maps((&old.schemas, &new.schemas), |name| key::encode(id, Kind::Schema, name.as_bytes()));
        self.of_maps((&old.sinks, &new.sinks), |sink| key::encode(id, Kind::Sink, sink.as_bytes()));
        self.of_maps((&old.subscriptions, &new.subscriptions), |subscription| {
            key::encode(id, Kind::Subscription, subscription.as_bytes())
        });
    }

    fn of_maps<K: Ord, V: Serialize>(
        &mut self,
        (old, new): (&Shared<K, V>, &Shared<K, V>),
        key_of: impl Fn(&K) -> Vec<u8>,
    ) {
        for (name, object) in new {
            match old.get(name) {
                Some(known) if Arc::ptr_eq(known, object) => {}
                known => self.replace(key_of(name), known.map(Deref::deref), Some(object)),
            }
        }
        for (name, gone) in old.iter().filter(|(name, _)| !new.contains_key(name)) {
            self.replace(key_of(name), Some(gone), None);
        }
    }

    fn replace<V: Serialize>(&mut self, key: Vec<u8>, old: Option<&V>, new: Option<&V>) {
        if let Some(old) = old {
            self.digest = self.digest.without(&key, &record(old));
        }
        self.operations.push(match new {
            Some(new) => {
                let value = record(new);
                self.digest = self.digest.with(&key, &value);
                Operation::Put { key, value }
            }
            None => Operation::Delete { key },
        });
    }
}

fn record(object: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(object).expect("an object has only text keys and no failing serializer")
}

fn parse<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|error| unreadable(key, error.to_string()))
}

fn unreadable(key: &[u8], problem: impl Into<String>) -> StoreError {
    StoreError::Record { key: hex::text(key), problem: problem.into() }
}

fn read_object(
    accounts: &mut BTreeMap<AccountId, AccountView>,
    key: &[u8],
    value: &[u8],
) -> Result<(), StoreError> {
    let (id, kind) = key::decode(key).ok_or_else(|| unreadable(key, "is not an object's"))?;
    if kind == Kind::Account {
        accounts.insert(id, AccountView::new(parse(key, value)?));
        return Ok(());
    }
    let account = accounts.get_mut(&id).ok_or_else(|| unreadable(key, "belongs to no account"))?;
    match kind {
        Kind::Account => {}
        Kind::ApiKey => {
            let object: Arc<ApiKey> = parse(key, value)?;
            account.keys.insert(object.id, object);
        }
        Kind::EventType => {
            let object: Arc<EventType> = parse(key, value)?;
            account.event_types.insert(object.name.clone(), object);
        }
        Kind::Schema => {
            let object: Arc<Schema> = parse(key, value)?;
            account.schemas.insert(object.id.clone(), object);
        }
        Kind::Sink => {
            let object: Arc<Sink> = parse(key, value)?;
            account.sinks.insert(object.id, object);
        }
        Kind::Subscription => {
            let object: Arc<Subscription> = parse(key, value)?;
            account.subscriptions.insert(object.id, object);
        }
    }
    Ok(())
}

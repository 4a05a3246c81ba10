//! The records of a state: how one state differs from another, and a state read back from its records.

use std::{collections::BTreeMap, ops::Deref, sync::Arc};

use fanfare_log::{Identity, Position};
use fanfare_model::{AccountId, Sink, Subscription};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::{
    Operation, RebuildReason, ViewStore, ViewStoreError,
    key::{self, CLUSTER, HEADER, Kind},
};
use crate::{
    Account, AccountView, ApiKey, ClusterView, EventType, RequestRecord, Schema, View, hex,
    machine::Applied,
    state::{PositionRecord, State, StateHeader},
};

const VERSION: u32 = 4;

/// The state that a store holds.
#[derive(Clone, Default)]
pub(super) struct StoredView {
    pub(super) state: State,
    /// The last log entry of any kind that the state contains; none in an empty store.
    pub(super) position: Option<Position>,
    digest: Digest,
}

/// A sum over all records that a change updates without reading the rest: equal sums are equal sets of records.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Digest {
    records: u64,
    sum: u128,
}

/// The record beside the objects, written in each batch: the log and the position that the objects belong to.
#[derive(Serialize, Deserialize)]
struct Header {
    v: u32,
    #[serde(with = "hex::array")]
    cluster: [u8; 16],
    node: u64,
    #[serde(with = "hex::array")]
    incarnation: [u8; 16],
    position: PositionRecord,
    state: StateHeader,
    records: u64,
    #[serde(with = "hex::array")]
    digest: [u8; 16],
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

impl StoredView {
    /// The state in the store, if it is complete and of this data directory. Blocking.
    pub(super) fn load(store: &dyn ViewStore, identity: Identity) -> Result<Self, RebuildReason> {
        let header = Self::load_header(store, identity)?;
        let mut accounts = BTreeMap::new();
        let mut cluster = None;
        let mut digest = Digest::default();
        let scanned = store.scan(&mut |key, value| {
            if key == HEADER {
                return Ok(());
            }
            digest = digest.with(key, value);
            if key == CLUSTER {
                cluster = Some(parse(key, value)?);
                return Ok(());
            }
            read_object(&mut accounts, key, value)
        });
        scanned.map_err(RebuildReason::Damaged)?;
        if digest != (Digest { records: header.records, sum: u128::from_be_bytes(header.digest) }) {
            return Err(RebuildReason::Damaged(ViewStoreError::Digest));
        }
        let cluster: Arc<ClusterView> = cluster.ok_or(RebuildReason::Damaged(ViewStoreError::Digest))?;
        // The checkpoint has the same version, and is refused with a message.
        if !cluster.is_readable() {
            return Err(RebuildReason::Foreign);
        }
        let accounts = accounts.into_iter().map(|(id, view)| (id, Arc::new(view))).collect();
        let state = State::assemble(header.state, cluster, accounts);
        Ok(Self { state, position: Some(header.position.into()), digest })
    }

    fn load_header(store: &dyn ViewStore, identity: Identity) -> Result<Header, RebuildReason> {
        let stored = store.get(HEADER).map_err(RebuildReason::Damaged)?.ok_or(RebuildReason::Missing)?;
        let Version { v } = parse(HEADER, &stored).map_err(RebuildReason::Damaged)?;
        if v != VERSION {
            return Err(RebuildReason::Foreign);
        }
        let header: Header = parse(HEADER, &stored).map_err(RebuildReason::Damaged)?;
        let owner = Identity { cluster: header.cluster, node: header.node, incarnation: header.incarnation };
        if owner == identity { Ok(header) } else { Err(RebuildReason::Foreign) }
    }

    /// The operations, the header's last, that make a store of `self` a store of `next`; and the result.
    pub(super) fn advance(&self, next: &Applied, identity: Identity) -> (Vec<Operation>, Self) {
        let mut difference = Difference { operations: Vec::new(), digest: self.digest };
        // An empty store has no record of the first cluster view.
        let old_cluster = self.position.is_some().then_some(&self.state.view.cluster);
        difference.of_clusters(old_cluster, &next.state.view.cluster);
        difference.of_views(&self.state.view, &next.state.view);
        let Difference { mut operations, digest } = difference;
        let header = Header {
            v: VERSION,
            cluster: identity.cluster,
            node: identity.node,
            incarnation: identity.incarnation,
            position: next.position.into(),
            state: next.state.header(),
            records: digest.records,
            digest: digest.sum.to_be_bytes(),
        };
        operations.push(Operation::Put { key: HEADER.to_vec(), value: record(&header) });
        (operations, Self { state: next.state.clone(), position: Some(next.position), digest })
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

/// Objects of one kind in a view.
type Objects<K, V> = BTreeMap<K, Arc<V>>;

/// The operations from one view to a later one. Views share unchanged objects, so equal pointers are equal objects.
/// Accounts are never deleted.
struct Difference {
    operations: Vec<Operation>,
    digest: Digest,
}

impl Difference {
    fn of_clusters(&mut self, old: Option<&Arc<ClusterView>>, new: &Arc<ClusterView>) {
        if !old.is_some_and(|old| Arc::ptr_eq(old, new)) {
            self.replace(CLUSTER.to_vec(), old.map(Deref::deref), Some(&**new));
        }
    }

    fn of_views(&mut self, old: &View, new: &View) {
        for (id, view) in &new.accounts {
            match old.accounts.get(id) {
                Some(old) if Arc::ptr_eq(old, view) => {}
                Some(old) => self.of_accounts(old, view),
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
        self.of_objects(&old.keys, &new.keys, |key| key::encode(id, Kind::ApiKey, key.as_bytes()));
        self.of_objects(&old.event_types, &new.event_types, |name| {
            key::encode(id, Kind::EventType, name.as_bytes())
        });
        self.of_objects(&old.schemas, &new.schemas, |name| key::encode(id, Kind::Schema, name.as_bytes()));
        self.of_objects(&old.sinks, &new.sinks, |sink| key::encode(id, Kind::Sink, sink.as_bytes()));
        self.of_objects(&old.subscriptions, &new.subscriptions, |subscription| {
            key::encode(id, Kind::Subscription, subscription.as_bytes())
        });
        self.of_objects(&old.requests, &new.requests, |request| {
            key::encode(id, Kind::Request, request.as_bytes())
        });
    }

    fn of_objects<K: Ord, V: Serialize>(
        &mut self,
        old: &Objects<K, V>,
        new: &Objects<K, V>,
        key_of: impl Fn(&K) -> Vec<u8>,
    ) {
        for (name, object) in new {
            match old.get(name) {
                Some(old) if Arc::ptr_eq(old, object) => {}
                old => self.replace(key_of(name), old.map(Deref::deref), Some(object)),
            }
        }
        for (name, deleted) in old.iter().filter(|(name, _)| !new.contains_key(name)) {
            self.replace(key_of(name), Some(deleted), None);
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

fn parse<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, ViewStoreError> {
    serde_json::from_slice(value)
        .map_err(|error| ViewStoreError::UnreadableRecord { key: hex::text(key), source: Arc::new(error) })
}

fn read_object(
    accounts: &mut BTreeMap<AccountId, AccountView>,
    key: &[u8],
    value: &[u8],
) -> Result<(), ViewStoreError> {
    let (id, kind) = key::decode(key).ok_or_else(|| ViewStoreError::UnknownKey { key: hex::text(key) })?;
    if kind == Kind::Account {
        accounts.insert(id, AccountView::new(parse(key, value)?));
        return Ok(());
    }
    let account = accounts.get_mut(&id).ok_or_else(|| ViewStoreError::NoAccount { key: hex::text(key) })?;
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
        Kind::Request => {
            let object: Arc<RequestRecord> = parse(key, value)?;
            account.requests.insert(object.id.clone(), object);
        }
    }
    Ok(())
}

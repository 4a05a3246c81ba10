//! CONTRACT SKELETON: bodies to be written by the owner of this crate.
use std::{collections::BTreeMap, sync::Arc};
use fanfare_model::{AccountId, KeyHash, KeyId, Sink, SinkConfig, SinkId, StartAt, SubscribedType, Subscription, SubscriptionId, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub mod json_schema;
mod contract {
use super::*;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account { pub id: AccountId, pub name: String, pub shard: Shard, pub created: Timestamp }
/// The partitions of `events` that an account's events go to, in routing order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard { pub epoch: u32, pub partitions: Vec<u16> }
impl Shard { pub fn route(&self, key: KeyHash) -> u16 { let count = self.partitions.len() as u64; self.partitions[usize::try_from(key.0 % count).expect("an index")] } }

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventTypeStatus { Available, Deprecated, Restricted, Discontinued }
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventType { pub name: String, pub description: String, pub schema: Option<String>, pub status: EventTypeStatus, pub created: Timestamp, pub updated: Timestamp, pub revision: u64 }
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema { pub id: String, pub description: String, /// index i is version i + 1; never changes, never shrinks
    pub versions: Vec<SchemaVersion>, pub created: Timestamp, pub revision: u64 }
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaVersion { pub document: Arc<str>, pub created: Timestamp }
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey { pub id: KeyId, pub account: AccountId, pub description: String, /// SHA-256 of the secret half
    pub secret_hash: [u8; 32], pub created: Timestamp }

/// One account and all it owns: immutable, shared.
#[derive(Clone, Debug)]
pub struct AccountView { pub account: Account, pub event_types: BTreeMap<String, Arc<EventType>>, pub schemas: BTreeMap<String, Arc<Schema>>, pub sinks: BTreeMap<SinkId, Arc<Sink>>, pub subscriptions: BTreeMap<SubscriptionId, Arc<Subscription>>, pub keys: BTreeMap<KeyId, Arc<ApiKey>> }
/// The whole catalog at one revision: immutable, shared, cheap to hold. A change copies one account's maps at most.
#[derive(Clone, Debug, Default)]
pub struct View { /// rises with every applied change
    pub revision: u64, pub accounts: BTreeMap<AccountId, Arc<AccountView>>, /// every key of every account
    pub keys: Arc<BTreeMap<KeyId, AccountId>> }
impl View { pub fn account(&self, id: AccountId) -> Option<&Arc<AccountView>> { self.accounts.get(&id) } }

/// Proof of who calls: only authentication makes one. Everything a tenant touches is reached through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenant { account: AccountId, key: KeyId }
impl Tenant { pub fn account(&self) -> AccountId { self.account } pub fn key(&self) -> KeyId { self.key } }

/// A fresh key's text: `fanfare_sk_` + 32 hex of the key id + `_` + 64 hex of the secret. Shown once.
#[derive(Clone)]
pub struct NewKey { pub id: KeyId, pub text: fanfare_model::Secret }

#[derive(Clone, Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("{kind} {name} does not exist")] NotFound { kind: &'static str, name: String },
    #[error("{kind} {name} exists already")] Exists { kind: &'static str, name: String },
    /// `field` is the API's field path, e.g. sink.webhook.destination.
    #[error("{field}: {problem}")] Invalid { field: String, problem: String },
    #[error("{kind} {name} was changed by somebody else: read it again")] Stale { kind: &'static str, name: String, revision: u64 },
    #[error("{kind} {name} is used by {by}")] InUse { kind: &'static str, name: String, by: String },
    #[error("the account has reached its limit of {limit} {kind}")] Limit { kind: &'static str, limit: u64 },
    /// Retry; with an unknown outcome read first.
    #[error("the catalog has no leader here")] Unavailable,
    #[error("the outcome is unknown")] Unknown,
}

#[derive(Clone, Debug)]
pub struct CatalogOptions { pub sinks_max: u64, pub subscriptions_max: u64, pub event_types_max: u64, pub schemas_max: u64, pub schema_bytes_max: u64, pub partitions: u16, /// entries between ordinary snapshots
    pub snapshot_entries: u64 }
#[derive(Debug, thiserror::Error)]
pub enum OpenError { #[error("open the catalog")] Group(#[source] fanfare_raft::OpenError), #[error("open the catalog's log")] Log(#[source] fanfare_log::OpenError), #[error("open the catalog's store {path}: {message}")] Store { path: String, message: String } }

/// The replicated desired state (Raft group 0). Cheap to clone.
#[derive(Clone)]
pub struct Catalog { _inner: Arc<()> }
impl Catalog {
    /// `dir`: where the sled view lives (rebuilt whenever missing, stale or damaged). Returns when the group of one leads and all is applied.
    pub async fn open(store: fanfare_log::Store, dir: &std::path::Path, options: CatalogOptions, clock: Arc<dyn Fn() -> Timestamp + Send + Sync>) -> Result<Self, OpenError> { let _ = (store, dir, options, clock); todo!() }
    pub fn view(&self) -> Arc<View> { todo!() }
    pub fn watch(&self) -> watch::Receiver<Arc<View>> { todo!() }
    /// The caller behind `Authorization: Bearer KEY`; constant-time in the secret; None for anything that is not a live key.
    pub fn authenticate(&self, key: &str) -> Option<Tenant> { let _ = key; todo!() }

    // Changes: each is one replicated command, validated again when applied; answers when applied and visible in view().
    pub async fn create_account(&self, name: &str) -> Result<Arc<Account>, ChangeError> { let _ = name; todo!() }
    pub async fn create_key(&self, account: AccountId, description: &str) -> Result<NewKey, ChangeError> { let _ = (account, description); todo!() }
    pub async fn create_event_type(&self, tenant: Tenant, new: NewEventType) -> Result<Arc<EventType>, ChangeError> { let _ = (tenant, new); todo!() }
    pub async fn update_event_type(&self, tenant: Tenant, new: NewEventType, expected: Option<u64>) -> Result<Arc<EventType>, ChangeError> { let _ = (tenant, new, expected); todo!() }
    pub async fn delete_event_type(&self, tenant: Tenant, name: &str) -> Result<(), ChangeError> { let _ = (tenant, name); todo!() }
    /// The document is only checked for size here: whoever calls has compiled it.
    pub async fn create_schema(&self, tenant: Tenant, id: &str, description: &str, document: &str) -> Result<Arc<Schema>, ChangeError> { let _ = (tenant, id, description, document); todo!() }
    pub async fn create_schema_version(&self, tenant: Tenant, id: &str, document: &str) -> Result<Arc<Schema>, ChangeError> { let _ = (tenant, id, document); todo!() }
    pub async fn update_schema(&self, tenant: Tenant, id: &str, description: &str, expected: Option<u64>) -> Result<Arc<Schema>, ChangeError> { let _ = (tenant, id, description, expected); todo!() }
    pub async fn delete_schema(&self, tenant: Tenant, id: &str) -> Result<(), ChangeError> { let _ = (tenant, id); todo!() }
    pub async fn create_sink(&self, tenant: Tenant, description: &str, config: SinkConfig) -> Result<Arc<Sink>, ChangeError> { let _ = (tenant, description, config); todo!() }
    pub async fn update_sink(&self, tenant: Tenant, id: SinkId, change: SinkChange) -> Result<Arc<Sink>, ChangeError> { let _ = (tenant, id, change); todo!() }
    pub async fn delete_sink(&self, tenant: Tenant, id: SinkId) -> Result<(), ChangeError> { let _ = (tenant, id); todo!() }
    /// Epoch of a new subscription is the catalog revision of its creation: never reused.
    pub async fn create_subscription(&self, tenant: Tenant, new: NewSubscription, start: StartAt) -> Result<Arc<Subscription>, ChangeError> { let _ = (tenant, new, start); todo!() }
    pub async fn update_subscription(&self, tenant: Tenant, id: SubscriptionId, new: NewSubscription, expected: Option<u64>) -> Result<Arc<Subscription>, ChangeError> { let _ = (tenant, id, new, expected); todo!() }
    pub async fn delete_subscription(&self, tenant: Tenant, id: SubscriptionId) -> Result<(), ChangeError> { let _ = (tenant, id); todo!() }
    pub async fn pause_subscription(&self, tenant: Tenant, id: SubscriptionId) -> Result<Arc<Subscription>, ChangeError> { let _ = (tenant, id); todo!() }
    pub async fn resume_subscription(&self, tenant: Tenant, id: SubscriptionId) -> Result<Arc<Subscription>, ChangeError> { let _ = (tenant, id); todo!() }
    pub async fn shutdown(&self) { todo!() }
}
#[derive(Clone, Debug)]
pub struct NewEventType { pub name: String, pub description: String, pub schema: Option<String>, pub status: EventTypeStatus }
#[derive(Clone, Debug)]
pub struct SinkChange { pub description: String, pub config: SinkConfig, pub expected: Option<u64> }
#[derive(Clone, Debug)]
pub struct NewSubscription { pub description: String, pub sink: SinkId, pub types: Vec<SubscribedType> }
}
pub use contract::*;

//! CONTRACT SKELETON: bodies to be written by the owner of this crate.
use std::{collections::BTreeMap, sync::Arc};
use fanfare_catalog::Catalog;
use fanfare_model::{AccountId, Offset, PartitionId, SubscriptionId, Timestamp};
use fanfare_partition::{Partition, ReadError};
use fanfare_sinks::Factory;

mod contract {
use super::*;
#[derive(Clone, Debug)]
pub struct DeliveryOptions { /// per subscription and partition
    pub window_events: usize, pub window_bytes: usize, /// replicate progress at half a window or after this
    pub advance_interval_ms: u64, /// requests at once per sink
    pub sink_concurrency: usize, pub retry: RetryPolicy, pub parked_keys_max: usize, pub fanout_chunk_bytes: u64 }
/// Exponential backoff with full jitter.
#[derive(Clone, Debug)]
pub struct RetryPolicy { pub initial_ms: u64, pub max_ms: u64, pub factor: f64, /// attempts for a poison event before it is dead-lettered
    pub attempts_max: u32, /// probing a sink that is down
    pub probe_initial_ms: u64, pub probe_max_ms: u64 }
#[derive(Clone)]
pub struct DeliveryParts { pub catalog: Catalog, pub events: Vec<Partition>, /// dead-letters stream, one or more
    pub dead_letters: Vec<Partition>, pub sinks: Factory, pub clock: Arc<dyn fanfare_partition::Clock>, pub seed: u64 }

/// Runs deliveries for every partition this node leads. Cheap to clone.
#[derive(Clone)]
pub struct Delivery { _inner: Arc<()> }
impl Delivery {
    /// Starts one scope per led partition, the reconciler and retention.
    pub fn start(parts: DeliveryParts, options: DeliveryOptions) -> Self { let _ = (parts, options); todo!() }
    /// Waits until every partition of the account's shard has attached this spec revision (created, updated) or detached
    /// the subscription (deleted, not in the catalog any more). The reconciler does the work; this nudges it.
    pub async fn reconciled(&self, account: AccountId, subscription: SubscriptionId) -> Result<(), ReconcileError> { let _ = (account, subscription); todo!() }
    pub fn stats(&self, account: AccountId, subscription: SubscriptionId) -> SubscriptionStats { let _ = (account, subscription); todo!() }
    pub async fn list_dead_letters(&self, account: AccountId, query: DeadLetterQuery) -> Result<DeadLetterPage, ReadError> { let _ = (account, query); todo!() }
    pub async fn dead_letter(&self, account: AccountId, id: &str) -> Result<Option<DeadLetter>, ReadError> { let _ = (account, id); todo!() }
    /// No new attempts, running ones end (up to `drain`), cursors are replicated.
    pub async fn shutdown(&self, drain: std::time::Duration) { let _ = drain; todo!() }
}
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError { #[error("partition {partition} did not confirm in time; it will be attached when it leads again")] Timeout { partition: PartitionId } }
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum State { #[default] Unknown, Active, Paused, SinkDown }
#[derive(Clone, Debug, Default)]
pub struct SubscriptionStats { pub matched: u64, pub delivered: u64, pub dead_lettered: u64, pub expired: u64, pub cancelled: u64, pub pending: u64, /// by reason name
    pub reasons: BTreeMap<&'static str, u64>, pub oldest_pending_age_ms: Option<u64>, pub state: State, pub parked_keys: u32, pub last_failure: String, /// (partition index, matched, pending, frontier)
    pub partitions: Vec<(u16, u64, u64, Offset)> }
#[derive(Clone, Debug, Default)]
pub struct DeadLetterQuery { pub subscription: Option<SubscriptionId>, pub limit: usize, /// opaque, from the last page
    pub after: Option<String> }
#[derive(Clone, Debug)]
pub struct DeadLetterPage { pub letters: Vec<DeadLetter>, pub next: Option<String> }
#[derive(Clone, Debug)]
pub struct DeadLetter { pub id: String, pub subscription: SubscriptionId, pub reason: &'static str, pub detail: String, pub attempts: u32, pub time: Timestamp, pub partition: u16, pub offset: Offset, pub append_time: Timestamp, pub event: bytes::Bytes }
}
pub use contract::*;

//! State that all partitions of this node share for their deliveries.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use fanfare_catalog::{Catalog, json_schema::SchemaCache};
use fanfare_environment::Clock;
use fanfare_model::{AccountId, SubscriptionId};
use fanfare_partition::Partition;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    DeliveryOptions, catch_up_limiter::CatchUpLimiter, dead_letters::DeadLetterStream, leader::LeaderContext,
    sink_pool::SinkPool, subscription::Subscription,
};

pub(crate) struct DeliveryContext {
    pub(crate) catalog: Catalog,
    pub(crate) dead_letters: DeadLetterStream,
    pub(crate) sinks: SinkPool,
    pub(crate) catch_up_limiter: Arc<CatchUpLimiter>,
    pub(crate) schemas: Arc<SchemaCache>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: Arc<DeliveryOptions>,
    pub(crate) intervals: Intervals,
    /// Seed of the jitter.
    pub(crate) seed: u64,
    /// Origin of the monotonic milliseconds, one for all partitions, as they share the circuit breakers.
    pub(crate) started: Instant,
    /// No new attempts; `drain_until` is set before.
    pub(crate) draining: CancellationToken,
    pub(crate) drain_until: OnceLock<Instant>,
}

/// A partition, and its leader while this node leads the partition.
pub(crate) struct PartitionSlot {
    pub(crate) partition: Partition,
    /// None while no leader runs.
    pub(crate) leader: watch::Sender<Option<Arc<LeaderContext>>>,
    /// Incremented when a subscription is attached, changed or detached here, and when leadership begins or ends.
    pub(crate) changed: watch::Sender<u64>,
}

/// How often what is not driven by events is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intervals {
    /// Interval between checks of retention.
    pub(crate) retention_check_ms: u64,
    /// Least time between two small trims.
    pub(crate) trim_interval_ms: u64,
    /// How long a change of a subscription may take.
    pub(crate) reconcile_timeout_ms: u64,
}

impl Default for Intervals {
    fn default() -> Self {
        Self { retention_check_ms: 5_000, trim_interval_ms: 30_000, reconcile_timeout_ms: 10_000 }
    }
}

impl DeliveryContext {
    /// Monotonic milliseconds since delivery started.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).expect("a process runs for less than eons")
    }

    pub(crate) fn instant_of(&self, now_ms: u64) -> Instant {
        self.started + Duration::from_millis(now_ms)
    }
}

impl PartitionSlot {
    pub(crate) fn new(partition: Partition) -> Self {
        Self { partition, leader: watch::Sender::new(None), changed: watch::Sender::new(0) }
    }

    pub(crate) fn is_leading(&self) -> bool {
        self.leader.borrow().is_some()
    }

    /// The subscription, if this node leads the partition and the subscription is attached.
    pub(crate) fn subscription(&self, account: AccountId, id: SubscriptionId) -> Option<Arc<Subscription>> {
        self.leader.borrow().as_ref()?.subscriptions().get(account, id).cloned()
    }

    /// # Panics
    /// If a leader runs already: two would deliver the events of a key out of order.
    pub(crate) fn set_leader(&self, leader: Arc<LeaderContext>) {
        let earlier = self.leader.send_replace(Some(leader));
        assert!(earlier.is_none(), "invariant violation: two leaders deliver from one partition");
        self.notify();
    }

    pub(crate) fn remove_leader(&self) {
        self.leader.send_replace(None);
        self.notify();
    }

    pub(crate) fn notify(&self) {
        self.changed.send_modify(|version| *version += 1);
    }
}

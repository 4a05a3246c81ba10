//! What all partitions of this node share for their deliveries.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use fanfare_catalog::{Catalog, json_schema::SchemaCache};
use fanfare_model::SubscriptionId;
use fanfare_partition::{Clock, Partition};
use parking_lot::RwLock;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    DeliveryOptions, letters::Letters, restraint::Restraint, sink_pool::SinkPool, subscription::Cell,
};

pub(crate) struct Node {
    pub(crate) catalog: Catalog,
    pub(crate) letters: Letters,
    pub(crate) sinks: SinkPool,
    pub(crate) restraint: Arc<Restraint>,
    pub(crate) schemas: Arc<SchemaCache>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: Arc<DeliveryOptions>,
    pub(crate) pace: Pace,
    pub(crate) seed: u64,
    /// No new attempts; `drain_until` is set before.
    pub(crate) draining: CancellationToken,
    pub(crate) drain_until: OnceLock<Instant>,
}

/// A partition and what is known of its subscriptions while this node leads it.
pub(crate) struct Lead {
    pub(crate) partition: Partition,
    pub(crate) cells: RwLock<HashMap<SubscriptionId, Arc<Cell>>>,
    /// Bumped when a subscription was attached, changed or detached here, and when leadership begins or ends.
    pub(crate) changed: watch::Sender<u64>,
    /// Whether a scope runs.
    pub(crate) leads: watch::Sender<bool>,
}

/// How often what is not driven by events is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Whether retention is due.
    pub(crate) retention_check_ms: u64,
    /// Least time between two small trims.
    pub(crate) trim_interval_ms: u64,
    /// How long a change of a subscription may take.
    pub(crate) reconcile_timeout_ms: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { retention_check_ms: 5_000, trim_interval_ms: 30_000, reconcile_timeout_ms: 10_000 }
    }
}

impl Lead {
    pub(crate) fn new(partition: Partition) -> Self {
        let cells = RwLock::default();
        Self { partition, cells, changed: watch::Sender::new(0), leads: watch::Sender::new(false) }
    }

    pub(crate) fn cell(&self, subscription: SubscriptionId) -> Option<Arc<Cell>> {
        self.cells.read().get(&subscription).cloned()
    }

    pub(crate) fn bump(&self) {
        self.changed.send_modify(|version| *version += 1);
    }
}

//! State that all partitions of this node share for their deliveries.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use fanfare_catalog::{Catalog, json_schema::SchemaCache};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    DeliveryOptions, catch_up_limiter::CatchUpLimiter, dead_letters::DeadLetterStream, sink_pool::SinkPool,
};

pub(crate) struct DeliveryContext {
    pub(crate) catalog: Catalog,
    pub(crate) dead_letters: DeadLetterStream,
    pub(crate) sinks: SinkPool,
    pub(crate) catch_up_limiter: Arc<CatchUpLimiter>,
    pub(crate) schemas: Arc<SchemaCache>,
    /// Wakes the leaders of dead letters.
    pub(crate) redrive_started: Notify,
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

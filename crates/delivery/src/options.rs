//! The operator's settings of deliveries.

/// Limits and intervals of deliveries.
#[derive(Clone, Debug)]
pub struct DeliveryOptions {
    /// Maximum of events of one subscription in one partition that are unsettled in memory, or settled and not yet
    /// replicated. Bounds the duplicates after a crash.
    pub window_events: usize,
    /// The same limit in bytes; one event may exceed the limit alone.
    pub window_bytes: usize,
    /// Progress is replicated at half a window or after this interval.
    pub advance_interval_ms: u64,
    /// Concurrent requests per sink; a sink's own setting may be lower.
    pub sink_concurrency: usize,
    /// The policy of sinks without settings of their own.
    pub retry: RetryPolicy,
    /// Keys of one subscription in one partition that are held back by a failing event. Events of further failing keys
    /// take up room in the window.
    pub parked_keys_max: usize,
    /// Size of one read of the log.
    pub fanout_chunk_bytes: u64,
}

impl DeliveryOptions {
    /// Upper bound of `window_events`: a subscription's replicated record has room for so many.
    pub const WINDOW_EVENTS_MAX: usize = 4096;
    /// Upper bound of `parked_keys_max`: a checkpoint has 36 bytes for each.
    pub const PARKED_KEYS_MAX: usize = 65_536;
}

/// Exponential backoff with full jitter.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    pub initial_ms: u64,
    pub max_ms: u64,
    pub factor: f64,
    /// Attempts for an event that fails alone before it becomes a dead letter. None: it is attempted until retention
    /// overtakes it.
    pub attempts_max: Option<u32>,
    /// Rejections after which an event becomes a dead letter where no other key proves that the sink takes events.
    pub rejections_min: u32,
    /// The least time that they take.
    pub rejected_for_min_ms: u64,
    /// First delay between probes of a sink that is down, or throttles without naming a time.
    pub probe_initial_ms: u64,
    /// Upper bound of the delay between probes.
    pub probe_max_ms: u64,
}

impl RetryPolicy {
    /// The product's rule for [`Self::rejections_min`].
    pub const REJECTIONS_MIN: u32 = 10;
    /// The product's rule for [`Self::rejected_for_min_ms`].
    pub const REJECTED_FOR_MIN_MS: u64 = 10 * 60 * 1_000;
}

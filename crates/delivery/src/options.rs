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
    /// Concurrent requests per sink.
    pub sink_concurrency: usize,
    pub retry: RetryPolicy,
    /// More failing keys pause the subscription like an outage of the sink.
    pub parked_keys_max: usize,
    /// Size of one read of the log.
    pub fanout_chunk_bytes: u64,
}

impl DeliveryOptions {
    /// Upper bound of `window_events`: a subscription's replicated record has room for so many.
    pub const WINDOW_EVENTS_MAX: usize = 4096;
    /// Upper bound of `parked_keys_max`, for the same reason.
    pub const PARKED_KEYS_MAX: usize = 1024;
}

/// Exponential backoff with full jitter.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    pub initial_ms: u64,
    pub max_ms: u64,
    pub factor: f64,
    /// Attempts for an event that fails alone before it becomes a dead letter.
    pub attempts_max: u32,
    /// First delay between probes of a sink that is down.
    pub probe_initial_ms: u64,
    /// Upper bound of the delay between probes.
    pub probe_max_ms: u64,
}

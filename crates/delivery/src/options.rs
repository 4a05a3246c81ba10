//! What an operator decides about deliveries.

/// Limits and pace of deliveries.
#[derive(Clone, Debug)]
pub struct DeliveryOptions {
    /// Most events of one subscription in one partition that are unsettled in memory, or settled and not yet
    /// replicated: the bound of duplicates after a crash.
    pub window_events: usize,
    /// The same in bytes; one event may exceed it alone.
    pub window_bytes: usize,
    /// Progress is replicated at half a window or after this.
    pub advance_interval_ms: u64,
    /// Requests at once per sink.
    pub sink_concurrency: usize,
    pub retry: RetryPolicy,
    /// More failing keys than this hold the subscription as an outage does.
    pub parked_keys_max: usize,
    /// What one account's dead letters may take; events beyond it expire instead.
    pub dead_letter_bytes_max: u64,
    /// How much of the log is read at once.
    pub fanout_chunk_bytes: u64,
}

impl DeliveryOptions {
    /// Most that `window_events` may be: all of them can stand in a subscription's replicated record.
    pub const WINDOW_EVENTS_MAX: usize = 4096;
    /// Most that `parked_keys_max` may be, for the same reason.
    pub const PARKED_KEYS_MAX: usize = 1024;
}

/// Exponential backoff with full jitter.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    pub initial_ms: u64,
    pub max_ms: u64,
    pub factor: f64,
    /// Attempts for a poison event before it is dead-lettered.
    pub attempts_max: u32,
    /// Probing a sink that is down.
    pub probe_initial_ms: u64,
    pub probe_max_ms: u64,
}

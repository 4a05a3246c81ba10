//! Configuration: one tree, filled from defaults, then a TOML file, then `FANFARE_` variables, then flags.
//!
//! Owns names, defaults and checks. Every key stands with its default, unit and effect in
//! `deploy/config.example.toml`; a test holds the two equal.

mod load;
mod streams;
mod units;

use std::{net::SocketAddr, path::PathBuf};

use fanfare_delivery::{DeliveryOptions, RetryPolicy};
use fanfare_edge::ListenerLimits;
use fanfare_ingest::{IngestLimits, ReadLimits};
use fanfare_log::StoreOptions;
use fanfare_sinks::{ConnectionLimits, EgressPolicy};
use serde::{Deserialize, Serialize};

pub(crate) use load::load;
pub(crate) use units::{ByteSize, Span};

/// Everything an operator can set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) node: NodeConfig,
    pub(crate) listen: ListenConfig,
    pub(crate) storage: StorageConfig,
    pub(crate) publish: PublishConfig,
    pub(crate) delivery: DeliveryConfig,
    pub(crate) sinks: SinksConfig,
    pub(crate) limits: LimitsConfig,
    pub(crate) telemetry: TelemetryConfig,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NodeConfig {
    /// Log, votes, checkpoints, catalog. One process at a time.
    pub(crate) data_dir: PathBuf,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self { data_dir: "/var/lib/fanfare".into() }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ListenConfig {
    /// gRPC: publishing, reading, control.
    pub(crate) grpc: SocketAddr,
    /// Allow `grpc` on an address other than loopback. Keys then cross the network in clear.
    pub(crate) allow_plaintext: bool,
    /// Connections at once; further ones are closed when they are accepted.
    pub(crate) connections_max: usize,
    /// Calls at once; a stream is one while it is open.
    pub(crate) requests_max: usize,
    /// Memory for what clients send before it is read, divided among the connections.
    pub(crate) window_bytes_max: ByteSize,
    /// Memory for requests that are being received and not complete.
    pub(crate) arriving_bytes_max: ByteSize,
    /// A connection without a call with a key for so long is closed.
    pub(crate) idle_timeout: Span,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            grpc: SocketAddr::from(([127, 0, 0, 1], 7070)),
            allow_plaintext: false,
            connections_max: 512,
            requests_max: 1024,
            window_bytes_max: ByteSize::mib(256),
            arriving_bytes_max: ByteSize::mib(64),
            idle_timeout: Span::seconds(600),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StorageConfig {
    /// Age at which events may leave the log.
    pub(crate) retention: Span,
    /// Size at which the oldest events of a partition leave the log before their time.
    pub(crate) retention_bytes: ByteSize,
    /// Age at which dead letters leave the log.
    pub(crate) dead_letter_retention: Span,
    /// Size of all dead letters; beyond it events that are given up are held until they expire.
    pub(crate) dead_letter_retention_bytes: ByteSize,
    /// Size of a segment file.
    pub(crate) segment_bytes: ByteSize,
    /// Written spare segment files kept ready.
    pub(crate) pool_segments_max: usize,
    /// Memory for the newest entries of all partitions.
    pub(crate) cache_bytes: ByteSize,
    /// Bytes handed to the disk and not yet written.
    pub(crate) queue_bytes_max: ByteSize,
    /// Memory for the secondary index of segments that are still written, all partitions together.
    pub(crate) index_draft_bytes: ByteSize,
    /// Upper bound of written log pages that stay in the system's page cache.
    pub(crate) page_cache_bytes: ByteSize,
    /// Memory for parts of the log that lagging readers read again, all partitions together.
    pub(crate) read_cache_bytes: ByteSize,
    /// Interval between checkpoints of a partition's state.
    pub(crate) checkpoint_interval: Span,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            retention: Span::seconds(4 * 3600),
            retention_bytes: ByteSize(16 << 30),
            dead_letter_retention: Span::seconds(7 * 86_400),
            dead_letter_retention_bytes: ByteSize(4 << 30),
            segment_bytes: ByteSize::mib(64),
            pool_segments_max: 8,
            cache_bytes: ByteSize::mib(96),
            queue_bytes_max: ByteSize::mib(64),
            index_draft_bytes: ByteSize::mib(64),
            page_cache_bytes: ByteSize::mib(256),
            read_cache_bytes: ByteSize::mib(52),
            checkpoint_interval: Span::seconds(5),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PublishConfig {
    /// Partitions of the stream `events`. May grow, never shrink.
    pub(crate) partitions: u16,
    /// Time for which a repeated (source, id) is recognized.
    pub(crate) dedup_window: Span,
    /// Memory for that, all partitions together; under load it shortens the window.
    pub(crate) dedup_bytes: ByteSize,
    /// Largest log entry, unless one event alone is larger.
    pub(crate) entry_bytes_max: ByteSize,
    /// Bytes waiting for the logs of all partitions; each partition has an equal share.
    pub(crate) queue_bytes_max: ByteSize,
    /// Bytes of events being published on the whole node.
    pub(crate) inflight_bytes_max: ByteSize,
    /// Unanswered events a publishing stream may have.
    pub(crate) stream_window_events: u32,
    /// Unanswered bytes a publishing stream may have.
    pub(crate) stream_window_bytes: ByteSize,
    /// Memory for compiled schemas, told by the size of their documents.
    pub(crate) schema_cache_bytes: ByteSize,
}

impl Default for PublishConfig {
    fn default() -> Self {
        Self {
            partitions: 12,
            dedup_window: Span::seconds(600),
            dedup_bytes: ByteSize::mib(104),
            entry_bytes_max: ByteSize::mib(1),
            queue_bytes_max: ByteSize::mib(208),
            inflight_bytes_max: ByteSize::mib(64),
            stream_window_events: 4096,
            stream_window_bytes: ByteSize::mib(4),
            schema_cache_bytes: ByteSize::mib(16),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DeliveryConfig {
    /// Unsettled events per subscription and partition; also the bound of duplicates after a crash.
    pub(crate) window_events: usize,
    /// Their bytes.
    pub(crate) window_bytes: ByteSize,
    /// Progress is replicated at half a window or after this.
    pub(crate) advance_interval: Span,
    /// Requests at once per sink.
    pub(crate) sink_concurrency: usize,
    /// Failing keys that a subscription holds back in a partition by their position alone.
    pub(crate) parked_keys_max: usize,
    /// First wait before a failed event is tried again.
    pub(crate) retry_initial: Span,
    /// Longest wait between two tries.
    pub(crate) retry_max: Span,
    /// Factor from one wait to the next.
    pub(crate) retry_factor: f64,
    /// Tries of an event that fails while others pass, before it becomes a dead letter. 0: until retention.
    pub(crate) attempts_max: u32,
    /// First wait before a sink that is down is probed.
    pub(crate) probe_initial: Span,
    /// Longest wait between two probes.
    pub(crate) probe_max: Span,
    /// Time that running requests get when the node stops.
    pub(crate) drain_timeout: Span,
    /// Private networks that sinks may be in.
    pub(crate) allow_cidrs: Vec<ipnet::IpNet>,
    /// Allow webhooks without TLS.
    pub(crate) allow_http: bool,
}

impl Default for DeliveryConfig {
    fn default() -> Self {
        Self {
            window_events: 256,
            window_bytes: ByteSize::mib(4),
            advance_interval: Span::millis(50),
            sink_concurrency: 64,
            parked_keys_max: 16_384,
            retry_initial: Span::seconds(1),
            retry_max: Span::seconds(600),
            retry_factor: 2.0,
            attempts_max: 0,
            probe_initial: Span::millis(500),
            probe_max: Span::seconds(30),
            drain_timeout: Span::seconds(10),
            allow_cidrs: Vec::new(),
            allow_http: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SinksConfig {
    /// Open connections of all sinks.
    pub(crate) connections_max: usize,
    /// Open connections of one account's sinks.
    pub(crate) account_connections_max: usize,
    pub(crate) kinesis: KinesisSinksConfig,
}

impl Default for SinksConfig {
    fn default() -> Self {
        Self { connections_max: 1024, account_connections_max: 256, kinesis: KinesisSinksConfig::default() }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct KinesisSinksConfig {
    /// Allow sinks without a role: they write with this node's own credentials.
    pub(crate) allow_node_credentials: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LimitsConfig {
    /// Largest event.
    pub(crate) event_bytes_max: ByteSize,
    /// Largest request.
    pub(crate) request_bytes_max: ByteSize,
    /// SinksConfig per account.
    pub(crate) sinks_max: u64,
    /// Subscriptions per account.
    pub(crate) subscriptions_max: u64,
    /// Event types per account.
    pub(crate) event_types_max: u64,
    /// Schemas per account.
    pub(crate) schemas_max: u64,
    /// JSON Schema documents of all versions of one account's schemas, in bytes.
    pub(crate) schema_documents_bytes_max: ByteSize,
    /// Largest JSON Schema document.
    pub(crate) schema_bytes_max: ByteSize,
    /// Open reads of events on the node.
    pub(crate) reads_max: usize,
    /// Open reads of events of one account.
    pub(crate) account_reads_max: usize,
    /// Part of `storage.retention_bytes` that one account's events may take while others need the rest.
    pub(crate) retained_percent: u8,
    /// Upper bound of one account's dead letters; at most the bound of all accounts.
    pub(crate) dead_letter_bytes_max: ByteSize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            event_bytes_max: ByteSize::kib(512),
            request_bytes_max: ByteSize::mib(4),
            sinks_max: 100,
            subscriptions_max: 100,
            event_types_max: 1000,
            schemas_max: 1000,
            schema_documents_bytes_max: ByteSize::mib(16),
            schema_bytes_max: ByteSize::kib(256),
            reads_max: 64,
            account_reads_max: 16,
            retained_percent: 50,
            dead_letter_bytes_max: ByteSize(1 << 30),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TelemetryConfig {
    /// Filter of log lines, such as `info` or `info,fanfare_delivery=debug`.
    pub(crate) log: String,
    /// `text`, `json`, or `auto`: text on a terminal, JSON otherwise.
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Auto,
    Text,
    Json,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { log: "info,openraft=warn".into(), log_format: LogFormat::Auto }
    }
}

impl StorageConfig {
    pub(crate) fn store_options(&self) -> StoreOptions {
        StoreOptions {
            segment_bytes: self.segment_bytes.0,
            pool_segments_max: self.pool_segments_max,
            cache_bytes: self.cache_bytes.0,
            queue_bytes_max: self.queue_bytes_max.0,
            index_draft_bytes_max: self.index_draft_bytes.0,
            page_cache_bytes: self.page_cache_bytes.0,
        }
    }
}

impl Config {
    pub(crate) fn delivery_options(&self) -> DeliveryOptions {
        let delivery = &self.delivery;
        DeliveryOptions {
            window_events: delivery.window_events,
            window_bytes: delivery.window_bytes.as_usize(),
            advance_interval_ms: delivery.advance_interval.as_millis(),
            sink_concurrency: delivery.sink_concurrency,
            retry: RetryPolicy {
                initial_ms: delivery.retry_initial.as_millis(),
                max_ms: delivery.retry_max.as_millis(),
                factor: delivery.retry_factor,
                attempts_max: (delivery.attempts_max > 0).then_some(delivery.attempts_max),
                rejections_min: RetryPolicy::REJECTIONS_MIN,
                rejected_for_min_ms: RetryPolicy::REJECTED_FOR_MIN_MS,
                probe_initial_ms: delivery.probe_initial.as_millis(),
                probe_max_ms: delivery.probe_max.as_millis(),
            },
            parked_keys_max: delivery.parked_keys_max,
            fanout_chunk_bytes: 1 << 20,
        }
    }

    pub(crate) fn ingest_limits(&self) -> IngestLimits {
        IngestLimits {
            event_bytes_max: self.limits.event_bytes_max.as_usize(),
            request_bytes_max: self.limits.request_bytes_max.as_usize(),
            inflight_bytes_max: self.publish.inflight_bytes_max.as_u32(),
            stream_window_events: self.publish.stream_window_events,
            stream_window_bytes: self.publish.stream_window_bytes.as_u32(),
            schema_cache_bytes: self.publish.schema_cache_bytes.as_usize(),
        }
    }

    pub(crate) fn read_limits(&self) -> ReadLimits {
        ReadLimits { reads_max: self.limits.reads_max, account_reads_max: self.limits.account_reads_max }
    }

    pub(crate) fn listener_limits(&self) -> ListenerLimits {
        let listen = &self.listen;
        ListenerLimits {
            connections_max: listen.connections_max,
            requests_max: listen.requests_max,
            window_bytes_max: listen.window_bytes_max.as_usize(),
            arriving_bytes_max: listen.arriving_bytes_max.as_usize(),
            idle_timeout: listen.idle_timeout.0,
        }
    }

    pub(crate) fn connection_limits(&self) -> ConnectionLimits {
        ConnectionLimits {
            connections_max: self.sinks.connections_max,
            account_connections_max: self.sinks.account_connections_max,
        }
    }

    pub(crate) fn egress_policy(&self) -> EgressPolicy {
        EgressPolicy {
            allow_cidrs: self.delivery.allow_cidrs.clone(),
            allow_http: self.delivery.allow_http,
            allow_loopback: false,
            allow_node_credentials: self.sinks.kinesis.allow_node_credentials,
        }
    }
}

#[cfg(test)]
mod tests;

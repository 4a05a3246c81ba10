//! CONTRACT SKELETON: bodies to be written by the owner of this crate.
use std::{future::Future, pin::Pin, sync::Arc, time::Duration};
use bytes::Bytes;
use fanfare_model::{KeyHash, Offset, SinkConfig, Timestamp};

mod contract {
use super::*;
/// One event to be delivered. `bytes` is the stored CloudEvent (model::Event::parse reads it).
#[derive(Clone, Debug)]
pub struct Delivery { pub bytes: Bytes, pub offset: Offset, pub partition: u16, pub key: KeyHash, /// used as `time` if the producer gave none
    pub append_time: Timestamp, /// replaces the event's `dataschema`
    pub dataschema: Option<Arc<str>> }

/// What became of one event in one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    /// The sink answered that this may work later; it said when, perhaps.
    Retry { after: Option<Duration>, why: Failure },
    /// This event will never be taken.
    Rejected { why: Failure },
    /// Nothing can be delivered at all: connection failed, credentials refused, destination gone.
    SinkDown { after: Option<Duration>, why: Failure },
}
/// For people and for stats: a stable class and one line, at most 256 characters, sanitized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure { /// e.g. http_status, timeout, connect, tls, dns, address_forbidden, throttled
    pub class: &'static str, /// HTTP status or the like, 0 if none
    pub status: u16, pub message: String }

/// What a kind of sink can do; delivery plans its attempts by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities { /// most events in one attempt
    pub batch_events_max: usize, pub batch_bytes_max: usize, /// one event's limit
    pub event_bytes_max: usize, /// two events of one key may share an attempt and keep their order
    pub keeps_key_order_in_batch: bool, /// the outcome covers the whole batch (all equal)
    pub atomic_batch: bool }

pub type AttemptFuture<'a> = Pin<Box<dyn Future<Output = Vec<Outcome>> + Send + 'a>>;
/// A destination. One attempt, one outcome per event, in order; never sleeps, never retries, ends within its own timeout.
/// Dropping the future aborts the attempt.
pub trait Sink: Send + Sync + 'static {
    fn abilities(&self) -> Abilities;
    fn attempt(&self, events: Vec<Delivery>) -> AttemptFuture<'_>;
}

/// Where sinks may connect to.
#[derive(Clone, Debug, Default)]
pub struct EgressPolicy { /// private networks the operator allows
    pub allow_cidrs: Vec<ipnet::IpNet>, /// plain http is refused unless this is set
    pub allow_http: bool, /// loopback, for dev
    pub allow_loopback: bool }
#[derive(Debug, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConfigError { /// within the sink, e.g. webhook.destination, kinesis.arn
    pub field: &'static str, pub problem: String }

/// Makes sinks and checks configurations by the same rules. Owns the shared HTTP client. Cheap to clone.
#[derive(Clone)]
pub struct Factory { _inner: Arc<()> }
impl Factory {
    pub fn new(policy: EgressPolicy) -> Self { let _ = policy; todo!() }
    /// What can be told without connecting: URL form, scheme, literal addresses, ARN, limits.
    pub fn check(&self, config: &SinkConfig) -> Result<(), ConfigError> { let _ = config; todo!() }
    pub fn build(&self, config: &SinkConfig) -> Result<Arc<dyn Sink>, ConfigError> { let _ = config; todo!() }
    /// A fresh Standard Webhooks secret: whsec_ and base64 of 24 random bytes.
    pub fn signing_secret() -> fanfare_model::Secret { todo!() }
}
}
pub use contract::*;

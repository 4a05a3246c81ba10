//! The contract between delivery and a destination.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use fanfare_model::{KeyHash, Offset, Timestamp};

use crate::Failure;

/// A destination.
///
/// An attempt never retries and ends within the sink's own timeout. Dropping the future aborts it; whether the
/// receiver took the events is then unknown.
pub trait Sink: Send + Sync + 'static {
    /// The limits that an attempt must keep within.
    fn abilities(&self) -> Abilities;

    /// Tries once to deliver `events`, which keep within [`Sink::abilities`]. One outcome per event, in order.
    fn attempt(&self, events: Vec<Delivery>) -> AttemptFuture<'_>;
}

pub type AttemptFuture<'a> = Pin<Box<dyn Future<Output = Vec<Outcome>> + Send + 'a>>;

/// One event to be delivered.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The stored CloudEvent, as [`fanfare_model::Event::parse`] reads it.
    pub bytes: Bytes,
    pub offset: Offset,
    pub partition: u16,
    pub key: KeyHash,
    /// The `time` of an event whose producer gave none.
    pub append_time: Timestamp,
    /// Replaces the event's own `dataschema`.
    pub dataschema: Option<Arc<str>>,
}

/// The result of one attempt for one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    /// A later attempt may succeed; `after` is the delay that the receiver asked for.
    Retry {
        after: Option<Duration>,
        why: Failure,
    },
    /// The receiver asks for a slower pace; `after` is the delay that it asked for. Nobody is at fault.
    Throttled {
        after: Option<Duration>,
        why: Failure,
    },
    /// The receiver will never take this event.
    Rejected {
        why: Failure,
    },
    /// Nothing can be delivered at all: connection failed, credentials refused, destination gone.
    SinkDown {
        after: Option<Duration>,
        why: Failure,
    },
}

/// Limits and guarantees of a sink's attempts, by which delivery plans them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Maximum number of events in one attempt.
    pub batch_events_max: usize,
    /// Maximum of stored bytes in one attempt of several events.
    pub batch_bytes_max: usize,
    /// Maximum of stored bytes of one event.
    pub event_bytes_max: usize,
    /// Two events of one key may share an attempt and keep their order.
    pub keeps_key_order_in_batch: bool,
    /// One outcome covers all events of an attempt that could be sent.
    pub atomic_batch: bool,
}

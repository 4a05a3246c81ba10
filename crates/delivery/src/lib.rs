//! From a partition's log to the sinks: fan-out, per-key order, the window in flight, retries, outages, dead letters.
//!
//! Everything here runs only while this node leads a partition and is rebuilt from what the partition has
//! replicated. Sinks make single attempts; time, retries, order and what finally becomes of an event are decided
//! here alone. Nothing is settled before it is certain, and nothing that was matched is forgotten:
//! `matched = delivered + dead-lettered + expired + cancelled + pending`, at any moment.

mod delivery;
mod options;
mod stats;

mod context;
mod leader;
mod leadership;
mod partitions;

mod filter;

mod backlog_reader;
mod key_sweep;
mod subscription;

mod backoff;
mod catch_up_limiter;
mod judgement;

mod dead_letters;
mod redrive;
mod sink_pool;

pub use fanfare_cluster::RouteError;
pub use fanfare_partition::{
    CommandError, ReadError, Reason, Redrive, RedriveKind, RedriveState, Refusal, Withdrawals,
};

pub use self::{
    dead_letters::{DeadLetter, DeadLetterError, DeadLetterPage, DeadLetterQuery},
    delivery::{Delivery, DeliveryParts, ReconcileError},
    filter::{AccountIndex, Filter, FilterIndex, SchemaPin, SlotId, TypeMatch},
    options::{DeliveryOptions, RetryPolicy},
    redrive::{DeadLetterFilter, NewRedrive, RedriveError},
    stats::{State, SubscriptionStats, Timestamps},
};

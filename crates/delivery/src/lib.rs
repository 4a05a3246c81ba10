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

mod index;
mod spec;

mod subscription;
mod sweep;
mod worker;

mod judgement;
mod restraint;
mod retry;

mod dead_letter;
mod letters;
mod schema_pin;
mod sink_pool;

pub use self::{
    dead_letter::DeadLetter,
    delivery::{Delivery, DeliveryParts, ReconcileError},
    index::{Choices, MatchIndex, Target},
    letters::{DeadLetterPage, DeadLetterQuery},
    options::{DeliveryOptions, RetryPolicy},
    stats::{State, SubscriptionStats},
};

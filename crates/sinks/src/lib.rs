//! Destinations of events: one folder per kind of sink, one attempt per call, one outcome per event.
//!
//! Owns the encoding for receivers (CloudEvents JSON), signing, and the policy of which addresses may be
//! connected to. Never retries, never waits for anything but its own attempt, and keeps no event afterwards:
//! time, order and dead letters belong to the crate `delivery`.

mod factory;
mod sink;

mod cloudevent;
mod egress;
mod failure;

mod kinesis;
pub mod memory;
mod webhook;

mod config_error;
#[cfg(test)]
mod fixture;

pub use self::{
    config_error::ConfigError,
    egress::{ConnectionLimits, EgressPolicy, NetworkStack, Socket},
    factory::Factory,
    failure::Failure,
    sink::{Abilities, AttemptFuture, Delivery, Outcome, Sink},
};

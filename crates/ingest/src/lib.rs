//! Events in and out, whatever the protocol: validate, route by key, admit by bytes, append, acknowledge on commit; and
//! read committed events back.
//!
//! [`Ingest`] publishes, alone or along a [`PublishSession`] that keeps a producer's order; [`EventReader`] reads. No
//! wire format but the events' own is known here. An event's bytes are the producer's: they are scanned in place, never
//! re-encoded, and copied once. Nothing is answered as committed that a partition has not committed.

mod ingest;
mod session;

mod admission;
mod batch;
mod order;
mod outcome;
mod refusal;
mod validation;

mod read;

pub use fanfare_catalog::{
    Tenant,
    json_schema::{DataProblem, Violation},
};
pub use fanfare_partition::{AppendError, ReadError, StoredEvent};

pub use self::{
    batch::{BatchSize, InflightBatch, PublishBatch},
    ingest::{Ingest, IngestLimits, IngestParts},
    outcome::{BatchOutcome, Committed, PublishOutcome},
    read::{EventPage, EventPages, EventReader, ReadFrom, ReadLimits, ReadQuery, ReadRefusal},
    refusal::Refusal,
    session::PublishSession,
    validation::{ID_BYTES_MAX, SOURCE_BYTES_MAX},
};

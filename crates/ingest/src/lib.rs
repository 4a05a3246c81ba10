//! Events in and out at the public edge: authenticate, validate, route by key, admit by bytes, append,
//! acknowledge on commit; and read committed events back.
//!
//! [`Ingest`] is the core that any edge may use; [`PublisherEdge`] and [`ReaderEdge`] are its gRPC services.
//! An event's bytes are the producer's: they are looked at here, never re-encoded, and copied once.
//! Nothing is answered as committed that a partition has not committed.

mod admission;
mod authentication;
mod edge;
mod ingest;
mod lanes;
mod publisher;
mod read;
mod reader;
mod refusal;
mod round;
mod status;
mod stream;
mod validation;
mod wire;

pub use authentication::{Authentication, authenticate};
pub use edge::Edge;
pub use ingest::{Committed, Ingest, IngestLimits, PublishOutcome};
pub use publisher::{Publisher, PublisherEdge};
pub use read::ReadLimits;
pub use reader::{Reader, ReaderEdge};
pub use refusal::Refusal;
pub use status::overloaded;

#[cfg(test)]
mod tests;

//! The place of every partition: one directory for all who need a partition, and the replicas of this node behind it.
//!
//! The catalog places replicas on brokers; [`Replicas`] opens and closes those of this node and publishes the
//! [`Directory`]. No other crate holds partitions by number, so that a partition can move without its users knowing.

mod directory;
mod forward;
mod placement;
mod replicas;

pub use self::{
    directory::{Directory, Location, Locations, RouteError},
    forward::{AppendForwarder, NoForwarder, RemoteAppend},
    replicas::{OpenError, Replicas, ReplicasParts, StreamOptions},
};

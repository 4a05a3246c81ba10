//! Groups of real replicas in one process, over the log's in-memory file system or a temporary directory.

mod anchored;
mod cluster;
mod crash;
mod failures;
mod group_of_one;
mod leadership;
mod ledger;
mod node;
mod recovery;
mod repair;
mod store_suite;
mod tails;
mod transport;

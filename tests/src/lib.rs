//! Harness for the suites that start real nodes: processes, receivers, clients, and conditions with deadlines.

pub mod client;
pub mod disk;
pub mod node;
pub mod receiver;

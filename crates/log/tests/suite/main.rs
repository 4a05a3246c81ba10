//! The log's promises, on tiny segments in memory.
mod crash;
mod damage;
mod faults;
mod golden;
mod log;
mod model;
mod pool;
mod property;
mod store;
mod support;

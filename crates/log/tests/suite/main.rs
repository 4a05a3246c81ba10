//! The log's promises, on tiny segments in memory.
mod crash;
mod damage;
mod descriptors;
mod faults;
mod golden;
mod header_scan;
mod isolation;
mod log;
mod model;
mod pages;
mod pool;
mod property;
mod repair;
mod secondary_index;
mod store;
mod support;
mod watched;

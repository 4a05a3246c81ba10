//! The log's promises, on tiny segments in memory.
mod crash;
mod damage;
mod log;
mod model;
mod support;

//! The log's promises, on tiny segments in memory.
mod log;
mod support;

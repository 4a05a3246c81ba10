//! The catalog's objects on disk, kept up to date behind the state: what makes a start short.
//!
//! Nothing lives only here. The store holds the state of one log position and says which; if it is missing, older
//! than the log, newer than the log, of another log or damaged, it is built again from checkpoint and log. Its
//! position never exceeds what the log has flushed.

mod contents;
mod key;
mod opening;
mod sled_view;
mod writer;

#[cfg(test)]
mod mem_view;
#[cfg(test)]
mod tests;

pub(crate) use opening::{Opened, open};
pub use opening::{RebuildReason, ViewStart};
pub(crate) use writer::Writer;

/// Ordered keys and values that change in atomic batches. Every call blocks.
pub(crate) trait ViewStore: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Shows everything in key order until `visit` fails.
    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), StoreError>;
    /// All of the batch or, after a crash, none of it.
    fn write(&self, batch: Vec<Operation>) -> Result<(), StoreError>;
    /// Makes what was written outlive the process.
    fn flush(&self) -> Result<(), StoreError>;
}

pub(crate) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError> + 'a;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Put { key: Vec<u8>, value: Vec<u8> },
    Delete { key: Vec<u8> },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(transparent)]
    Engine(#[from] sled::Error),
    #[error("the record at {key} {problem}")]
    Record { key: String, problem: String },
    #[error("the store's contents do not match its mark")]
    Mark,
    #[error("the store's engine panicked")]
    Panic,
}

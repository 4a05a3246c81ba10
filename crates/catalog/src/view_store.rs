//! The catalog's objects on disk, written behind the state so that a start replays little of the log.
//!
//! The store is a cache. It holds the state of one log position and names that position. A store that is missing,
//! older than the log, newer than the log, of another log or damaged is built again from checkpoint and log. Its
//! position never exceeds what the log has flushed.

mod key;
mod memory;
mod opening;
mod sled;
mod stored;
mod writer;

#[cfg(test)]
mod tests;

use std::{error::Error, sync::Arc};

pub use self::{memory::MemoryView, opening::ViewStorage};
pub(crate) use self::{
    opening::{OpenedView, RebuildReason, ViewStart},
    writer::ViewWriter,
};

/// Ordered keys and values that change in atomic batches. Every call blocks.
pub(crate) trait ViewStore: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ViewStoreError>;
    /// Shows every record in key order until `visit` fails.
    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), ViewStoreError>;
    /// All of the batch or, after a crash, none of it.
    fn write(&self, batch: Vec<Operation>) -> Result<(), ViewStoreError>;
    /// Makes written batches outlive the process.
    fn flush(&self) -> Result<(), ViewStoreError>;
}

pub(crate) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), ViewStoreError> + 'a;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Put { key: Vec<u8>, value: Vec<u8> },
    Delete { key: Vec<u8> },
}

/// The view's store cannot be read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ViewStoreError {
    #[error("the store's engine failed")]
    Engine(#[source] Arc<dyn Error + Send + Sync>),
    #[error("the store's engine panicked")]
    EnginePanicked,
    /// `key` is in hexadecimal.
    #[error("the record at {key} is unreadable")]
    UnreadableRecord {
        key: String,
        #[source]
        source: Arc<serde_json::Error>,
    },
    #[error("the key {key} is no object's")]
    UnknownKey { key: String },
    #[error("the record at {key} belongs to no account")]
    NoAccount { key: String },
    #[error("the store's records do not have the digest of its header")]
    Digest,
    /// The store's position cannot be compared with the log.
    #[error("the log cannot be read at the store's position")]
    Log(#[source] Arc<fanfare_log::ReadError>),
}

//! A matched event in memory, and its way through an attempt or to the dead letters.

use std::sync::Arc;

use bytes::Bytes;
use fanfare_model::{KeyHash, Offset, Timestamp};
use fanfare_partition::Reason;

use crate::filter::SchemaPin;

/// Below this size a copy costs less than it may save.
const COPIED_BYTES: usize = 64 << 10;

/// A matched event. The bytes are [`detached`] from the chunk read from the log.
#[derive(Clone, Debug)]
pub(crate) struct BufferedEvent {
    pub(crate) offset: Offset,
    pub(crate) key: KeyHash,
    pub(crate) append_time: Timestamp,
    pub(crate) bytes: Bytes,
    pub(crate) schema: SchemaCheck,
}

/// State of the check against the schema version that the subscription pins.
#[derive(Clone, Debug)]
pub(crate) enum SchemaCheck {
    /// The check is made outside of locks, before the first attempt. Without a pin it finds out only if an earlier leader
    /// wrote the event's dead letter.
    Unchecked(Option<Arc<SchemaPin>>),
    /// The event is delivered with this `dataschema`, or with its own.
    Passed(Option<Arc<str>>),
    /// The reason why the event must not be delivered.
    Failed(Arc<str>),
    /// An earlier leader wrote the event's dead letter and could not replicate that.
    DeadLettered(Reason),
}

impl SchemaCheck {
    pub(crate) fn of(pin: Option<Arc<SchemaPin>>) -> Self {
        if pin.is_some() { Self::Unchecked(pin) } else { Self::Passed(None) }
    }

    /// As [`Self::of`], of an event that may have a dead letter.
    pub(crate) fn of_inherited(pin: Option<Arc<SchemaPin>>) -> Self {
        Self::Unchecked(pin)
    }

    /// The result of the check of an event with these bytes. Costly: validates the event's data.
    #[must_use]
    pub(crate) fn checked(&self, bytes: &[u8]) -> Self {
        match self {
            Self::Unchecked(None) => Self::Passed(None),
            Self::Unchecked(Some(pin)) => match pin.check(bytes) {
                Ok(dataschema) => Self::Passed(dataschema),
                Err(detail) => Self::Failed(detail.into()),
            },
            Self::Passed(_) | Self::Failed(_) | Self::DeadLettered(_) => self.clone(),
        }
    }
}

/// One event in flight to the sink or to the dead letters.
#[derive(Clone, Debug)]
pub(crate) struct AttemptItem {
    pub(crate) event: BufferedEvent,
    /// The event is the first of a parked key, not one of the window.
    pub(crate) parked: bool,
}

/// An event given up: written to the dead letters before it is settled.
#[derive(Clone, Debug)]
pub(crate) struct DeadLetterRequest {
    pub(crate) item: AttemptItem,
    pub(crate) reason: Reason,
    pub(crate) detail: String,
    pub(crate) attempts: u32,
}

/// Bytes of an event for as long as its delivery takes: in memory of their own, or one small event would keep the
/// whole chunk in memory. Only a large event that is most of the chunk shares it.
pub(crate) fn detached(bytes: &Bytes, chunk_bytes: usize) -> Bytes {
    if bytes.len() >= COPIED_BYTES && bytes.len() >= chunk_bytes / 2 {
        return bytes.clone();
    }
    Bytes::copy_from_slice(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A checked event of a few bytes.
    pub(crate) fn event(offset: u64, key: u64) -> BufferedEvent {
        BufferedEvent {
            offset: Offset(offset),
            key: KeyHash(key),
            append_time: Timestamp(offset),
            bytes: Bytes::from_static(b"event"),
            schema: SchemaCheck::Passed(None),
        }
    }

    #[test]
    fn buffered_bytes_keep_no_more_memory_than_the_window_counts() {
        let chunk = Bytes::from(vec![7; 1 << 20]);
        let shares = |bytes: &Bytes| {
            let whole = chunk.as_ptr() as usize..chunk.as_ptr() as usize + chunk.len();
            whole.contains(&(bytes.as_ptr() as usize))
        };
        for (length, shared) in [(1, false), (1 << 10, false), (256 << 10, false), (600 << 10, true)] {
            let event = chunk.slice(100..100 + length);
            let buffered = detached(&event, chunk.len());
            assert_eq!((buffered.len(), shares(&buffered)), (length, shared));
            assert_eq!(buffered, event);
        }
        assert!(!shares(&detached(&chunk.slice(..10), 10)), "a chunk may be a part of something larger");
    }
}

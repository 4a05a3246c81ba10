//! Reads a subscription's matching events from the log: a range of offsets, single events again, or those of
//! some keys.

use bytes::Bytes;
use fanfare_model::{AccountId, Event, Offset};
use fanfare_partition::{AccountFilter, Partition, ReadError, StoredEvent};

use crate::{
    filter::FilterHistory,
    key_sweep::{KeySweep, SweepRead},
    subscription::{
        buffered_event::{BufferedEvent, SchemaCheck},
        event::{KeyScan, ScannedKey},
    },
};

/// Size of one read for single events.
const RELOAD_BYTES: u64 = 64 << 10;
/// Reads one partition for one subscription.
pub(crate) struct BacklogReader<'a> {
    pub(crate) partition: &'a Partition,
    pub(crate) account: AccountId,
    pub(crate) filters: &'a FilterHistory,
    pub(crate) chunk_bytes: u64,
}

/// Events that a read found.
pub(crate) struct FoundEvents {
    /// Ascending.
    pub(crate) events: Vec<BufferedEvent>,
    /// Every matching event from the start of the read to here is in `events`.
    pub(crate) end: Offset,
}

impl BacklogReader<'_> {
    /// Matching events of one chunk within `from..end`.
    ///
    /// # Errors
    /// If the log cannot be read at `from`.
    pub(crate) async fn read_range(&self, from: Offset, end: Offset) -> Result<FoundEvents, ReadError> {
        let chunk = self.partition.read(from, AccountFilter::One(self.account), self.chunk_bytes).await?;
        let events = chunk.batches.iter().flat_map(|batch| batch.events());
        let matching =
            events.filter(|event| (from..end).contains(&event.offset)).filter_map(|event| self.buffer(event));
        Ok(FoundEvents { events: matching.collect(), end: chunk.next.min(end) })
    }

    /// The events at `offsets`, which ascend, in the same order. None for an event that no longer matches.
    ///
    /// # Errors
    /// If the log cannot be read at one of the offsets.
    pub(crate) async fn reload(
        &self,
        offsets: &[Offset],
    ) -> Result<Vec<(Offset, Option<BufferedEvent>)>, ReadError> {
        let mut reloaded = Vec::with_capacity(offsets.len());
        while let Some(&from) = offsets.get(reloaded.len()) {
            let chunk = self.partition.read(from, AccountFilter::One(self.account), RELOAD_BYTES).await?;
            let mut events = chunk.batches.iter().flat_map(|batch| batch.events()).peekable();
            let end = chunk.next.max(from.plus(1));
            while let Some(&offset) = offsets.get(reloaded.len()).filter(|&&offset| offset < end) {
                while events.next_if(|event| event.offset < offset).is_some() {}
                let event = events.next_if(|event| event.offset == offset);
                reloaded.push((offset, event.and_then(|event| self.buffer(event))));
            }
        }
        Ok(reloaded)
    }

    /// The next matching events of several keys below `end`, about `bytes_max` of them in all, and the last error: a key
    /// whose part of the log cannot be read keeps no other from its events.
    pub(crate) async fn scan_keys(
        &self,
        scans: &[KeyScan],
        end: Offset,
        bytes_max: usize,
    ) -> (Vec<ScannedKey>, Option<ReadError>) {
        let mut sweep = KeySweep::new(scans, end, bytes_max, self.chunk_bytes);
        let mut last_error = None;
        while let Some(SweepRead { from, bytes }) = sweep.next_read() {
            match self.partition.read(from, AccountFilter::One(self.account), bytes).await {
                Ok(chunk) => {
                    sweep.begin_chunk(chunk.next);
                    for event in chunk.batches.iter().flat_map(|batch| batch.events()) {
                        if sweep.wants(event.header.key, event.offset)
                            && let Some(buffered) = self.buffer(event)
                        {
                            sweep.take(buffered);
                        }
                    }
                    sweep.end_chunk();
                }
                Err(error) => {
                    sweep.fail();
                    last_error = Some(error);
                }
            }
        }
        (sweep.finish(), last_error)
    }

    /// None if the subscription does not match the event.
    fn buffer(&self, event: StoredEvent) -> Option<BufferedEvent> {
        let pin = {
            let event_type = Event::type_of(&event.bytes).ok()?;
            self.filters.at(event.offset).match_type(event_type)?.cloned()
        };
        let StoredEvent { offset, append_time, header, ref bytes } = event;
        // A copy: a slice would keep the whole chunk in memory for as long as the event is in the window.
        let bytes = Bytes::copy_from_slice(bytes);
        Some(BufferedEvent { offset, key: header.key, append_time, bytes, schema: SchemaCheck::of(pin) })
    }
}

//! Reading of one subscription's own: what it matches between two offsets, some events again, or one key's.

use bytes::Bytes;
use fanfare_model::{AccountId, Event, KeyHash, Offset};
use fanfare_partition::{AccountFilter, Partition, ReadError, StoredEvent};

use crate::{
    spec::Specs,
    subscription::buffered_event::{BufferedEvent, SchemaCheck},
};

/// Read at once to find single events again.
const LOAD_BYTES: u64 = 64 << 10;
/// Events of one key that are kept from one scan.
const SCAN_EVENTS_MAX: usize = 64;
const SCAN_BYTES_MAX: usize = 256 << 10;
/// Chunks that one scan goes through before it lets others in.
const SCAN_CHUNKS_MAX: usize = 64;

/// A subscription's view of a partition's log.
pub(crate) struct Sweep<'a> {
    pub(crate) partition: &'a Partition,
    pub(crate) account: AccountId,
    pub(crate) specs: &'a Specs,
    pub(crate) chunk_bytes: u64,
}

impl Sweep<'_> {
    /// Matching events of one chunk within `from..upto`, and where to go on.
    pub(crate) async fn read(
        &self,
        from: Offset,
        upto: Offset,
    ) -> Result<(Vec<BufferedEvent>, Offset), ReadError> {
        let chunk = self.partition.read(from, AccountFilter::One(self.account), self.chunk_bytes).await?;
        let events = chunk.batches.iter().flat_map(|batch| batch.events());
        let found =
            events.filter(|event| (from..upto).contains(&event.offset)).filter_map(|event| self.hold(event));
        Ok((found.collect(), chunk.next.min(upto)))
    }

    /// These events, ascending, in the same order; None for one that is not matched any more.
    pub(crate) async fn load(
        &self,
        offsets: &[Offset],
    ) -> Result<Vec<(Offset, Option<BufferedEvent>)>, ReadError> {
        let mut found = Vec::with_capacity(offsets.len());
        while let Some(&from) = offsets.get(found.len()) {
            let chunk = self.partition.read(from, AccountFilter::One(self.account), LOAD_BYTES).await?;
            let mut events = chunk.batches.iter().flat_map(|batch| batch.events()).peekable();
            let end = chunk.next.max(from.plus(1));
            while let Some(&offset) = offsets.get(found.len()).filter(|&&offset| offset < end) {
                while events.next_if(|event| event.offset < offset).is_some() {}
                let held = events.next_if(|event| event.offset == offset).and_then(|event| self.hold(event));
                found.push((offset, held));
            }
        }
        Ok(found)
    }

    /// The next matching events of the key within `from..upto`, and up to where all of them were found.
    pub(crate) async fn scan(
        &self,
        key: KeyHash,
        from: Offset,
        upto: Offset,
    ) -> Result<(Vec<BufferedEvent>, Offset), ReadError> {
        let (mut found, mut bytes, mut from) = (Vec::new(), 0, from);
        for _ in 0..SCAN_CHUNKS_MAX {
            let chunk = self.partition.read(from, AccountFilter::One(self.account), self.chunk_bytes).await?;
            let events = chunk.batches.iter().flat_map(|batch| batch.events());
            for event in
                events.filter(|event| event.header.key == key && (from..upto).contains(&event.offset))
            {
                let offset = event.offset;
                let Some(held) = self.hold(event) else { continue };
                if found.len() == SCAN_EVENTS_MAX
                    || !found.is_empty() && bytes + held.bytes.len() > SCAN_BYTES_MAX
                {
                    return Ok((found, offset));
                }
                bytes += held.bytes.len();
                found.push(held);
            }
            from = chunk.next.min(upto);
            if !found.is_empty() || from >= upto {
                break;
            }
        }
        Ok((found, from))
    }

    fn hold(&self, event: StoredEvent) -> Option<BufferedEvent> {
        let pin = {
            let parsed = Event::parse(&event.bytes).ok()?;
            self.specs.at(event.offset).get(parsed.event_type)?.cloned()
        };
        let StoredEvent { offset, append_time, header, ref bytes } = event;
        // In memory of its own: what it was read with is far larger.
        let bytes = Bytes::copy_from_slice(bytes);
        Some(BufferedEvent { offset, key: header.key, append_time, bytes, schema: SchemaCheck::of(pin) })
    }
}

//! One open read: a task that merges its partitions into pages.

use std::mem;

use fanfare_catalog::Tenant;
use fanfare_model::Offset;
use fanfare_partition::AccountFilter;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{EventPage, ReadQuery, ReadRefusal, cursor::Cursor};

/// Read from the log at a time.
const CHUNK_BYTES: u64 = 256 << 10;
/// A page ends with the first event that reaches this size.
const PAGE_BYTES: usize = 256 << 10;
/// A read that looks for few events in a log full of others yields after so many chunks.
const CHUNKS_PER_TURN: usize = 16;

pub(super) struct Merge {
    pub(super) tenant: Tenant,
    pub(super) query: ReadQuery,
    pub(super) cursors: Vec<Cursor>,
    pub(super) pages: mpsc::Sender<Result<EventPage, ReadRefusal>>,
    pub(super) stop: CancellationToken,
}

/// Result of one chunk.
enum Progress {
    Continue,
    /// The client is gone, or has the number of events that it asked for.
    Done,
}

impl Merge {
    pub(super) async fn run(mut self) {
        let (pages, stop) = (self.pages.clone(), self.stop.clone());
        tokio::select! {
            biased;
            () = stop.cancelled() => drop(pages.try_send(Err(ReadRefusal::Draining))),
            () = pages.closed() => {}
            result = self.read() => {
                if let Err(refusal) = result {
                    drop(pages.send(Err(refusal)).await);
                }
            }
        }
    }

    async fn read(&mut self) -> Result<(), ReadRefusal> {
        loop {
            let mut at_end = true;
            for index in 0..self.cursors.len() {
                for _ in 0..CHUNKS_PER_TURN {
                    if !self.cursors[index].has_more(self.query.follow) {
                        break;
                    }
                    at_end = false;
                    if let Progress::Done = self.read_chunk(index).await? {
                        return Ok(());
                    }
                }
            }
            // A damaged partition looks like one without more events, to a follower for ever.
            if at_end && let Some(damage) = self.cursors.iter().find_map(|cursor| cursor.partition.damage()) {
                return Err(damage.into());
            }
            match (at_end, self.query.follow) {
                (false, _) => tokio::task::yield_now().await,
                (true, true) => self.wait_for_more().await,
                (true, false) => return Ok(()),
            }
        }
    }

    /// Reads one chunk of one partition and sends the events of it that match.
    async fn read_chunk(&mut self, index: usize) -> Result<Progress, ReadRefusal> {
        let account = AccountFilter::One(self.tenant.account());
        let cursor = &mut self.cursors[index];
        let end = if self.query.follow { Offset(u64::MAX) } else { cursor.end };
        let chunk = cursor.partition.read(cursor.next, account, CHUNK_BYTES).await?;
        assert!(
            chunk.next >= cursor.next,
            "invariant violation: a chunk from {} ends at {}",
            cursor.next,
            chunk.next
        );
        cursor.next = chunk.next;
        let partition = cursor.partition.id().index;
        let mut events = Vec::new();
        let mut bytes = 0;
        for batch in &chunk.batches {
            for event in batch.events().filter(|event| event.offset < end) {
                if !self.query.matches(&event) {
                    continue;
                }
                bytes += event.bytes.len();
                events.push(event);
                let is_last = self.query.count_down();
                if is_last || bytes >= PAGE_BYTES {
                    bytes = 0;
                    let page = EventPage { partition, events: mem::take(&mut events) };
                    if self.pages.send(Ok(page)).await.is_err() || is_last {
                        return Ok(Progress::Done);
                    }
                }
            }
        }
        if !events.is_empty() && self.pages.send(Ok(EventPage { partition, events })).await.is_err() {
            return Ok(Progress::Done);
        }
        Ok(Progress::Continue)
    }

    /// Waits until any partition has more events, or has failed.
    async fn wait_for_more(&mut self) {
        let mut waits: FuturesUnordered<_> = self.cursors.iter_mut().map(Cursor::wait_for_more).collect();
        waits.next().await;
    }
}

//! A search for one event in all of the log.

use fanfare_log::{Frame, Log};
use fanfare_model::{AccountId, EventIdHash};
use tokio_util::sync::CancellationToken;

use super::{FramesError, ReadView};
use crate::{
    CodecError, StoredEvent,
    entry::{self, Entry},
    index_keys,
    machine::first_index,
};

/// A search for an event of the account, backwards from the end of the log that was applied when it was made.
pub(crate) struct EventSearch {
    pub(super) log: Log,
    pub(super) view: ReadView,
    pub(super) account: AccountId,
    pub(super) id: EventIdHash,
}

impl EventSearch {
    /// Ends soon after `stop`, without a result. Blocking.
    pub(crate) fn run(&self, stop: &CancellationToken) -> Result<Option<StoredEvent>, FramesError> {
        let key = index_keys::event_key(self.account, self.id);
        let log_start = self.view.positions.log_start;
        let first = first_index(&self.log.bounds());
        let mut end = self.view.end_index;
        while end > first {
            if stop.is_cancelled() {
                return Err(FramesError::Absent);
            }
            let Some(keyed) = self.log.read_keyed_backwards(key, end)? else { break };
            for frame in keyed.frames.iter().rev().filter(|frame| frame.header.kind == entry::KIND) {
                if frame.header.end_offset() <= log_start.0 {
                    return Ok(None);
                }
                if let Some(event) = find_in_frame(frame, self.account, self.id)? {
                    return Ok((event.offset >= log_start).then_some(event));
                }
            }
            end = keyed.next.index;
        }
        Ok(None)
    }
}

fn find_in_frame(
    frame: &Frame,
    account: AccountId,
    id: EventIdHash,
) -> Result<Option<StoredEvent>, FramesError> {
    let index = frame.header.position.index;
    let unreadable = |error: CodecError| FramesError::Lost(format!("entry {index}: {error}"));
    let entry = Entry::decode(&frame.payload, frame.header.count).map_err(unreadable)?;
    let holds =
        entry.sections().any(|section| section.account == account && section.records().any(|r| r.id == id));
    if !holds {
        return Ok(None);
    }
    let batches = entry::stored_batches(frame, Some(account)).map_err(unreadable)?;
    Ok(batches
        .iter()
        .rev()
        .flat_map(|batch| batch.events().filter(|event| event.header.id == id).last())
        .next())
}

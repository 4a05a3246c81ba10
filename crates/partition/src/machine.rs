//! The state machine as the group runs it: applies, publishes positions, writes and restores checkpoints, and rebuilds
//! from the log what is derived from it. The rules are in [`crate::state`].

use fanfare_log::{Frame, Log, Position};
use fanfare_model::{Offset, Timestamp};
use fanfare_raft::{Anchor, ApplyMode, RestoreError, StateMachine};
use tokio::sync::watch;

use crate::{
    CodecError, Positions,
    dedup::Limits,
    state::{PartitionState, Reply},
};

/// Bytes of frames read at once while what is derived is rebuilt.
const RECOVERY_READ_BYTES: u64 = 8 << 20;

pub(crate) struct Machine {
    pub(crate) state: PartitionState,
    dedup: Limits,
    positions: watch::Sender<Positions>,
}

impl Machine {
    pub(crate) fn new(dedup: Limits) -> Self {
        Self { state: PartitionState::new(dedup), dedup, positions: watch::Sender::new(Positions::default()) }
    }

    pub(crate) fn positions(&self) -> watch::Receiver<Positions> {
        self.positions.subscribe()
    }

    fn publish_positions(&self) {
        let positions = self.state.positions();
        self.positions.send_if_modified(|current| {
            let changed = *current != positions;
            *current = positions;
            changed
        });
    }

    /// First index of the log that the dedup window is rebuilt from: nothing below it would be remembered.
    fn dedup_from(&self, log: &Log, upto: &Frame) -> Result<u64, fanfare_log::ReadError> {
        let bounds = log.bounds();
        let newest = self.state.last_time().max(Timestamp(upto.header.time_ms));
        let by_time = log.index_of_time(newest.0.saturating_sub(self.dedup.window_ms))?;
        let next_offset = upto.header.end_offset();
        // One more than the budget holds, so that the window learns that it is cut short.
        let remembered = next_offset.saturating_sub(self.dedup.identities_max() + 1);
        let by_budget = log.index_of_offset(remembered.max(bounds.start_offset))?;
        let first = first_index(&bounds);
        let from = by_time.unwrap_or(upto.header.position.index).max(by_budget.unwrap_or(first));
        Ok(from.clamp(first, upto.header.position.index))
    }
}

impl StateMachine for Machine {
    type Reply = Reply;

    fn apply(&mut self, frame: &Frame, mode: ApplyMode) -> Reply {
        self.state.apply(frame, mode)
    }

    fn publish(&self, _applied: Position) {
        self.publish_positions();
    }

    fn checkpoint(&self) -> Vec<u8> {
        self.state.checkpoint()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        self.state = PartitionState::restored(bytes, self.dedup).map_err(|error| {
            RestoreError(match error {
                CodecError::Version { .. } => "it was written by a newer version of this program",
                CodecError::Short | CodecError::Trailing | CodecError::Value(_) | CodecError::Checksum => {
                    "it is not a partition's checkpoint"
                }
            })
        })?;
        self.publish_positions();
        Ok(())
    }

    fn anchor(&self) -> Option<Anchor> {
        // Nothing trimmed yet is an anchor, too: at the very start.
        let start = || Anchor { position: Position::default(), next_offset: 0 };
        Some(self.state.anchor().unwrap_or_else(start))
    }

    fn recover(&mut self, log: &Log, upto: Position) -> Result<(), fanfare_log::ReadError> {
        let bounds = log.bounds();
        let first = first_index(&bounds);
        self.state.reset_derived(self.dedup, Offset(bounds.start_offset), upto.index);
        let is_kept = bounds.last.is_some_and(|last| first <= upto.index && upto.index <= last.index);
        if is_kept {
            let newest = log.read(upto.index, upto.index + 1, 1)?;
            let newest = newest.first().expect("a read of a kept index returns its frame");
            let mut next = self.dedup_from(log, newest)?;
            while next <= upto.index {
                let frames = log.read(next, upto.index + 1, RECOVERY_READ_BYTES)?;
                frames.iter().for_each(|frame| self.state.observe(frame));
                next += frames.len() as u64;
            }
        }
        self.publish_positions();
        Ok(())
    }
}

pub(crate) fn first_index(bounds: &fanfare_log::Bounds) -> u64 {
    bounds.purged.map_or(0, |purged| purged.index + 1)
}

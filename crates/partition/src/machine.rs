//! The state machine as the group runs it: the pure state and, beside it, the dedup window, both fed by every applied
//! entry.
//!
//! Publishes positions, writes and restores checkpoints, and rebuilds from the log the state that is derived from it. The
//! rules are in [`crate::state`].

use std::ops::ControlFlow;

use fanfare_environment::{Bug, planted};
use fanfare_log::{Frame, FrameHeader, Log, Position, ReadError};
use fanfare_model::{AccountId, Offset, Stream, Timestamp};
use fanfare_raft::{Anchor, ApplyMode, FormatVersion, MachineError, Proposal, RecoveryError, StateMachine};
use tokio::sync::watch;

use crate::{
    CodecError, Positions,
    budgets::BudgetShare,
    dedup::{DedupLimits, DedupWindow, HashSeed, LONG_PAUSES_MAX, OffsetGap, long_pause_ms},
    entry::{self, Entry, EntryTable},
    filler,
    quota::Usage,
    state::{ApplyError, PartitionState, Reply, check_offsets},
};

pub(crate) struct Machine {
    state: PartitionState,
    dedup: DedupWindow,
    parts: MachineParts,
    positions: watch::Sender<Positions>,
}

pub(crate) struct MachineParts {
    pub(crate) stream: Stream,
    pub(crate) dedup_window_ms: u64,
    pub(crate) budget: std::sync::Arc<BudgetShare>,
    pub(crate) hash_seed: HashSeed,
}

impl MachineParts {
    fn dedup_limits(&self) -> DedupLimits {
        DedupLimits { window_ms: self.dedup_window_ms, bytes_max: self.budget.dedup_bytes() }
    }

    fn empty_window(&self) -> DedupWindow {
        DedupWindow::new(self.dedup_limits(), self.hash_seed)
    }
}

impl Machine {
    pub(crate) fn new(parts: MachineParts) -> Self {
        Self {
            state: PartitionState::new(parts.stream),
            dedup: parts.empty_window(),
            parts,
            positions: watch::Sender::new(Positions::default()),
        }
    }

    pub(crate) fn state(&self) -> &PartitionState {
        &self.state
    }

    pub(crate) fn dedup(&self) -> &DedupWindow {
        &self.dedup
    }

    pub(crate) fn positions(&self) -> Positions {
        self.state.positions()
    }

    pub(crate) fn last_time(&self) -> Timestamp {
        self.state.last_time()
    }

    pub(crate) fn usage(&self, account: AccountId) -> Usage {
        self.state.usage(account)
    }

    /// Positions as published after each run of applied entries.
    pub(crate) fn watch_positions(&self) -> watch::Receiver<Positions> {
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

    fn apply_frame(&mut self, frame: &Frame, mode: ApplyMode) -> Result<Reply, ApplyError> {
        // Decoded before anything changes: after an error the machine is still read.
        let entry = entry_of(frame)?;
        let reply = self.state.apply_decoded(frame, entry.as_ref(), mode)?;
        self.remember(&frame.header, entry.as_ref().map(Entry::table))?;
        Ok(reply)
    }

    /// Adds the identities of an entry's table, or those of a filler.
    fn remember(&mut self, header: &FrameHeader, table: Option<&EntryTable>) -> Result<(), ApplyError> {
        let (index, base, time) = (header.position.index, Offset(header.base_offset), self.state.last_time());
        check_offsets(header)?;
        let gap = |gap: OffsetGap| ApplyError::Invariant { index, detail: gap.to_string() };
        if let Some(table) = table {
            self.dedup.set_bytes_max(self.parts.budget.dedup_bytes());
            for section in table.sections() {
                let base = base.plus(section.base_delta.into());
                self.dedup.insert(section.account, base, time, section.records()).map_err(gap)?;
            }
        } else if header.kind == filler::KIND && header.count > 0 {
            let records = filler::records(base, header.count);
            self.dedup.insert(filler::NO_ACCOUNT, base, time, records).map_err(gap)?;
        }
        Ok(())
    }

    /// Observes the frames of `from..=last` by their headers and tables; payloads are skipped on disk.
    fn observe_tables(&mut self, log: &Log, from: u64, last: u64) -> Result<(), RecoveryError> {
        let mut next = from;
        while next <= last {
            let (mut unproven, mut failed) = (None, None);
            let prefix_bytes = |header: &FrameHeader| match header.kind {
                entry::KIND => EntryTable::prefix_bytes_max(header.count),
                _ => 0,
            };
            let end = log.scan_headers(next..last + 1, prefix_bytes, |header, prefix| {
                let table = match header.kind {
                    entry::KIND => {
                        let table = EntryTable::decode_prefix(prefix, header.payload_bytes, header.count);
                        let Ok(table) = table else {
                            unproven = Some(header.position.index);
                            return ControlFlow::Break(());
                        };
                        Some(table)
                    }
                    _ => None,
                };
                self.state.observe(header);
                match self.remember(header, table.as_ref()) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => {
                        failed = Some(error);
                        ControlFlow::Break(())
                    }
                }
            })?;
            if let Some(error) = failed {
                return Err(recover_error(&error));
            }
            // The whole frame has a checksum of its own: reading it tells damage from an entry of another version.
            next = match unproven {
                Some(index) => {
                    for frame in &log.read(index, index + 1, 1)? {
                        let entry = entry_of(frame).map_err(|error| recover_error(&error))?;
                        self.state.observe(&frame.header);
                        let remembered = self.remember(&frame.header, entry.as_ref().map(Entry::table));
                        remembered.map_err(|error| recover_error(&error))?;
                    }
                    index + 1
                }
                None if end > next => end,
                None => break,
            };
        }
        Ok(())
    }

    /// First index of the log that the dedup window is rebuilt from: no identity below it would be remembered.
    fn dedup_start(&self, log: &Log, newest: &Frame) -> Result<u64, ReadError> {
        let bounds = log.bounds();
        let limits = self.parts.dedup_limits();
        let newest_time = self.state.last_time().max(Timestamp(newest.header.time_ms));
        let by_time = window_start(log, newest_time, limits.window_ms)?;
        // One identity more than the budget holds, so that the window learns that it is cut short.
        let remembered = newest.header.end_offset().saturating_sub(limits.identities_max() + 1);
        let by_budget = log.index_of_offset(remembered.max(bounds.start_offset))?;
        let (first, last) = (first_index(&bounds), newest.header.position.index);
        Ok(by_time.unwrap_or(last).max(by_budget.unwrap_or(first)).clamp(first, last))
    }
}

impl StateMachine for Machine {
    type Reply = Reply;

    fn apply(&mut self, frame: &Frame, mode: ApplyMode) -> Result<Reply, MachineError> {
        self.apply_frame(frame, mode).map_err(|error| machine_error(&error))
    }

    /// Every kind of entry is of the first format: no later one exists.
    fn format_version(_proposal: &Proposal) -> FormatVersion {
        FormatVersion::FIRST
    }

    fn publish(&self, _applied: Position) {
        self.publish_positions();
    }

    fn checkpoint(&self) -> Vec<u8> {
        self.state.checkpoint()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), MachineError> {
        self.state =
            PartitionState::restored(bytes, self.parts.stream).map_err(|error| undecodable(&error))?;
        // The identities are those of another log: kept, the window would call events duplicates that the restored log
        // does not hold. `recover` fills the window from this one.
        self.dedup = self.parts.empty_window();
        self.publish_positions();
        Ok(())
    }

    fn anchor(&self) -> Option<Anchor> {
        // A log that was never trimmed is anchored at its very start.
        let start = || Anchor { position: Position::default(), next_offset: 0 };
        Some(self.state.anchor().unwrap_or_else(start))
    }

    fn recover(&mut self, log: &Log, upto: Position) -> Result<(), RecoveryError> {
        let bounds = log.bounds();
        let first = first_index(&bounds);
        self.state.reset_derived(Offset(bounds.start_offset), upto.index);
        self.dedup = self.parts.empty_window();
        let holds_applied = bounds.last.is_some_and(|last| first <= upto.index && upto.index <= last.index);
        if holds_applied {
            let newest = log.read(upto.index, upto.index + 1, 1)?;
            let Some(newest) = newest.first() else {
                let detail = format!("the log reaches to {:?} and does not return it", bounds.last);
                let source = MachineError::Invalid { detail };
                return Err(RecoveryError::Entry { index: upto.index, source });
            };
            let from = self.dedup_start(log, newest)?;
            self.observe_tables(log, from, upto.index)?;
        }
        if planted(Bug::DedupForgotten) {
            self.dedup = self.parts.empty_window();
        }
        self.publish_positions();
        Ok(())
    }
}

/// Index of the oldest frame within the window, where pauses longer than the window count as a part of it.
fn window_start(log: &Log, newest: Timestamp, window_ms: u64) -> Result<Option<u64>, ReadError> {
    let first = first_index(&log.bounds());
    let (mut upto_ms, mut left_ms, mut start) = (newest.0, window_ms, None);
    for _ in 0..=LONG_PAUSES_MAX {
        let Some(index) = log.index_of_time(upto_ms.saturating_sub(left_ms))? else { break };
        start = Some(index);
        if index <= first {
            break;
        }
        let time_ms = |index| -> Result<Option<u64>, ReadError> {
            Ok(log.read(index, index + 1, 1)?.first().map(|frame| frame.header.time_ms))
        };
        let (Some(earlier_ms), Some(time_ms)) = (time_ms(index - 1)?, time_ms(index)?) else { break };
        let passed_ms = upto_ms.saturating_sub(time_ms) + long_pause_ms(window_ms);
        if time_ms.saturating_sub(earlier_ms) <= window_ms || passed_ms > left_ms {
            break;
        }
        (upto_ms, left_ms) = (earlier_ms, left_ms - passed_ms);
    }
    Ok(start)
}

/// The entry of a frame; None of a command or a filler.
pub(crate) fn entry_of(frame: &Frame) -> Result<Option<Entry<'_>>, ApplyError> {
    let FrameHeader { kind, count, position, .. } = frame.header;
    if kind != entry::KIND {
        return Ok(None);
    }
    let decoded = Entry::decode(&frame.payload, count);
    decoded.map(Some).map_err(|source| ApplyError::Decode { index: position.index, source })
}

fn machine_error(error: &ApplyError) -> MachineError {
    match error {
        ApplyError::UnknownKind { kind, .. } => {
            MachineError::Newer { detail: format!("this program does not know its kind {kind}") }
        }
        ApplyError::Decode { source, .. } => undecodable(source),
        ApplyError::Invariant { detail, .. } => {
            MachineError::Invalid { detail: format!("invariant violation: {detail}") }
        }
    }
}

fn undecodable(error: &CodecError) -> MachineError {
    let detail = error.to_string();
    match error {
        CodecError::Version { version, known, .. } if version > known => MachineError::Newer { detail },
        CodecError::Version { .. }
        | CodecError::Malformed(_)
        | CodecError::Value(_)
        | CodecError::Checksum => MachineError::Invalid { detail },
    }
}

/// The log holds an entry that this version cannot use: the group does not open, the others do.
fn recover_error(error: &ApplyError) -> RecoveryError {
    let (ApplyError::UnknownKind { index, .. }
    | ApplyError::Decode { index, .. }
    | ApplyError::Invariant { index, .. }) = error;
    RecoveryError::Entry { index: *index, source: machine_error(error) }
}

pub(crate) fn first_index(bounds: &fanfare_log::Bounds) -> u64 {
    bounds.purged.map_or(0, |purged| purged.index + 1)
}

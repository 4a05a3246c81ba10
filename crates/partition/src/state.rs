//! The partition's state machine: the result of the committed entries, applied in order.
//!
//! Pure: no clock, no IO, no randomness; time arrives in the entry. State is of two kinds that never mix. *Derived* state
//! is a function of the retained log and is updated by every applied entry; *accumulated* state comes from a checkpoint
//! and changes only above it. Invariants, checked at every apply:
//! - entries are dense: `base offset = previous base + previous count`, `index` ascends, time never falls;
//! - `log_start <= frontier <= high_watermark`;
//! - for every subscription `matched = delivered + dead-lettered + expired + cancelled + pending`.
//!
//! A broken invariant is an error that names the entry, never a panic of the state.

mod checkpoint;
mod content;
mod cursor_ledger;
pub(crate) mod redrives;
mod subscription_ledger;
pub(crate) mod usage;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use fanfare_environment::{Bug, planted};
use fanfare_log::{Frame, FrameHeader, Position};
use fanfare_model::{AccountId, Offset, Stream, SubscriptionId, Timestamp};
use fanfare_raft::{Anchor, ApplyMode};

use self::{
    content::FrameContent,
    redrives::Redrives,
    subscription_ledger::{FILTER_BYTES_MAX, SubscriptionLedger},
    usage::RetainedBytes,
};
use crate::{
    Advance, AttachedFilter, Attachment, CodecError, Counters, CursorRecord, DeliveryState, Positions,
    Reason, Redrive, Refusal,
    command::{Command, Start},
    entry::{self, Entry},
    filler,
    quota::Usage,
};

/// Detached subscriptions whose counters are kept, so that their final numbers can be read.
const DETACHED_MAX: usize = 1_000;
/// Newest entries whose index is kept in memory for readers at the tail.
const RECENT_ENTRIES_MAX: usize = 4_096;

pub(crate) struct PartitionState {
    derived: Derived,
    log_start: Offset,
    anchor: Option<Anchor>,
    frontier: Offset,
    ledgers: BTreeMap<SubscriptionId, SubscriptionLedger>,
    /// Keys of the ledgers with more than one filter.
    several_filters: BTreeSet<SubscriptionId>,
    /// Ascending by time of detachment.
    detached: VecDeque<DetachedCounters>,
    retained: RetainedBytes,
    redrives: Redrives,
}

/// A function of the retained log.
struct Derived {
    next_offset: Offset,
    /// Time of the newest entry; the next entry's time is not smaller.
    last_time: Timestamp,
    last_index: u64,
    /// The newest entries with offsets, ascending.
    recent: VecDeque<RecentEntry>,
}

#[derive(Clone, Copy)]
struct RecentEntry {
    base: Offset,
    index: u64,
}

struct DetachedCounters {
    subscription: SubscriptionId,
    epoch: u64,
    counters: Counters,
}

/// The result of an applied entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Appended,
    Attached(Result<Attachment, Refusal>),
    Detached(Result<(), Refusal>),
    Advanced(Result<(), Refusal>),
    /// The new start of the log.
    Trimmed(Result<Offset, Refusal>),
    /// The redrive, started or cancelled.
    Redrive(Result<Redrive, Refusal>),
    RedriveAdvanced(Result<(), Refusal>),
    /// A command at or below the state index: the checkpoint holds its effect.
    Replayed,
}

/// A committed entry that this version cannot apply. Repeating cannot help: the entry passed the log's checksums.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error("entry {index} is of kind {kind}, which this version does not know")]
    UnknownKind { index: u64, kind: u8 },
    #[error("entry {index} cannot be decoded: {source}")]
    Decode {
        index: u64,
        #[source]
        source: CodecError,
    },
    #[error("entry {index}: invariant violation: {detail}")]
    Invariant { index: u64, detail: String },
}

impl PartitionState {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            derived: Derived::new(),
            log_start: Offset::ZERO,
            anchor: None,
            frontier: Offset::ZERO,
            ledgers: BTreeMap::new(),
            several_filters: BTreeSet::new(),
            detached: VecDeque::new(),
            retained: RetainedBytes::new(stream),
            redrives: Redrives::default(),
        }
    }

    /// The state of a log that begins at `anchor`, with nothing attached.
    pub(crate) fn empty_at(anchor: Anchor, stream: Stream) -> Self {
        let start = Offset(anchor.next_offset);
        let anchor = (anchor.position.index > 0).then_some(anchor);
        Self { log_start: start, frontier: start, anchor, ..Self::new(stream) }
    }

    /// `entry` is the frame's, if the frame holds one.
    ///
    /// # Errors
    /// If this version cannot apply the entry. The state is then of no further use.
    pub(crate) fn apply_decoded(
        &mut self,
        frame: &Frame,
        entry: Option<&Entry<'_>>,
        mode: ApplyMode,
    ) -> Result<Reply, ApplyError> {
        let header = &frame.header;
        let index = header.position.index;
        self.check_follows(header)?;
        // Everything is decoded before anything changes: a state that refuses an entry is still read.
        let content = FrameContent::decode(frame)?;
        self.observe(header);
        let reply = match (content, mode) {
            (FrameContent::Entry, ApplyMode::Live) => {
                if let Some(entry) = entry {
                    self.retained.add(entry, Offset(header.end_offset()));
                }
                Reply::Appended
            }
            (FrameContent::Entry, ApplyMode::Replay) | (FrameContent::Filler, _) => Reply::Appended,
            (FrameContent::Command(command), ApplyMode::Live) => self.execute(command, header),
            (FrameContent::Command(_), ApplyMode::Replay) => Reply::Replayed,
        };
        if mode == ApplyMode::Live {
            self.check_positions(index)?;
        }
        Ok(reply)
    }

    /// Refuses a frame that does not follow the newest observed one.
    fn check_follows(&self, header: &FrameHeader) -> Result<(), ApplyError> {
        let derived = &self.derived;
        let index = header.position.index;
        // Blanks and changes of membership take an index and are not applied, so indexes may skip.
        if derived.last_index > 0 && index <= derived.last_index {
            let detail = format!("it follows entry {}", derived.last_index);
            return Err(ApplyError::Invariant { index, detail });
        }
        if Offset(header.base_offset) != derived.next_offset {
            let detail = format!(
                "its offsets begin at {}, the next one is {}",
                header.base_offset, derived.next_offset
            );
            return Err(ApplyError::Invariant { index, detail });
        }
        check_offsets(header)
    }

    fn check_positions(&self, index: u64) -> Result<(), ApplyError> {
        let Positions { log_start, high_watermark, frontier } = self.positions();
        if log_start <= frontier && frontier <= high_watermark {
            return Ok(());
        }
        let detail = format!("log start {log_start}, frontier {frontier}, high watermark {high_watermark}");
        Err(ApplyError::Invariant { index, detail })
    }

    /// Updates derived state from a frame of the log.
    pub(crate) fn observe(&mut self, header: &FrameHeader) {
        let derived = &mut self.derived;
        derived.last_time = derived.last_time.max(Timestamp(header.time_ms));
        derived.last_index = header.position.index;
        derived.next_offset = Offset(header.end_offset());
        let has_events = header.kind == entry::KIND || (header.kind == filler::KIND && header.count > 0);
        if !has_events {
            return;
        }
        if derived.recent.len() == RECENT_ENTRIES_MAX {
            derived.recent.pop_front();
        }
        derived
            .recent
            .push_back(RecentEntry { base: Offset(header.base_offset), index: header.position.index });
    }

    /// Resets derived state to the start of the retained log: the next frame begins at `next_offset`, above
    /// `last_index`.
    pub(crate) fn reset_derived(&mut self, next_offset: Offset, last_index: u64) {
        let last_time = self.derived.last_time;
        self.derived = Derived { next_offset, last_index, last_time, ..Derived::new() };
    }

    fn execute(&mut self, command: Command, header: &FrameHeader) -> Reply {
        match command {
            Command::Attach { subscription, account, epoch, filter_revision, filter, start } => {
                let from = self.resolve(start);
                let attachment = Attachment {
                    subscription,
                    account,
                    epoch,
                    from,
                    filters: Arc::from([AttachedFilter { from, revision: filter_revision, filter }]),
                    // `next_offset` and not the frontier decides: an advance already proposed may pass over `from`.
                    matched_to: (from < self.derived.next_offset).then_some(from),
                };
                Reply::Attached(self.attach(attachment))
            }
            Command::Detach { subscription, epoch, reason } => {
                Reply::Detached(self.detach(subscription, epoch, reason))
            }
            // A command proposed in an earlier term may be re-proposed by no one, but it may arrive late: the state it
            // was computed from is that of another leader.
            Command::Advance { term, .. } if term != header.position.term => {
                Reply::Advanced(Err(Refusal::Term))
            }
            Command::Redrive(command) => {
                self.redrives.execute(command, header, self.log_start..self.derived.next_offset)
            }
            Command::Trim { term, .. } if term != header.position.term => Reply::Trimmed(Err(Refusal::Term)),
            Command::Advance { advance, .. } => Reply::Advanced(self.advance(advance)),
            Command::Trim { to, position, .. } => Reply::Trimmed(self.trim(to, position, header.position)),
        }
    }

    /// First offset of an attachment with this start.
    fn resolve(&self, start: Start) -> Offset {
        match start {
            Start::Next => self.derived.next_offset,
            Start::Earliest => self.log_start,
            Start::Time { offset, .. } => offset.clamp(self.log_start, self.derived.next_offset),
        }
    }

    fn attach(&mut self, new: Attachment) -> Result<Attachment, Refusal> {
        let filter = &new.filters[0];
        let counters = match self.ledgers.get_mut(&new.subscription) {
            Some(old) if old.attachment.account != new.account || old.attachment.epoch > new.epoch => {
                return Err(Refusal::Epoch);
            }
            _ if filter.filter.len() > FILTER_BYTES_MAX => return Err(Refusal::Filter),
            Some(old) if old.attachment.epoch == new.epoch => {
                if old.attachment.filter_revision() < filter.revision {
                    old.change_filter(AttachedFilter { from: self.derived.next_offset, ..filter.clone() })?;
                    old.drop_settled_filters(self.frontier);
                    self.several_filters.insert(new.subscription);
                }
                return Ok(old.attachment.clone());
            }
            Some(old) => {
                old.cancel_pending(Reason::Repointed);
                std::mem::take(&mut old.counters)
            }
            None => self.take_detached_counters(new.subscription, new.epoch)?,
        };
        let ledger = SubscriptionLedger { attachment: new.clone(), counters, cursor: None };
        self.ledgers.insert(new.subscription, ledger);
        Ok(new)
    }

    /// The counters that the subscription had when it was detached; refused for an epoch below the detached one.
    fn take_detached_counters(
        &mut self,
        subscription: SubscriptionId,
        epoch: u64,
    ) -> Result<Counters, Refusal> {
        match self.detached.iter().position(|detached| detached.subscription == subscription) {
            None => Ok(Counters::default()),
            Some(at) if self.detached[at].epoch > epoch => Err(Refusal::Epoch),
            Some(at) => Ok(self.detached.remove(at).map(|detached| detached.counters).unwrap_or_default()),
        }
    }

    fn detach(&mut self, subscription: SubscriptionId, epoch: u64, reason: Reason) -> Result<(), Refusal> {
        match self.ledgers.get(&subscription) {
            Some(ledger) if ledger.attachment.epoch > epoch => return Err(Refusal::Epoch),
            _ => {}
        }
        let Some(mut ledger) = self.ledgers.remove(&subscription) else { return Ok(()) };
        ledger.cancel_pending(reason);
        // By count and oldest first, so that all replicas forget the same one.
        if self.detached.len() == DETACHED_MAX {
            self.detached.pop_front();
        }
        self.detached.push_back(DetachedCounters { subscription, epoch, counters: ledger.counters });
        Ok(())
    }

    fn advance(&mut self, advance: Advance) -> Result<(), Refusal> {
        if advance.frontier < self.frontier || advance.frontier > self.derived.next_offset {
            return Err(Refusal::Position);
        }
        let mut advanced = BTreeSet::new();
        let mut checked = Vec::with_capacity(advance.cursors.len());
        for cursor in &advance.cursors {
            let ledger = self.ledgers.get(&cursor.subscription).ok_or(Refusal::Epoch)?;
            checked.push(ledger.check_advance(cursor, self.frontier, advance.frontier)?);
            if !advanced.insert(cursor.subscription) {
                return Err(Refusal::Accounting);
            }
        }
        // Applied whole or refused whole: nothing changes before every cursor is checked.
        self.frontier = advance.frontier;
        for (cursor, checked) in advance.cursors.into_iter().zip(checked) {
            if let Some(ledger) = self.ledgers.get_mut(&cursor.subscription) {
                ledger.advance(checked, cursor.record);
            }
        }
        self.drop_settled_filters();
        Ok(())
    }

    fn trim(&mut self, to: Offset, position: Position, own: Position) -> Result<Offset, Refusal> {
        if to < self.log_start || to > self.derived.next_offset || position.index >= own.index {
            return Err(Refusal::Position);
        }
        if to == self.log_start {
            return Ok(to);
        }
        // An unsettled event below `to` would be lost for its subscription.
        let unsettled = self.ledgers.values().any(|ledger| ledger.unsettled_from(self.frontier) < to);
        if unsettled && !planted(Bug::TrimOverUnsettled) {
            return Err(Refusal::Unsettled);
        }
        // Below `to` every event is settled for everybody, so the frontier passes over what nobody was attached to.
        self.log_start = to;
        self.frontier = self.frontier.max(to);
        self.retained.trim(to);
        self.redrives.trim(to);
        self.anchor = Some(Anchor { position, next_offset: to.0 });
        Ok(to)
    }

    fn drop_settled_filters(&mut self) {
        let (ledgers, frontier) = (&mut self.ledgers, self.frontier);
        self.several_filters.retain(|subscription| {
            let Some(ledger) = ledgers.get_mut(subscription) else { return false };
            ledger.drop_settled_filters(frontier);
            ledger.attachment.filters.len() > 1
        });
    }
}

impl Derived {
    fn new() -> Self {
        Self { next_offset: Offset::ZERO, last_time: Timestamp(0), last_index: 0, recent: VecDeque::new() }
    }
}

/// Reads between two applied entries.
impl PartitionState {
    pub(crate) fn positions(&self) -> Positions {
        let high_watermark = self.derived.next_offset;
        Positions { log_start: self.log_start, high_watermark, frontier: self.frontier }
    }

    pub(crate) fn anchor(&self) -> Option<Anchor> {
        self.anchor
    }

    pub(crate) fn last_time(&self) -> Timestamp {
        self.derived.last_time
    }

    /// Index of the newest applied entry.
    pub(crate) fn last_index(&self) -> u64 {
        self.derived.last_index
    }

    /// Bytes retained of the account and of the stream.
    pub(crate) fn usage(&self, account: AccountId) -> Usage {
        self.retained.usage(account)
    }

    /// Index of the entry that holds `offset`, if the entry is one of the newest.
    pub(crate) fn recent_index(&self, offset: Offset) -> Option<u64> {
        let recent = &self.derived.recent;
        let after = recent.partition_point(|entry| entry.base <= offset);
        after.checked_sub(1).map(|at| recent[at].index)
    }

    pub(crate) fn redrives(&self) -> &Redrives {
        &self.redrives
    }

    pub(crate) fn delivery_state(&self) -> DeliveryState {
        let attachments = self.ledgers.values().map(|ledger| (ledger.attachment.clone(), ledger.record()));
        DeliveryState { frontier: self.frontier, attachments: attachments.collect() }
    }

    pub(crate) fn attachment(&self, subscription: SubscriptionId) -> Option<Attachment> {
        self.ledgers.get(&subscription).map(|ledger| ledger.attachment.clone())
    }

    pub(crate) fn counters(&self, subscription: SubscriptionId) -> Option<Counters> {
        if let Some(ledger) = self.ledgers.get(&subscription) {
            return Some(ledger.counters.clone());
        }
        let detached = self.detached.iter().find(|detached| detached.subscription == subscription)?;
        Some(detached.counters.clone())
    }

    /// Counters and cursor of an attached subscription.
    pub(crate) fn progress(&self, subscription: SubscriptionId) -> Option<(Counters, Option<CursorRecord>)> {
        let ledger = self.ledgers.get(&subscription)?;
        Some((ledger.counters.clone(), ledger.record()))
    }
}

/// Refuses an entry that takes more offsets than there are above its first: a snapshot may have anchored the log there.
pub(crate) fn check_offsets(header: &FrameHeader) -> Result<(), ApplyError> {
    if header.has_offsets() {
        return Ok(());
    }
    let detail = format!("it takes {} offsets from {} on", header.count, header.base_offset);
    Err(ApplyError::Invariant { index: header.position.index, detail })
}

#[cfg(test)]
pub(crate) mod tests;

//! The partition's state machine: what the committed entries, in order, have made of it.
//!
//! Pure: no clock, no IO, no randomness; time arrives in the entry. State is of two kinds that never mix. *Derived* is
//! a function of the retained log and is updated by every applied entry; *accumulated* comes from a checkpoint and
//! changes only above it. Invariant: for every subscription, at any time,
//! `matched = delivered + dead-lettered + expired + cancelled + pending`.

mod accounting;
mod checkpoint;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use fanfare_log::{Frame, FrameHeader, Position};
use fanfare_model::{Offset, SubscriptionId, Timestamp};
use fanfare_raft::{Anchor, ApplyMode};

use self::accounting::{Attached, FILTER_BYTES_MAX};
use crate::{
    Advance, AttachedFilter, Attachment, Counters, CursorRecord, DeliveryState, Positions, Reason, Refusal,
    command::{self, Command, Start},
    dedup::{Limits, Window},
    entry::{self, Entry},
    loss,
};

/// Counters of this many detached subscriptions are kept, so that their numbers can still be asked for.
const DETACHED_MAX: usize = 1_000;
/// Applied entries whose place in the log is kept at hand for readers at the tail.
const RECENT_ENTRIES_MAX: usize = 4_096;

pub(crate) struct PartitionState {
    derived: Derived,
    log_start: Offset,
    anchor: Option<Anchor>,
    frontier: Offset,
    attached: BTreeMap<SubscriptionId, Attached>,
    /// Those of the attached that have more than one filter.
    several_filters: BTreeSet<SubscriptionId>,
    /// Last detached last.
    detached: VecDeque<Detached>,
}

/// A function of the retained log.
struct Derived {
    next_offset: Offset,
    /// Of the newest entry; the next one's is not smaller.
    last_time: Timestamp,
    last_index: u64,
    dedup: Window,
    /// The newest entries of events, ascending.
    recent: VecDeque<RecentEntry>,
}

#[derive(Clone, Copy)]
struct RecentEntry {
    base: Offset,
    index: u64,
}

struct Detached {
    subscription: SubscriptionId,
    epoch: u64,
    counters: Counters,
}

/// What became of an applied entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Appended,
    Attached(Result<Attachment, Refusal>),
    Detached(Result<(), Refusal>),
    Advanced(Result<(), Refusal>),
    /// Where the log starts now.
    Trimmed(Result<Offset, Refusal>),
    /// A command at or below the state index: its effect is part of the checkpoint.
    Replayed,
}

impl PartitionState {
    pub(crate) fn new(dedup: Limits) -> Self {
        Self {
            derived: Derived::new(dedup),
            log_start: Offset::ZERO,
            anchor: None,
            frontier: Offset::ZERO,
            attached: BTreeMap::new(),
            several_filters: BTreeSet::new(),
            detached: VecDeque::new(),
        }
    }

    /// Of a log that begins at `anchor`, with nothing attached.
    pub(crate) fn beginning_at(anchor: Anchor, dedup: Limits) -> Self {
        let start = Offset(anchor.next_offset);
        let anchor = (anchor.position.index > 0).then_some(anchor);
        Self { log_start: start, frontier: start, anchor, ..Self::new(dedup) }
    }

    /// # Panics
    /// If the frame is not what this version writes. It passed the log's checksums, so no repetition can help.
    pub(crate) fn apply(&mut self, frame: &Frame, mode: ApplyMode) -> Reply {
        let header = &frame.header;
        self.observe(frame);
        if matches!(header.kind, entry::KIND | loss::KIND) {
            return Reply::Appended;
        }
        assert_eq!(
            header.kind,
            command::KIND,
            "entry {} is of a kind this program does not know",
            header.position.index
        );
        let payload = frame.payload.slice(0..frame.payload.len());
        let command = Command::decode(&payload).unwrap_or_else(|error| {
            panic!("command at index {} is not readable: {error}", header.position.index)
        });
        match mode {
            ApplyMode::Live => self.execute(command, header),
            ApplyMode::Replay => Reply::Replayed,
        }
    }

    /// Takes from a frame of the log what is derived from it.
    pub(crate) fn observe(&mut self, frame: &Frame) {
        let header = &frame.header;
        let derived = &mut self.derived;
        derived.last_time = derived.last_time.max(Timestamp(header.time_ms));
        derived.last_index = header.position.index;
        derived.next_offset = Offset(header.base_offset).plus(header.count.into());
        match header.kind {
            entry::KIND => self.remember(frame),
            loss::KIND if header.count > 0 => {
                let base = Offset(header.base_offset);
                derived.dedup.insert(
                    loss::NO_ACCOUNT,
                    base,
                    derived.last_time,
                    loss::records(base, header.count),
                );
            }
            _ => return,
        }
        let derived = &mut self.derived;
        if derived.recent.len() == RECENT_ENTRIES_MAX {
            derived.recent.pop_front();
        }
        derived
            .recent
            .push_back(RecentEntry { base: Offset(header.base_offset), index: header.position.index });
    }

    /// The identities of an entry's events.
    fn remember(&mut self, frame: &Frame) {
        let (header, derived) = (&frame.header, &mut self.derived);
        let entry = Entry::decode(&frame.payload, header.count).unwrap_or_else(|error| {
            panic!("entry at index {} is not readable: {error}", header.position.index)
        });
        for section in entry.sections() {
            let base = Offset(header.base_offset).plus(section.base_delta.into());
            derived.dedup.insert(section.account, base, derived.last_time, section.records());
        }
    }

    /// Forgets what is derived; it begins again at `next_offset`, after index `last_index`.
    pub(crate) fn reset_derived(&mut self, limits: Limits, next_offset: Offset, last_index: u64) {
        let last_time = self.derived.last_time;
        self.derived = Derived { next_offset, last_index, last_time, ..Derived::new(limits) };
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
                    // Not the frontier decides: an advance on its way may be about to pass over `from`.
                    matched_to: (from < self.derived.next_offset).then_some(from),
                };
                Reply::Attached(self.attach(attachment))
            }
            Command::Detach { subscription, epoch, reason } => {
                Reply::Detached(self.detach(subscription, epoch, reason))
            }
            Command::Advance { term, .. } | Command::Trim { term, .. } if term != header.position.term => {
                match command {
                    Command::Trim { .. } => Reply::Trimmed(Err(Refusal::Term)),
                    _ => Reply::Advanced(Err(Refusal::Term)),
                }
            }
            Command::Advance { advance, .. } => Reply::Advanced(self.advance(&advance)),
            Command::Trim { to, position, .. } => Reply::Trimmed(self.trim(to, position, header.position)),
        }
    }

    fn resolve(&self, start: Start) -> Offset {
        match start {
            Start::Next => self.derived.next_offset,
            Start::Earliest => self.log_start,
            Start::Time { offset, .. } => offset.clamp(self.log_start, self.derived.next_offset),
        }
    }

    fn attach(&mut self, new: Attachment) -> Result<Attachment, Refusal> {
        let filter = &new.filters[0];
        let counters = match self.attached.get_mut(&new.subscription) {
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
            None => self.reattach(new.subscription, new.epoch)?,
        };
        self.attached.insert(new.subscription, Attached { attachment: new.clone(), counters, record: None });
        Ok(new)
    }

    /// The counters that a subscription had when it was detached; an epoch older than that is over.
    fn reattach(&mut self, subscription: SubscriptionId, epoch: u64) -> Result<Counters, Refusal> {
        match self.detached.iter().position(|detached| detached.subscription == subscription) {
            None => Ok(Counters::default()),
            Some(at) if self.detached[at].epoch > epoch => Err(Refusal::Epoch),
            Some(at) => Ok(self.detached.remove(at).map(|detached| detached.counters).unwrap_or_default()),
        }
    }

    fn detach(&mut self, subscription: SubscriptionId, epoch: u64, reason: Reason) -> Result<(), Refusal> {
        let Some(attached) = self.attached.get_mut(&subscription) else { return Ok(()) };
        if attached.attachment.epoch > epoch {
            return Err(Refusal::Epoch);
        }
        attached.cancel_pending(reason);
        let attached = self.attached.remove(&subscription).expect("just looked at");
        if self.detached.len() == DETACHED_MAX {
            self.detached.pop_front();
        }
        self.detached.push_back(Detached { subscription, epoch, counters: attached.counters });
        Ok(())
    }

    fn advance(&mut self, advance: &Advance) -> Result<(), Refusal> {
        if advance.frontier < self.frontier || advance.frontier > self.derived.next_offset {
            return Err(Refusal::Position);
        }
        let mut advanced = BTreeMap::new();
        for cursor in &advance.cursors {
            let attached = self.attached.get(&cursor.subscription).ok_or(Refusal::Epoch)?;
            let next = attached.advanced(cursor, self.frontier, advance.frontier)?;
            if advanced.insert(cursor.subscription, next).is_some() {
                return Err(Refusal::Accounting);
            }
        }
        self.frontier = advance.frontier;
        self.attached.extend(advanced);
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
        if self.attached.values().any(|attached| attached.unsettled_from(self.frontier) < to) {
            return Err(Refusal::Unsettled);
        }
        self.log_start = to;
        self.frontier = self.frontier.max(to);
        self.anchor = Some(Anchor { position, next_offset: to.0 });
        Ok(to)
    }

    fn drop_settled_filters(&mut self) {
        let (attached, frontier) = (&mut self.attached, self.frontier);
        self.several_filters.retain(|subscription| {
            let Some(attached) = attached.get_mut(subscription) else { return false };
            attached.drop_settled_filters(frontier);
            attached.attachment.filters.len() > 1
        });
    }
}

impl Derived {
    fn new(limits: Limits) -> Self {
        Self {
            next_offset: Offset::ZERO,
            last_time: Timestamp(0),
            last_index: 0,
            dedup: Window::new(limits),
            recent: VecDeque::new(),
        }
    }
}

/// What others look at between two applied entries.
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

    /// Of the newest applied entry.
    pub(crate) fn last_index(&self) -> u64 {
        self.derived.last_index
    }

    pub(crate) fn dedup(&self) -> &Window {
        &self.derived.dedup
    }

    /// Index of the entry that holds `offset`, if it is one of the newest.
    pub(crate) fn recent_index(&self, offset: Offset) -> Option<u64> {
        let recent = &self.derived.recent;
        let after = recent.partition_point(|entry| entry.base <= offset);
        after.checked_sub(1).map(|at| recent[at].index)
    }

    pub(crate) fn delivery_state(&self) -> DeliveryState {
        let attachments =
            self.attached.values().map(|attached| (attached.attachment.clone(), attached.record.clone()));
        DeliveryState { frontier: self.frontier, attachments: attachments.collect() }
    }

    pub(crate) fn attachment(&self, subscription: SubscriptionId) -> Option<Attachment> {
        self.attached.get(&subscription).map(|attached| attached.attachment.clone())
    }

    pub(crate) fn counters(&self, subscription: SubscriptionId) -> Option<(Counters, Option<CursorRecord>)> {
        if let Some(attached) = self.attached.get(&subscription) {
            return Some((attached.counters.clone(), attached.record.clone()));
        }
        let detached = self.detached.iter().find(|detached| detached.subscription == subscription)?;
        Some((detached.counters.clone(), None))
    }
}

#[cfg(test)]
pub(crate) mod tests;

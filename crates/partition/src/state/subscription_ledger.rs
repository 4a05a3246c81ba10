//! One subscription's ledger in one partition: the changes that an advance may make to it, and the first offset that the
//! log must keep for it.
//!
//! An event that was matched and counted is in exactly one place: settled under an outcome, named by the record (the
//! window, or a parked key), or unread, at or above the record's `read_to`. An advance states the new numbers of all
//! these places, and is refused unless they add up.

use fanfare_model::Offset;

use super::cursor_ledger::CursorLedger;
use crate::{
    AttachedFilter, Attachment, Counters, CursorAdvance, CursorRecord, Outcome, Reason, RecordChange, Refusal,
};

/// Largest encoded filter in bytes.
pub(crate) const FILTER_BYTES_MAX: usize = 32 << 10;
/// Filters of one attachment that are needed at once: changes with unsettled events between them.
pub(crate) const FILTERS_MAX: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubscriptionLedger {
    pub(crate) attachment: Attachment,
    pub(crate) counters: Counters,
    /// None: nothing is pending.
    pub(crate) cursor: Option<CursorLedger>,
}

/// An advance that was found to add up, without its record.
#[derive(Debug)]
pub(crate) struct CheckedAdvance {
    counters: Counters,
    matched_to: Option<Offset>,
    /// The record's `read_to`; None if nothing is pending.
    read_to: Option<Offset>,
}

/// The events that an advance counts: `from..to`. Those below `from` were counted before.
#[derive(Clone, Copy)]
struct CountedRange {
    from: Offset,
    to: Offset,
}

impl SubscriptionLedger {
    /// The changes that `cursor` makes when it goes from the old frontier to the new one.
    ///
    /// # Errors
    /// If the advance is of another epoch, moves something back, or does not add up.
    pub(crate) fn check_advance(
        &self,
        cursor: &CursorAdvance,
        frontier: Offset,
        new_frontier: Offset,
    ) -> Result<CheckedAdvance, Refusal> {
        if cursor.epoch != self.attachment.epoch {
            return Err(Refusal::Epoch);
        }
        let counted = self.counted(cursor, frontier, new_frontier)?;
        if cursor.matched > counted.to.since(counted.from) {
            return Err(Refusal::Accounting);
        }
        let counters = add(&self.counters, cursor)?;
        let read_to = match &cursor.record {
            Some(record) => self.check_record(record, counted, counters.pending())?,
            None if counters.pending() == 0 => None,
            None => return Err(Refusal::Accounting),
        };
        let matched_to = match self.attachment.matched_to {
            Some(_) if counted.to == new_frontier && cursor.matched_to.is_some() => None,
            Some(_) => Some(counted.to),
            None => None,
        };
        Ok(CheckedAdvance { counters, matched_to, read_to })
    }

    /// Makes the changes of an advance that was checked against this very ledger.
    pub(crate) fn advance(&mut self, checked: CheckedAdvance, record: Option<RecordChange>) {
        let CheckedAdvance { counters, matched_to, read_to } = checked;
        self.counters = counters;
        self.attachment.matched_to = matched_to;
        match read_to.zip(record) {
            Some((read_to, record)) => self.cursor.get_or_insert_default().change(read_to, record),
            None => self.cursor = None,
        }
    }

    fn counted(
        &self,
        cursor: &CursorAdvance,
        frontier: Offset,
        new_frontier: Offset,
    ) -> Result<CountedRange, Refusal> {
        match (self.attachment.matched_to, cursor.matched_to) {
            (None, None) => {
                let from = frontier.max(self.attachment.from);
                Ok(CountedRange { from, to: new_frontier.max(from) })
            }
            (Some(from), None) => Ok(CountedRange { from, to: from }),
            (Some(from), Some(to)) if from <= to && to <= new_frontier => Ok(CountedRange { from, to }),
            (Some(_), Some(_)) | (None, Some(_)) => Err(Refusal::Position),
        }
    }

    /// The new record's `read_to`, if the record accounts for `pending` events and moves nothing back; None if nothing
    /// is left to record.
    fn check_record(
        &self,
        record: &RecordChange,
        counted: CountedRange,
        pending: u64,
    ) -> Result<Option<Offset>, Refusal> {
        if !record.is_sorted() {
            return Err(Refusal::Position);
        }
        let none = CursorLedger::default();
        let named = self.cursor.as_ref().unwrap_or(&none).named_events_after(record)?;
        if pending == 0 {
            return if named == 0 { Ok(None) } else { Err(Refusal::Accounting) };
        }
        // With nothing pending before, every event counted before is settled, read by the delivery task or not.
        let (read_to, oldest) = match &self.cursor {
            Some(old) if record.read_to < old.read_to() => return Err(Refusal::Position),
            Some(old) => (record.read_to, old.first_named().unwrap_or_else(|| old.read_to())),
            None => (record.read_to.max(counted.from), counted.from),
        };
        if read_to > counted.to || !record.is_within(oldest, read_to) {
            return Err(Refusal::Position);
        }
        // A parked key that is not changed goes on to fit, as `read_to` never moves back.
        let parked_fit =
            record.parked.iter().all(|key| 0 < key.pending && key.pending <= read_to.since(key.from));
        let unread = pending.checked_sub(named).ok_or(Refusal::Accounting)?;
        if !parked_fit || unread > counted.to.since(read_to) {
            return Err(Refusal::Accounting);
        }
        Ok(Some(read_to))
    }

    /// Makes `new` the newest filter, in force from its offset on.
    pub(crate) fn change_filter(&mut self, new: AttachedFilter) -> Result<(), Refusal> {
        let mut filters = self.attachment.filters.to_vec();
        // A filter that took effect at this very offset never matched an event.
        filters.pop_if(|last| last.from == new.from && last.filter != new.filter);
        let is_full = filters.len() == FILTERS_MAX;
        match filters.last_mut() {
            Some(last) if last.filter == new.filter => last.revision = new.revision,
            _ if is_full => return Err(Refusal::Filter),
            _ => filters.push(new),
        }
        self.attachment.filters = filters.into();
        Ok(())
    }

    /// Drops the filters of offsets that will never be matched again.
    pub(crate) fn drop_settled_filters(&mut self, frontier: Offset) {
        let needed = self.unsettled_from(frontier);
        let filters = &self.attachment.filters;
        let passed = filters[1..].partition_point(|filter| filter.from <= needed);
        if passed > 0 {
            self.attachment.filters = filters[passed..].into();
        }
    }

    pub(crate) fn record(&self) -> Option<CursorRecord> {
        self.cursor.as_ref().map(CursorLedger::record)
    }

    /// Settles all pending events as cancelled.
    pub(crate) fn cancel_pending(&mut self, reason: Reason) {
        let pending = self.counters.pending();
        if pending > 0 {
            *self.counters.settled.entry(Outcome::Cancelled(reason)).or_default() += pending;
        }
        self.cursor = None;
    }

    /// The first offset that may hold an unsettled event of this subscription. Trims stay at or below it.
    pub(crate) fn unsettled_from(&self, frontier: Offset) -> Offset {
        let uncounted = self.attachment.matched_to.map_or(frontier, |matched_to| matched_to.min(frontier));
        let Some(cursor) = &self.cursor else { return uncounted };
        let unread = (self.counters.pending() > cursor.named_events()).then_some(cursor.read_to());
        [cursor.first_named(), unread].into_iter().flatten().fold(uncounted, Offset::min)
    }
}

impl RecordChange {
    fn is_within(&self, oldest: Offset, read_to: Offset) -> bool {
        let mut named = self.window.iter().copied().chain(self.parked.iter().map(|parked| parked.from));
        named.all(|offset| oldest <= offset && offset < read_to)
    }

    fn is_sorted(&self) -> bool {
        self.window.is_sorted_by(|one, other| one < other)
            && self.parked.is_sorted_by(|one, other| one.key < other.key)
            && self.released.is_sorted_by(|one, other| one < other)
    }
}

/// The counters with the events that `cursor` matched and settled; refused if more are settled than were matched.
fn add(counters: &Counters, cursor: &CursorAdvance) -> Result<Counters, Refusal> {
    let settled = cursor.settled.values().try_fold(0_u64, |sum, &events| sum.checked_add(events));
    let settled = settled.ok_or(Refusal::Accounting)?;
    let unsettled = counters.pending().checked_add(cursor.matched).ok_or(Refusal::Accounting)?;
    if settled > unsettled {
        return Err(Refusal::Accounting);
    }
    let mut counters = counters.clone();
    counters.matched = counters.matched.checked_add(cursor.matched).ok_or(Refusal::Accounting)?;
    for (&outcome, &events) in cursor.settled.iter().filter(|(_, events)| **events > 0) {
        *counters.settled.entry(outcome).or_default() += events;
    }
    Ok(counters)
}

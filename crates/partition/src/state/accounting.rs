//! One subscription's account in one partition: what an advance may do to it, and how far the log must be kept for it.
//!
//! An event that was matched and counted is in exactly one place: settled under an outcome, named by the record (the
//! window, or a parked key), or unread, at or above the record's `read_to`. An advance states the new numbers of all
//! places, and is refused unless they add up.

use fanfare_model::Offset;

use crate::{AttachedFilter, Attachment, Counters, CursorAdvance, CursorRecord, Outcome, Reason, Refusal};

/// Bytes of one filter.
pub(crate) const FILTER_BYTES_MAX: usize = 32 << 10;
/// Specs of one attachment that are needed at once: changes with events between them and none of these settled.
pub(crate) const FILTERS_MAX: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) attachment: Attachment,
    pub(crate) counters: Counters,
    pub(crate) record: Option<CursorRecord>,
}

/// What an advance counts: the events of `from..to`, those below being counted already.
#[derive(Clone, Copy)]
struct Counted {
    from: Offset,
    to: Offset,
}

impl Attached {
    /// This account after `cursor` took it from the old frontier to the new one.
    pub(crate) fn advanced(
        &self,
        cursor: &CursorAdvance,
        frontier: Offset,
        new_frontier: Offset,
    ) -> Result<Self, Refusal> {
        if cursor.epoch != self.attachment.epoch {
            return Err(Refusal::Epoch);
        }
        let counted = self.counted(cursor, frontier, new_frontier)?;
        if cursor.matched > counted.to.since(counted.from) {
            return Err(Refusal::Accounting);
        }
        let counters = add(&self.counters, cursor)?;
        let record = match &cursor.record {
            Some(record) => self.check(record, counted, counters.pending())?,
            None if counters.pending() == 0 => None,
            None => return Err(Refusal::Accounting),
        };
        let matched_to = match self.attachment.matched_to {
            Some(_) if counted.to == new_frontier && cursor.matched_to.is_some() => None,
            Some(_) => Some(counted.to),
            None => None,
        };
        Ok(Self { attachment: Attachment { matched_to, ..self.attachment.clone() }, counters, record })
    }

    fn counted(
        &self,
        cursor: &CursorAdvance,
        frontier: Offset,
        new_frontier: Offset,
    ) -> Result<Counted, Refusal> {
        match (self.attachment.matched_to, cursor.matched_to) {
            (None, None) => {
                let from = frontier.max(self.attachment.from);
                Ok(Counted { from, to: new_frontier.max(from) })
            }
            (Some(from), None) => Ok(Counted { from, to: from }),
            (Some(from), Some(to)) if from <= to && to <= new_frontier => Ok(Counted { from, to }),
            (Some(_), Some(_)) | (None, Some(_)) => Err(Refusal::Position),
        }
    }

    /// The record as it is kept, if it accounts for `pending` events and moves nothing back.
    fn check(
        &self,
        record: &CursorRecord,
        counted: Counted,
        pending: u64,
    ) -> Result<Option<CursorRecord>, Refusal> {
        let held = record.named_events();
        if pending == 0 {
            return if held == 0 { Ok(None) } else { Err(Refusal::Accounting) };
        }
        // With nothing pending before, everything counted before is settled, whether the task has read it or not.
        let (read_to, oldest) = match &self.record {
            Some(old) if record.read_to < old.read_to => return Err(Refusal::Position),
            Some(old) => (record.read_to, old.first_named().unwrap_or(old.read_to)),
            None => (record.read_to.max(counted.from), counted.from),
        };
        if read_to > counted.to || !record.is_ordered_within(oldest, read_to) {
            return Err(Refusal::Position);
        }
        let parked_fit =
            record.parked.iter().all(|key| 0 < key.pending && key.pending <= read_to.since(key.from));
        let unread = pending.checked_sub(held).ok_or(Refusal::Accounting)?;
        if !parked_fit || unread > counted.to.since(read_to) {
            return Err(Refusal::Accounting);
        }
        Ok(Some(CursorRecord { read_to, ..record.clone() }))
    }

    /// From its offset on `new` holds instead of the newest filter.
    pub(crate) fn change_filter(&mut self, new: AttachedFilter) -> Result<(), Refusal> {
        let mut filters = self.attachment.filters.to_vec();
        // What took effect at this very offset never held for an event.
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

    /// Forgets the filters of offsets that will never be matched again.
    pub(crate) fn drop_settled_filters(&mut self, frontier: Offset) {
        let needed = self.unsettled_from(frontier);
        let filters = &self.attachment.filters;
        let passed = filters[1..].partition_point(|filter| filter.from <= needed);
        if passed > 0 {
            self.attachment.filters = filters[passed..].into();
        }
    }

    /// Settles all that is pending as cancelled.
    pub(crate) fn cancel_pending(&mut self, reason: Reason) {
        let pending = self.counters.pending();
        if pending > 0 {
            *self.counters.settled.entry(Outcome::Cancelled(reason)).or_default() += pending;
        }
        self.record = None;
    }

    /// The first offset that may hold an event of this subscription that is not settled.
    pub(crate) fn unsettled_from(&self, frontier: Offset) -> Offset {
        let uncounted = self.attachment.matched_to.map_or(frontier, |matched_to| matched_to.min(frontier));
        let Some(record) = &self.record else { return uncounted };
        let unread = (self.counters.pending() > record.named_events()).then_some(record.read_to);
        [record.first_named(), unread].into_iter().flatten().fold(uncounted, Offset::min)
    }
}

impl CursorRecord {
    /// The oldest offset that the record names.
    fn first_named(&self) -> Option<Offset> {
        let parked = self.parked.iter().map(|parked| parked.from).min();
        self.window.first().copied().into_iter().chain(parked).min()
    }

    fn is_ordered_within(&self, oldest: Offset, read_to: Offset) -> bool {
        let mut named = self.window.iter().copied().chain(self.parked.iter().map(|parked| parked.from));
        named.all(|offset| oldest <= offset && offset < read_to)
            && self.window.is_sorted_by(|one, other| one < other)
            && self.parked.is_sorted_by(|one, other| one.key < other.key)
    }
}

/// The counters with what `cursor` matched and settled, if nothing is settled that was not matched.
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

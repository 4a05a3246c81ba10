//! Position of a subscription in the log: live with the fan-out, or lagging behind it and reading by itself. Pure.

use std::collections::VecDeque;

use fanfare_model::{Offset, Timestamp};
use fanfare_partition::{Attachment, CursorRecord};

use super::buffered_event::BufferedEvent;

pub(super) struct LogPosition {
    catch_up: CatchUp,
    /// The fan-out counts events from here on; events below were counted by this subscription or long ago.
    fan_out_counts_from: Offset,
    /// Set while the subscription starts in the past: events from here on that it reads itself are newly matched.
    counts_from: Option<Offset>,
    /// The replicated attachment still says that the subscription counts for itself.
    needs_join: bool,
    /// The cursor record was restored, and not all that it stands for has been read again.
    restored: bool,
    /// No read starts before this, after one that failed.
    read_retry_at_ms: u64,
}

enum CatchUp {
    /// The fan-out hands over events from `from` on; events below were read by the subscription itself.
    Live {
        from: Offset,
    },
    Lagging(Backlog),
}

struct Backlog {
    /// Matched events read ahead of the window.
    read_ahead: VecDeque<BufferedEvent>,
    /// Next offset to read.
    end: Offset,
    reading: bool,
    /// Append time of the last event known at `read_to`.
    append_time: Option<Timestamp>,
}

impl LogPosition {
    pub(super) fn restore(
        attachment: &Attachment,
        record: Option<&CursorRecord>,
        fan_out_offset: Offset,
    ) -> Self {
        let read_to = record.map(|record| record.read_to);
        let lagging_at = match attachment.matched_to {
            Some(matched_to) => Some(read_to.unwrap_or(matched_to)),
            None => read_to.filter(|&read_to| read_to < fan_out_offset),
        };
        let catch_up = match lagging_at {
            Some(offset) => CatchUp::Lagging(Backlog::at(offset, None)),
            None => CatchUp::Live { from: fan_out_offset },
        };
        let counts_itself = attachment.matched_to.is_some();
        Self {
            catch_up,
            // Until the join, the subscription counts everything by itself.
            fan_out_counts_from: if counts_itself {
                Offset(u64::MAX)
            } else {
                fan_out_offset.max(attachment.from)
            },
            counts_from: attachment.matched_to,
            needs_join: counts_itself,
            restored: record.is_some(),
            read_retry_at_ms: 0,
        }
    }

    pub(super) fn is_counted_by_fan_out(&self, offset: Offset) -> bool {
        offset >= self.fan_out_counts_from
    }

    /// The fan-out hands the event over.
    pub(super) fn takes(&self, offset: Offset) -> bool {
        self.is_counted_by_fan_out(offset)
            && matches!(self.catch_up, CatchUp::Live { from } if offset >= from)
    }

    pub(super) fn counts_itself(&self, offset: Offset) -> bool {
        self.counts_from.is_some_and(|from| offset >= from)
    }

    /// The event at `offset` found no room: the subscription lags from there on.
    ///
    /// # Panics
    /// If the fan-out did not hand the event over: a backlog would be forgotten.
    pub(super) fn lag_from(&mut self, offset: Offset, append_time: Timestamp) {
        assert!(self.takes(offset), "invariant violation: {offset} was not handed over by the fan-out");
        self.catch_up = CatchUp::Lagging(Backlog::at(offset, Some(append_time)));
    }

    /// Reads up to the fan-out, if nothing remains before it.
    pub(super) fn join_at(&mut self, fan_out_offset: Offset) {
        let CatchUp::Lagging(backlog) = &self.catch_up else { return };
        assert!(
            backlog.end <= fan_out_offset,
            "invariant violation: the backlog was read to {}, beyond the fan-out at {fan_out_offset}",
            backlog.end
        );
        if backlog.end < fan_out_offset || backlog.reading || !backlog.read_ahead.is_empty() {
            return;
        }
        self.catch_up = CatchUp::Live { from: fan_out_offset };
        if self.counts_from.take().is_some() {
            self.fan_out_counts_from = fan_out_offset;
        }
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self.catch_up, CatchUp::Live { .. })
    }

    pub(super) fn needs_join(&self) -> bool {
        self.needs_join
    }

    /// Exclusive end of the events taken into the window or parked.
    pub(super) fn read_to(&self, fan_out_offset: Offset) -> Offset {
        self.lagging_at().unwrap_or(fan_out_offset)
    }

    /// First offset that may be unsettled and is not taken in, while the subscription lags.
    pub(super) fn lagging_at(&self) -> Option<Offset> {
        self.backlog().map(Backlog::next)
    }

    pub(super) fn oldest_append_time(&self) -> Option<Timestamp> {
        let backlog = self.backlog()?;
        backlog.read_ahead.front().map(|event| event.append_time).or(backlog.append_time)
    }

    /// Exclusive end of the matched and counted events to replicate, while the subscription counts for itself. The
    /// last one joins the fan-out.
    pub(super) fn propose_matched_to(&mut self, fan_out_offset: Offset) -> Option<Offset> {
        if !self.needs_join {
            return None;
        }
        let read_to = self.read_to(fan_out_offset);
        let matched_to = self.counts_from.map_or(fan_out_offset, |from| from.max(read_to));
        self.needs_join = matched_to != fan_out_offset;
        Some(matched_to)
    }

    /// Offset to read from, if the subscription lags and has used up what was read.
    pub(super) fn start_read(&mut self, fan_out_offset: Offset) -> Option<Offset> {
        let CatchUp::Lagging(backlog) = &mut self.catch_up else { return None };
        if !backlog.read_ahead.is_empty() || backlog.reading || backlog.end >= fan_out_offset {
            return None;
        }
        backlog.reading = true;
        Some(backlog.end)
    }

    /// Matching events up to `end` were read.
    pub(super) fn read(&mut self, events: Vec<BufferedEvent>, end: Offset) {
        let CatchUp::Lagging(backlog) = &mut self.catch_up else { return };
        assert!(
            backlog.end <= end && events.first().is_none_or(|first| first.offset >= backlog.end),
            "invariant violation: the backlog is read from {} to {end} and goes back",
            backlog.end
        );
        backlog.reading = false;
        backlog.end = end;
        backlog.read_ahead = events.into();
    }

    pub(super) fn next_read_ahead(&mut self) -> Option<BufferedEvent> {
        match &mut self.catch_up {
            CatchUp::Lagging(backlog) => backlog.read_ahead.pop_front(),
            CatchUp::Live { .. } => None,
        }
    }

    /// The event of [`Self::next_read_ahead`] found no room.
    pub(super) fn return_read_ahead(&mut self, event: BufferedEvent) {
        if let CatchUp::Lagging(backlog) = &mut self.catch_up {
            backlog.append_time = Some(event.append_time);
            backlog.read_ahead.push_front(event);
        }
    }

    pub(super) fn read_failed(&mut self, retry_at_ms: u64) {
        self.delay_reads(retry_at_ms);
        if let CatchUp::Lagging(backlog) = &mut self.catch_up {
            backlog.reading = false;
        }
    }

    pub(super) fn delay_reads(&mut self, retry_at_ms: u64) {
        self.read_retry_at_ms = retry_at_ms;
    }

    pub(super) fn read_retry_at_ms(&self) -> u64 {
        self.read_retry_at_ms
    }

    /// Forgets the events read ahead; they are read again later.
    pub(super) fn drop_read_ahead(&mut self) {
        if let CatchUp::Lagging(backlog) = &mut self.catch_up
            && !backlog.reading
        {
            backlog.end = backlog.next();
            backlog.read_ahead = VecDeque::new();
        }
    }

    /// Everything that a restored cursor record stands for has been read again.
    pub(super) fn has_reread_restored(&self) -> bool {
        self.restored && self.is_live()
    }

    pub(super) fn forget_restored(&mut self) {
        self.restored = false;
    }

    fn backlog(&self) -> Option<&Backlog> {
        match &self.catch_up {
            CatchUp::Lagging(backlog) => Some(backlog),
            CatchUp::Live { .. } => None,
        }
    }
}

impl Backlog {
    fn at(offset: Offset, append_time: Option<Timestamp>) -> Self {
        Self { read_ahead: VecDeque::new(), end: offset, reading: false, append_time }
    }

    fn next(&self) -> Offset {
        self.read_ahead.front().map_or(self.end, |event| event.offset)
    }
}

//! Where a subscription stands in the log: behind the fan-out, reading by itself, or with it.

use std::collections::VecDeque;

use fanfare_model::{Offset, Timestamp};
use fanfare_partition::{Attachment, CursorRecord};

use super::state::{Flight, Moment};
use crate::subscription::window::Held;

pub(super) struct Reading {
    behind: Option<Behind>,
    /// While it follows: events from here are taken from the fan-out. Those below were read by itself.
    follows_from: Offset,
    /// Events from here are counted by the fan-out, those below by its own reading or long ago.
    pub(super) fan_out_from: Offset,
    /// While it starts in the past: events from here that it reads itself are newly matched.
    counts_from: Option<Offset>,
    /// The replicated attachment still says that it counts for itself.
    pub(super) joins: bool,
}

struct Behind {
    /// Matched and read ahead of the window.
    ahead: VecDeque<Held>,
    /// Where to read on.
    end: Offset,
    busy: bool,
    /// Append time of the last event that was known at `read_to`.
    time: Option<Timestamp>,
}

const NEVER: Offset = Offset(u64::MAX);

impl Reading {
    pub(super) fn restore(attachment: &Attachment, record: Option<&CursorRecord>, front: Offset) -> Self {
        let read_to = record.map(|record| record.read_to);
        if let Some(matched_to) = attachment.matched_to {
            return Self {
                behind: Some(Behind::at(read_to.unwrap_or(matched_to), None)),
                follows_from: NEVER,
                fan_out_from: NEVER,
                counts_from: Some(matched_to),
                joins: true,
            };
        }
        let behind = read_to.filter(|&read_to| read_to < front).map(|read_to| Behind::at(read_to, None));
        let follows_from = if behind.is_none() { front } else { NEVER };
        let fan_out_from = front.max(attachment.from);
        Self { behind, follows_from, fan_out_from, counts_from: None, joins: false }
    }

    pub(super) fn takes_over(&self, offset: Offset) -> bool {
        self.behind.is_none() && offset >= self.follows_from
    }

    pub(super) fn fall_behind(&mut self, at: Offset, time: Timestamp) {
        self.behind = Some(Behind::at(at, Some(time)));
    }

    pub(super) fn follows(&self) -> bool {
        self.behind.is_none()
    }

    /// Exclusive end of what was taken into the window or parked.
    pub(super) fn read_to(&self, front: Offset) -> Offset {
        self.behind.as_ref().map_or(front, Behind::next)
    }

    /// The first event that may be unsettled and is not taken in, if it is behind.
    pub(super) fn behind_at(&self) -> Option<Offset> {
        self.behind.as_ref().map(Behind::next)
    }

    pub(super) fn oldest(&self) -> Option<Timestamp> {
        let behind = self.behind.as_ref()?;
        behind.ahead.front().map(|held| held.append_time).or(behind.time)
    }

    /// Exclusive end of what is matched and counted, while the subscription counts for itself.
    pub(super) fn matched_to(&self, front: Offset) -> Offset {
        self.counts_from.map_or(front, |from| from.max(self.read_to(front)))
    }

    /// Where to read next, if it is behind and has used up what it read.
    pub(super) fn wants(&self, front: Offset) -> Option<Offset> {
        let behind = self.behind.as_ref()?;
        (behind.ahead.is_empty() && !behind.busy && behind.end < front).then_some(behind.end)
    }

    pub(super) fn started(&mut self) {
        if let Some(behind) = &mut self.behind {
            behind.busy = true;
        }
    }

    pub(super) fn failed(&mut self) {
        if let Some(behind) = &mut self.behind {
            behind.busy = false;
        }
    }

    /// Drops what was read ahead; it is read again later.
    pub(super) fn drop_ahead(&mut self) {
        if let Some(behind) = &mut self.behind
            && !behind.busy
        {
            behind.end = behind.next();
            behind.ahead = VecDeque::new();
        }
    }
}

impl Behind {
    fn at(offset: Offset, time: Option<Timestamp>) -> Self {
        Self { ahead: VecDeque::new(), end: offset, busy: false, time }
    }

    fn next(&self) -> Offset {
        self.ahead.front().map_or(self.end, |held| held.offset)
    }
}

impl Flight {
    /// What its own reading found: matching events up to `end`.
    pub(crate) fn read(&mut self, found: Vec<Held>, end: Offset, moment: Moment) {
        if let Some(behind) = &mut self.reading.behind {
            behind.busy = false;
            behind.end = end;
            behind.ahead = found.into();
        }
        self.take_in(moment);
    }

    /// Moves what was read ahead into the window, as far as there is room, and joins the fan-out at the front.
    pub(super) fn take_in(&mut self, moment: Moment) {
        loop {
            let Some(behind) = &mut self.reading.behind else { return };
            let Some(held) = behind.ahead.pop_front() else { break };
            let (offset, append_time) = (held.offset, held.append_time);
            match self.offer(held, moment) {
                Ok(()) => {
                    let counted = self.reading.counts_from.is_some_and(|from| offset >= from);
                    self.ledger.matched(u64::from(counted));
                }
                Err(held) => {
                    let behind = self.reading.behind.as_mut().expect("it was behind a moment ago");
                    behind.time = Some(append_time);
                    behind.ahead.push_front(held);
                    return;
                }
            }
        }
        let reading = &mut self.reading;
        let behind = reading.behind.as_ref().expect("the loop ends with it behind");
        if behind.end == moment.front && !behind.busy {
            reading.behind = None;
            reading.follows_from = moment.front;
            if reading.counts_from.take().is_some() {
                reading.fan_out_from = moment.front;
            }
        }
    }
}

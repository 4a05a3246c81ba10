//! Everything one subscription knows and decides about one partition. Pure: time, randomness and events are passed
//! in; what is to be done comes out as an [`Errand`] or as the events of an attempt.
//!
//! ```text
//!            settled, or parked by key        window            ahead       not read by it
//!   ───────────────────────────────┬──────────────────────────┬─────────┬──────────────────► offsets
//!                                  oldest unsettled           read_to    end          front
//! ```
//! While it follows, the fan-out hands events over and `read_to` is the front. When the window is full it falls
//! behind: `read_to` stays, and it reads from the log by itself until it meets the front again.

use std::{collections::VecDeque, sync::Arc};

use fanfare_model::{KeyHash, Offset, Timestamp};
use fanfare_partition::{Attachment, Counters, CursorRecord, Outcome, Reason};

pub(crate) use super::action::Errand;
use super::{catch_up::Reading, counters::Ledger, key_queue::Lanes, parked_keys::Parks};
use crate::{
    DeliveryOptions,
    circuit_breaker::Breaker,
    subscription::window::{Held, InFlight, Limits},
};

/// One event under way, to the sink or to the dead letters.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) held: Held,
    /// It is the first of a parked key, not of the window.
    pub(crate) parked: bool,
}

/// An event that is given up, to be kept in the dead letters before it is settled.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) item: Item,
    pub(crate) reason: Reason,
    pub(crate) detail: String,
    pub(crate) attempts: u32,
}

/// What may be attempted next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Candidate {
    Window(Offset),
    Parked(KeyHash),
}

/// What the pure core is told about the moment of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Monotonic.
    pub(crate) now_ms: u64,
    /// Every event below it was read by the fan-out or is being handed over by it.
    pub(crate) front: Offset,
    pub(crate) random: u64,
}

pub(crate) struct Flight {
    pub(super) options: Arc<DeliveryOptions>,
    pub(super) ledger: Ledger,
    pub(super) window: InFlight,
    /// Unsettled events of the window whose bytes are not in memory: all of them or none.
    pub(super) unloaded: Vec<(Offset, Option<Timestamp>)>,
    pub(super) lanes: Lanes,
    pub(super) ready: VecDeque<Candidate>,
    pub(super) letters: VecDeque<Letter>,
    /// Letters of the window's events that could not be written, and when to try again.
    pub(super) letters_later: Vec<(u64, Letter)>,
    pub(super) parks: Parks,
    pub(super) breaker: Breaker,
    /// The last event that took the sink down, and how much had passed by then.
    pub(super) accused: Option<(Offset, u64)>,
    pub(super) reading: Reading,
    pub(super) paused: bool,
    /// Retention wants everything below it settled.
    pub(super) expire_below: Offset,
    /// The record was read from the log's state, and not all that it stands for has been read again.
    pub(super) restored: bool,
    /// No errand that reads is started before this, after one that failed.
    pub(super) read_retry_ms: u64,
    pub(super) loading: bool,
    pub(super) last_failure: String,
    /// How much of what was settled the advance under way covers.
    pub(super) proposed: Option<usize>,
}

impl Flight {
    /// Takes up where the replicated state says. `front` is where the fan-out stands.
    pub(crate) fn restore(
        options: Arc<DeliveryOptions>,
        attachment: &Attachment,
        state: (Counters, Option<CursorRecord>),
        moment: Moment,
    ) -> Self {
        let (counters, record) = state;
        let limits = Limits { events: options.window_events, bytes: options.window_bytes };
        let restored = record.is_some();
        let reading = Reading::restore(attachment, record.as_ref(), moment.front);
        let record = record.unwrap_or_default();
        Self {
            options,
            ledger: Ledger::restore(counters),
            window: InFlight::new(limits),
            unloaded: record.window.into_iter().map(|offset| (offset, None)).collect(),
            lanes: Lanes::default(),
            ready: VecDeque::new(),
            letters: VecDeque::new(),
            letters_later: Vec::new(),
            parks: Parks::restore(&record.parked, moment.now_ms),
            breaker: Breaker::default(),
            accused: None,
            reading,
            paused: false,
            expire_below: Offset::ZERO,
            restored,
            read_retry_ms: 0,
            loading: false,
            last_failure: String::new(),
            proposed: None,
        }
    }

    /// Counts an event that the fan-out matched. True if it is to be handed over with [`Self::follow`].
    pub(crate) fn counts(&mut self, offset: Offset) -> bool {
        if offset < self.reading.fan_out_from {
            return false;
        }
        self.ledger.matched(1);
        self.reading.takes_over(offset)
    }

    /// An event that was counted.
    pub(crate) fn follow(&mut self, held: Held, moment: Moment) {
        let (offset, append_time) = (held.offset, held.append_time);
        if let Err(_refused) = self.offer(held, moment) {
            self.reading.fall_behind(offset, append_time);
        }
    }

    pub(crate) fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// The sink is another one: what is known about the old one does not count.
    pub(crate) fn sink_changed(&mut self, now_ms: u64) {
        self.breaker = Breaker::default();
        self.accused = None;
        self.parks.all_due(now_ms);
    }

    /// Everything below `below` is to be kept as dead letters instead of delivered.
    pub(crate) fn expire(&mut self, below: Offset) {
        self.expire_below = self.expire_below.max(below);
    }

    pub(crate) fn is_down(&self) -> bool {
        self.breaker.is_down()
    }

    pub(crate) fn last_failure(&self) -> &str {
        &self.last_failure
    }

    pub(crate) fn parked_keys(&self) -> usize {
        self.parks.len()
    }

    pub(crate) fn counters(&self) -> Counters {
        self.ledger.live()
    }

    /// Events under way to the sink or to the dead letters.
    pub(crate) fn busy(&self) -> usize {
        self.window.busy() + self.parks.busy()
    }

    /// Takes the event into the window or, if its key is parked, counts it there; gives it back if there is no room.
    pub(super) fn offer(&mut self, held: Held, moment: Moment) -> Result<(), Held> {
        if let Some(parked) = self.parks.get_mut(held.key) {
            parked.pending += 1;
            return Ok(());
        }
        let no_room = !self.window.has_room(held.bytes.len(), self.parks.busy());
        if no_room || !self.unloaded.is_empty() || self.holds(moment.now_ms) {
            return Err(held);
        }
        self.admit(held);
        Ok(())
    }

    pub(super) fn admit(&mut self, held: Held) {
        if self.lanes.enter(held.key, held.offset) {
            self.ready.push_back(Candidate::Window(held.offset));
        }
        self.window.admit(held);
    }

    /// Nothing can be attempted for so long that nothing is worth keeping in memory.
    pub(super) fn holds(&self, now_ms: u64) -> bool {
        (self.paused || self.breaker.is_held(now_ms)) && !self.expires()
    }

    pub(super) fn expires(&self) -> bool {
        self.low_water().is_some_and(|oldest| oldest < self.expire_below)
    }

    /// Settles an event of the window or the first of a parked key.
    pub(super) fn settle(&mut self, offset: Offset, key: KeyHash, parked: bool, how: (Outcome, u64)) {
        let (outcome, now_ms) = how;
        if parked {
            if !self.parks.settle(key, offset, now_ms) {
                return;
            }
            self.window.settled_elsewhere();
        } else {
            if !self.window.settle(offset) {
                return;
            }
            if let Some(next) = self.lanes.leave(key) {
                self.ready.push_back(Candidate::Window(next));
            }
        }
        self.ledger.settled(outcome, 1);
    }
}

#[cfg(test)]
pub(crate) mod tests;

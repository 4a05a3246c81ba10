//! What has to be done besides attempts: reading, and writing dead letters.

use fanfare_model::{KeyHash, Offset};
use fanfare_partition::{Outcome, Reason};

use super::{
    parked_keys::{Due, Phase},
    state::{Candidate, Flight, Item, Letter, Moment},
};
use crate::{circuit_breaker::Gate, retry::probe_delay_ms, subscription::window::Held};

/// Pause after a failed read.
const READ_RETRY_MS: u64 = 1_000;
/// A failed write of a dead letter is repeated as a probe is that has failed so often.
const LETTER_BACKOFF: u32 = 2;

#[derive(Debug)]
pub(crate) enum Errand {
    /// Keep it, then call [`Flight::lettered`] or [`Flight::letter_failed`].
    Letter(Letter),
    /// Read these events again, then call [`Flight::loaded`].
    Load(Vec<Offset>),
    /// Read matching events, then call [`Flight::read`].
    Read { from: Offset, upto: Offset },
    /// Read matching events of one key, then call [`Flight::scanned`].
    Scan { key: KeyHash, from: Offset, upto: Offset },
}

impl Flight {
    /// The next thing to do, if there is one; it counts as begun.
    pub(crate) fn next_errand(&mut self, moment: Moment) -> Option<Errand> {
        self.take_up_letters(moment.now_ms);
        if self.holds(moment.now_ms) {
            self.unload();
        }
        // Before the window fills again: a parked event takes up room, too.
        let scan = self.promote_parked(moment);
        self.take_in(moment);
        if self.expires() {
            self.give_up_expired();
        }
        if let Some(letter) = self.letters.pop_front() {
            self.put_off(scan);
            return Some(Errand::Letter(letter));
        }
        if scan.is_some() {
            return scan;
        }
        if moment.now_ms < self.read_retry_ms || self.holds(moment.now_ms) {
            return None;
        }
        if !self.unloaded.is_empty() {
            let wanted = (!self.loading).then(|| self.unloaded.iter().map(|(offset, _)| *offset).collect());
            self.loading = true;
            return wanted.map(Errand::Load);
        }
        if !self.window.has_room(0, self.parks.busy()) {
            return None;
        }
        let from = self.reading.wants(moment.front)?;
        self.reading.started();
        Some(Errand::Read { from, upto: moment.front })
    }

    /// When to ask again if nothing happens before.
    pub(crate) fn deadline_ms(&self, now_ms: u64) -> Option<u64> {
        let gate = match self.breaker.gate(now_ms) {
            Gate::Shut { until_ms } => until_ms,
            Gate::Open | Gate::Probe => None,
        };
        let letters = self.letters_later.iter().map(|(retry_at_ms, _)| *retry_at_ms).min();
        let deadlines = [self.parks.deadline(now_ms), letters, gate, Some(self.read_retry_ms)];
        deadlines.into_iter().flatten().filter(|&deadline_ms| deadline_ms > now_ms).min()
    }

    /// All events of [`Errand::Load`], in that order; None for one that cannot be read as it was when it was matched.
    pub(crate) fn loaded(&mut self, found: Vec<(Offset, Option<Held>)>) {
        self.loading = false;
        self.unloaded.clear();
        for (_, held) in found {
            match held {
                Some(held) => self.admit(held),
                None => {
                    self.ledger.settled(Outcome::Cancelled(Reason::Unreadable), 1);
                    self.window.settled_elsewhere();
                }
            }
        }
    }

    /// The next events of a parked key below `scanned_to`, perhaps not all of them.
    pub(crate) fn scanned(&mut self, key: KeyHash, found: Vec<Held>, scanned_to: Offset, moment: Moment) {
        let read_to = self.reading.read_to(moment.front);
        let Some(parked) = self.parks.get_mut(key) else { return };
        parked.phase = Phase::Waiting;
        parked.scanned_to = scanned_to;
        parked.buffer.extend(found);
        if let Some(first) = parked.buffer.front() {
            parked.from = first.offset;
            parked.append_time = Some(first.append_time);
        } else if scanned_to >= read_to {
            let count = parked.pending;
            self.parks.remove(key);
            self.ledger.settled(Outcome::Cancelled(Reason::Unreadable), count);
        }
    }

    pub(crate) fn errand_failed(&mut self, errand: &Errand, moment: Moment) {
        self.read_retry_ms = moment.now_ms + READ_RETRY_MS;
        match errand {
            Errand::Load(_) => self.loading = false,
            Errand::Read { .. } => self.reading.failed(),
            Errand::Scan { key, .. } => {
                if let Some(parked) = self.parks.get_mut(*key) {
                    parked.phase = Phase::Waiting;
                    parked.retry_at_ms = self.read_retry_ms;
                }
            }
            Errand::Letter(_) => {}
        }
    }

    /// The letter is committed.
    pub(crate) fn lettered(&mut self, item: &Item, reason: Reason, now_ms: u64) {
        let how = (Outcome::DeadLettered(reason), now_ms);
        self.settle(item.held.offset, item.held.key, item.parked, how);
    }

    /// The event is given up and no letter is kept.
    pub(crate) fn expired(&mut self, item: &Item, reason: Reason, now_ms: u64) {
        self.settle(item.held.offset, item.held.key, item.parked, (Outcome::Expired(reason), now_ms));
    }

    /// The letter could not be written: its key is held until it can. What retention overtakes is not held for want of
    /// disk space, as trimming alone may free some.
    pub(crate) fn letter_failed(&mut self, letter: Letter, disk_is_full: bool, moment: Moment) {
        let Held { offset, key, .. } = letter.item.held;
        if disk_is_full && (letter.reason == Reason::Retention || offset < self.expire_below) {
            self.expired(&letter.item, Reason::Retention, moment.now_ms);
            return;
        }
        let delay_ms = probe_delay_ms(&self.options.retry, LETTER_BACKOFF, None, moment.random);
        let retry_at_ms = moment.now_ms + delay_ms;
        if !letter.item.parked {
            // Not parked: later events of the key may be settled already, and a parked key has none of these.
            if self.window.get(offset).is_some() {
                self.window.set_busy(offset, false);
                self.letters_later.push((retry_at_ms, letter));
            }
            return;
        }
        let Letter { item, reason, detail, .. } = letter;
        let Some(parked) = self.parks.get_mut(key).filter(|parked| parked.from == offset) else { return };
        parked.phase = Phase::Waiting;
        parked.retry_at_ms = retry_at_ms;
        parked.given_up = Some((reason, detail));
        if parked.buffer.front().is_none_or(|first| first.offset != offset) {
            parked.scanned_to = parked.scanned_to.max(offset.plus(1));
            parked.buffer.push_front(item.held);
        }
    }

    /// Takes up the letters whose time to try again has come.
    fn take_up_letters(&mut self, now_ms: u64) {
        for (_, letter) in self.letters_later.extract_if(.., |(retry_at_ms, _)| *retry_at_ms <= now_ms) {
            self.window.set_busy(letter.item.held.offset, true);
            self.letters.push_back(letter);
        }
    }

    /// Makes parked keys that are due candidates, until one has to be read first.
    fn promote_parked(&mut self, moment: Moment) -> Option<Errand> {
        let gate = !self.paused && !matches!(self.breaker.gate(moment.now_ms), Gate::Shut { .. });
        let room = |flight: &Self| flight.window.has_room(0, flight.parks.busy() + flight.unloaded.len());
        while let Some(due) = self.parks.next_due(moment.now_ms, self.expire_below, gate && room(self)) {
            match due {
                Due::Scan { key, from } => {
                    return Some(Errand::Scan { key, from, upto: self.reading.read_to(moment.front) });
                }
                Due::Candidate(key) => match self.parks.get(key).and_then(|parked| parked.given_up.clone()) {
                    Some((reason, detail)) => self.give_up(Candidate::Parked(key), reason, detail),
                    None => self.ready.push_back(Candidate::Parked(key)),
                },
            }
        }
        None
    }

    /// The errand is not begun after all.
    fn put_off(&mut self, errand: Option<Errand>) {
        if let Some(Errand::Scan { key, .. }) = errand
            && let Some(parked) = self.parks.get_mut(key)
        {
            parked.phase = Phase::Waiting;
        }
    }

    fn give_up_expired(&mut self) {
        for candidate in std::mem::take(&mut self.ready) {
            match self.item(candidate) {
                Some(item) if item.held.offset < self.expire_below => {
                    self.give_up(candidate, Reason::Retention, "retention came before delivery".to_owned());
                }
                Some(_) => self.ready.push_back(candidate),
                None => {}
            }
        }
    }

    fn give_up(&mut self, candidate: Candidate, reason: Reason, detail: String) {
        if let Some(item) = self.begin(candidate) {
            self.refuse(item, reason, detail);
        }
    }

    /// Forgets the bytes of what waits, if nothing is under way.
    fn unload(&mut self) {
        if self.window.busy() > 0 || self.loading {
            return;
        }
        self.reading.drop_ahead();
        self.parks.drop_buffers();
        if self.window.len() > 0 {
            self.unloaded.extend(self.window.unload().into_iter().map(|(offset, time)| (offset, Some(time))));
            self.lanes.clear();
            // What they are about is attempted again.
            self.letters_later.clear();
            self.ready.retain(|candidate| matches!(candidate, Candidate::Parked(_)));
        }
    }
}

//! Which events go into an attempt, and what its outcomes mean.

use std::{collections::HashSet, time::Duration};

use fanfare_model::KeyHash;
use fanfare_partition::{Outcome, Reason};
use fanfare_sinks::{Abilities, Failure, Outcome as Answer};

use super::{
    parked_keys::Phase,
    state::{Candidate, Flight, Item, Letter, Moment},
};
use crate::{
    circuit_breaker::{Gate, Verdict},
    retry::{probe_delay_ms, retry_delay_ms},
    subscription::window::Held,
};

/// Why later events of a key in the same batch cannot be judged by their own outcome alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Earlier {
    GivenUp,
    Failed,
}

/// What is to be sent, or why it must not be.
pub(crate) type Checked<D> = Result<D, (Reason, String)>;

impl Flight {
    /// Whether [`Self::next_attempt`] is worth a permit of the sink.
    pub(crate) fn wants_attempt(&self, now_ms: u64) -> bool {
        let shut = matches!(self.breaker.gate(now_ms), Gate::Shut { .. });
        !self.paused && !shut && !self.ready.is_empty()
    }

    /// Events for one attempt, in order; none if nothing may be attempted. They count as under way.
    pub(crate) fn next_attempt(&mut self, now_ms: u64, abilities: Abilities) -> Vec<Item> {
        let gate = self.breaker.gate(now_ms);
        let events_max = match gate {
            _ if self.paused => 0,
            Gate::Open => abilities.batch_events_max.max(1),
            Gate::Probe => 1,
            Gate::Shut { .. } => 0,
        };
        let mut items: Vec<Item> = Vec::new();
        let mut bytes = 0;
        while items.len() < events_max {
            let Some(&candidate) = self.ready.front() else { break };
            let size_bytes = self.item(candidate).map(|item| item.held.bytes.len());
            if size_bytes.is_some_and(|size| !items.is_empty() && bytes + size > abilities.batch_bytes_max) {
                break;
            }
            let alone = self.goes_alone(candidate, abilities);
            if alone && !items.is_empty() {
                break;
            }
            self.ready.pop_front();
            let Some(item) = self.begin(candidate) else { continue };
            bytes += item.held.bytes.len();
            let key = (!item.parked && abilities.keeps_key_order_in_batch).then_some(item.held.key);
            items.push(item);
            if alone {
                break;
            }
            if let Some(key) = key {
                let room = (events_max - items.len(), abilities.batch_bytes_max.saturating_sub(bytes));
                bytes += self.followers(key, room, &mut items);
            }
        }
        if gate == Gate::Probe && !items.is_empty() {
            self.breaker.probe_started();
        }
        items
    }

    /// Whether the outcome has to be about this event and no other.
    fn goes_alone(&self, candidate: Candidate, abilities: Abilities) -> bool {
        match candidate {
            Candidate::Window(offset) => self.window.is_alone(offset),
            Candidate::Parked(_) => abilities.atomic_batch,
        }
    }

    /// Like [`Self::finish`], for a sink whose outcome covers the whole batch: a failure does not tell which event is
    /// at fault, so that nobody is judged and each is attempted alone.
    pub(crate) fn finish_atomic(&mut self, answers: Vec<(Item, Answer)>, moment: Moment) {
        let failed =
            |(_, answer): &(Item, Answer)| matches!(answer, Answer::Retry { .. } | Answer::Rejected { .. });
        if answers.len() < 2 || !answers.iter().all(failed) {
            self.finish(answers, moment);
            return;
        }
        let mut heads = HashSet::new();
        let (mut first, mut behind) = (Vec::new(), Vec::new());
        for (item, answer) in answers {
            if let Answer::Retry { why, .. } | Answer::Rejected { why } = answer {
                self.last_failure = describe(&why);
            }
            self.window.set_alone(item.held.offset);
            if heads.insert(item.held.key) { first.push(item) } else { behind.push(item) }
        }
        self.step_back(behind);
        for item in first.iter().rev() {
            if item.parked {
                self.put_back(item, moment.now_ms);
            } else if self.window.get(item.held.offset).is_some() {
                self.window.set_busy(item.held.offset, false);
                self.ready.push_front(Candidate::Window(item.held.offset));
            }
        }
    }

    /// What became of the events of an attempt, in their order.
    pub(crate) fn finish(&mut self, answers: Vec<(Item, Answer)>, moment: Moment) {
        let mut earlier: Vec<(KeyHash, Earlier)> = Vec::new();
        let mut stepping_back = Vec::new();
        for (index, (item, answer)) in answers.into_iter().enumerate() {
            let key = item.held.key;
            let before = earlier.iter().rev().find(|(other, _)| *other == key).map(|(_, why)| *why);
            // At most one event of a key is given up or fails at a time.
            if before == Some(Earlier::Failed) || before.is_some() && answer != Answer::Delivered {
                stepping_back.push(item);
                continue;
            }
            let random = moment.random.rotate_left(u32::try_from(index % 64).unwrap_or(0));
            let moment = Moment { random, ..moment };
            match answer {
                Answer::Delivered => {
                    self.breaker.passed();
                    self.last_failure.clear();
                    let how = (Outcome::Delivered, moment.now_ms);
                    self.settle(item.held.offset, key, item.parked, how);
                }
                Answer::Rejected { why } => {
                    self.breaker.passed();
                    self.last_failure = describe(&why);
                    earlier.push((key, Earlier::GivenUp));
                    let detail = self.last_failure.clone();
                    self.refuse_attempted(item, Reason::Rejected, detail);
                }
                Answer::Retry { after, why } => {
                    earlier.push((key, Earlier::Failed));
                    self.failed(item, (after, why), moment);
                }
                Answer::SinkDown { after, why } => {
                    earlier.push((key, Earlier::Failed));
                    self.sink_down(item, (after, why), moment);
                }
            }
        }
        self.step_back(stepping_back);
    }

    /// These events, in order, wait again behind earlier ones of their keys that were begun with them.
    pub(crate) fn step_back(&mut self, items: Vec<Item>) {
        for item in items.into_iter().rev() {
            if self.window.get(item.held.offset).is_some() {
                self.window.set_busy(item.held.offset, false);
                self.lanes.step_back(item.held.key, item.held.offset);
            }
        }
    }

    /// What of an attempt that was begun is sent. An event that must not be is given up if it is the first of its key
    /// here; whatever comes behind it, or it itself behind another one, waits again. With nothing left the attempt never
    /// reaches the sink.
    pub(crate) fn send<D>(&mut self, checked: Vec<(Item, Checked<D>)>) -> (Vec<Item>, Vec<D>) {
        let (mut taken, mut deliveries) = (Vec::new(), Vec::new());
        let (mut seen, mut stopped) = (HashSet::new(), HashSet::new());
        let mut stepping_back = Vec::new();
        for (item, delivery) in checked {
            let key = item.held.key;
            let first = seen.insert(key);
            match delivery {
                Ok(delivery) if !stopped.contains(&key) => {
                    taken.push(item);
                    deliveries.push(delivery);
                }
                Err((reason, detail)) if first => {
                    stopped.insert(key);
                    self.refuse(item, reason, detail);
                }
                Ok(_) | Err(_) => {
                    stopped.insert(key);
                    stepping_back.push(item);
                }
            }
        }
        self.step_back(stepping_back);
        if taken.is_empty() {
            self.breaker.probe_lapsed();
        }
        (taken, deliveries)
    }

    /// Gives an event up that was begun, without an attempt at it.
    pub(crate) fn refuse(&mut self, item: Item, reason: Reason, detail: String) {
        let attempts = self.attempts(&item);
        self.letters.push_back(Letter { item, reason, detail, attempts });
    }

    fn refuse_attempted(&mut self, item: Item, reason: Reason, detail: String) {
        let attempts = self.attempts(&item) + 1;
        self.letters.push_back(Letter { item, reason, detail, attempts });
    }

    fn attempts(&self, item: &Item) -> u32 {
        let parked = item.parked.then(|| self.parks.get(item.held.key)).flatten();
        parked.map_or(0, |parked| parked.attempts)
    }

    /// The event of a candidate, unless that is outdated.
    pub(super) fn item(&self, candidate: Candidate) -> Option<Item> {
        match candidate {
            Candidate::Window(offset) => {
                self.window.get(offset).map(|held| Item { held: held.clone(), parked: false })
            }
            Candidate::Parked(key) => {
                let held = self.parks.get(key).and_then(|parked| parked.buffer.front());
                held.map(|held| Item { held: held.clone(), parked: true })
            }
        }
    }

    /// The candidate's event, now under way.
    pub(super) fn begin(&mut self, candidate: Candidate) -> Option<Item> {
        let item = self.item(candidate)?;
        match candidate {
            Candidate::Window(offset) => self.window.set_busy(offset, true),
            Candidate::Parked(key) => self.parks.get_mut(key)?.phase = Phase::Busy,
        }
        Some(item)
    }

    /// Lets events that wait behind one of the batch join it. Their bytes.
    fn followers(&mut self, key: KeyHash, room: (usize, usize), items: &mut Vec<Item>) -> usize {
        let (mut events, mut bytes) = room;
        let before = bytes;
        while events > 0
            && let Some(offset) = self.lanes.follow(key)
        {
            let size_bytes = self.window.get(offset).map_or(0, |held| held.bytes.len());
            if size_bytes > bytes || self.window.is_alone(offset) {
                self.lanes.step_back(key, offset);
                break;
            }
            items.extend(self.begin(Candidate::Window(offset)));
            events -= 1;
            bytes -= size_bytes;
        }
        before - bytes
    }

    fn failed(&mut self, item: Item, failure: (Option<Duration>, Failure), moment: Moment) {
        let (after, why) = failure;
        self.last_failure = describe(&why);
        let failed_at = if item.parked {
            self.parks.get(item.held.key).and_then(|parked| parked.failed_at)
        } else {
            None
        };
        match self.breaker.failed(item.held.key, failed_at) {
            Verdict::Poison => self.park_or_give_up(item, after, moment),
            Verdict::Outage { unspent } => {
                if let Some(parked) = unspent.and_then(|key| self.parks.get_mut(key))
                    && parked.phase == Phase::Waiting
                {
                    parked.attempts = parked.attempts.saturating_sub(1);
                    parked.retry_at_ms = moment.now_ms;
                }
                self.trip(after, moment);
                self.put_back(&item, moment.now_ms);
            }
        }
    }

    fn sink_down(&mut self, item: Item, failure: (Option<Duration>, Failure), moment: Moment) {
        let (after, why) = failure;
        self.last_failure = describe(&why);
        let offset = item.held.offset;
        // An event that takes the sink down each time while others pass is at fault itself.
        let again = self
            .accused
            .is_some_and(|(accused, passes)| accused == offset && passes != self.breaker.passes());
        if again && !self.breaker.is_down() {
            self.park_or_give_up(item, after, moment);
            return;
        }
        if !self.breaker.is_down() {
            self.accused = Some((offset, self.breaker.passes()));
        }
        self.trip(after, moment);
        self.put_back(&item, moment.now_ms);
    }

    pub(super) fn trip(&mut self, after: Option<Duration>, moment: Moment) {
        let retry = &self.options.retry;
        self.breaker.trip(moment.now_ms, |probes| probe_delay_ms(retry, probes, after, moment.random));
    }

    /// The event may be attempted again as if it had not been.
    pub(super) fn put_back(&mut self, item: &Item, now_ms: u64) {
        if item.parked {
            if let Some(parked) = self.parks.get_mut(item.held.key) {
                (parked.phase, parked.retry_at_ms) = (Phase::Waiting, now_ms);
            }
        } else if self.window.get(item.held.offset).is_some() {
            self.window.set_busy(item.held.offset, false);
            self.ready.push_back(Candidate::Window(item.held.offset));
        }
    }

    fn park_or_give_up(&mut self, item: Item, after: Option<Duration>, moment: Moment) {
        if !item.parked && self.window.get(item.held.offset).is_none() {
            return;
        }
        let attempts = self.attempts(&item) + 1;
        if attempts >= self.options.retry.attempts_max {
            let detail = self.last_failure.clone();
            self.refuse_attempted(item, Reason::AttemptsExhausted, detail);
            return;
        }
        if !item.parked && self.parks.len() >= self.options.parked_keys_max {
            self.trip(after, moment);
            self.put_back(&item, moment.now_ms);
            return;
        }
        let delay_ms = retry_delay_ms(&self.options.retry, attempts, after, moment.random);
        let (key, offset) = (item.held.key, item.held.offset);
        if !item.parked {
            self.park(item.held, attempts);
        }
        let passes = self.breaker.passes();
        let Some(parked) = self.parks.get_mut(key) else { return };
        parked.phase = Phase::Waiting;
        parked.attempts = attempts;
        parked.retry_at_ms = moment.now_ms + delay_ms;
        parked.failed_at = Some(passes);
        parked.buffer.clear();
        parked.scanned_to = offset;
    }

    /// Takes the key's events out of the window; only their number stays.
    pub(super) fn park(&mut self, held: Held, attempts: u32) {
        let taken = self.window.take_key(held.key);
        debug_assert_eq!(
            taken.first(),
            Some(&held.offset),
            "the first event of a lane is parked with all others"
        );
        self.lanes.close(held.key);
        self.parks.insert(held, attempts, taken.len() as u64);
    }
}

fn describe(why: &Failure) -> String {
    match why.status {
        0 => format!("{}: {}", why.class, why.message),
        status => format!("{} {status}: {}", why.class, why.message),
    }
}

//! Choice of the events of an attempt, and the consequences of its outcomes.

use std::{collections::BTreeSet, time::Duration};

use fanfare_environment::{Bug, planted};
use fanfare_model::KeyHash;
use fanfare_partition::{Outcome as Settlement, Reason};
use fanfare_sinks::{Abilities, Failure, Outcome};

use super::{
    buffered_event::{AttemptItem, BufferedEvent, DeadLetterRequest, SchemaCheck},
    event::{Action, Actions, AttemptResult, Inputs},
    parked_keys::{GivenUp, Phase},
    state::{Candidate, LastOutage, Mode, SubscriptionState},
};
use crate::{
    RetryPolicy,
    backoff::{probe_delay_ms, retry_delay_ms},
    judgement::{Allowed, History, KeySource, Verdict, judge},
};

/// Reason why later events of a key in the same batch cannot be judged by their own outcome alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Earlier {
    GivenUp,
    Failed,
}

/// Capacity left in a batch.
#[derive(Clone, Copy)]
struct BatchRoom {
    events: usize,
    bytes: usize,
}

impl SubscriptionState {
    /// An attempt is worth a permit of the sink.
    pub(crate) fn wants_attempt(&self, inputs: &Inputs<'_>) -> bool {
        let allowed = !matches!(inputs.breaker.allowed(inputs.now_ms), Allowed::Nothing { .. });
        self.mode == Mode::Active && allowed && !self.ready.is_empty()
    }

    /// Starts one attempt, if there is an event for it. Events that must not be sent become dead letters instead.
    pub(super) fn start_attempt(
        &mut self,
        abilities: Abilities,
        inputs: &mut Inputs<'_>,
        actions: &mut Actions,
    ) {
        let allowed = inputs.breaker.allowed(inputs.now_ms);
        let events_max = match allowed {
            _ if self.mode != Mode::Active => 0,
            Allowed::Everything => abilities.batch_events_max.max(1),
            Allowed::OneProbe => 1,
            Allowed::Nothing { .. } => 0,
        };
        let items = self.choose(events_max, abilities);
        settle_sent_if_planted(self, &items, inputs.now_ms);
        if !items.is_empty() {
            let probe = (allowed == Allowed::OneProbe).then(|| inputs.breaker.start_probe());
            actions.work.push(Action::StartAttempt { items, probe });
        }
        self.write_dead_letters(actions);
    }

    /// Events for one attempt, in order. They count as in flight.
    fn choose(&mut self, events_max: usize, abilities: Abilities) -> Vec<AttemptItem> {
        let mut items: Vec<AttemptItem> = Vec::new();
        let mut room = BatchRoom { events: events_max, bytes: abilities.batch_bytes_max };
        while room.events > 0
            && let Some(&candidate) = self.ready.front()
        {
            let Some(event) = self.candidate_event(candidate) else {
                self.ready.pop_front();
                continue;
            };
            if let Some(GivenUp { reason, detail }) = refusal(event, abilities) {
                self.ready.pop_front();
                if let Some(item) = self.begin(candidate) {
                    self.refuse(item, reason, detail);
                }
                continue;
            }
            let (key, size_bytes) = (event.key, event.bytes.len());
            let alone = self.goes_alone(candidate, abilities);
            if !items.is_empty() && (alone || size_bytes > room.bytes) {
                break;
            }
            self.ready.pop_front();
            items.extend(self.begin(candidate));
            if alone {
                break;
            }
            room.events -= 1;
            room.bytes = room.bytes.saturating_sub(size_bytes);
            if abilities.keeps_key_order_in_batch && matches!(candidate, Candidate::Window(_)) {
                self.add_followers(key, abilities, &mut room, &mut items);
            }
        }
        items
    }

    /// Lets events that wait behind one of the batch join the batch.
    fn add_followers(
        &mut self,
        key: KeyHash,
        abilities: Abilities,
        room: &mut BatchRoom,
        items: &mut Vec<AttemptItem>,
    ) {
        while room.events > 0
            && let Some(offset) = self.key_queues.follow(key)
        {
            let joins = self.window.get(offset).is_some_and(|event| {
                event.bytes.len() <= room.bytes
                    && !self.window.is_sent_alone(offset)
                    && !matches!(event.schema, SchemaCheck::Unchecked(_))
                    // An event that must not be sent is given up when its own turn comes.
                    && refusal(event, abilities).is_none()
            });
            if !joins {
                self.key_queues.step_back(key, offset);
                return;
            }
            let Some(item) = self.begin(Candidate::Window(offset)) else { return };
            room.events -= 1;
            room.bytes -= item.event.bytes.len();
            items.push(item);
        }
    }

    /// The outcome has to be about this event and no other.
    fn goes_alone(&self, candidate: Candidate, abilities: Abilities) -> bool {
        match candidate {
            Candidate::Window(offset) => self.window.is_sent_alone(offset),
            Candidate::Parked(_) => abilities.atomic_batch,
        }
    }

    /// Like [`Self::finish`], for a sink whose outcome covers the whole batch: a failure does not tell which event is
    /// at fault, so that nothing is judged and each event is attempted alone.
    pub(super) fn finish_atomic(&mut self, results: Vec<AttemptResult>, inputs: &mut Inputs<'_>) {
        let failed = |result: &AttemptResult| {
            matches!(result.outcome, Outcome::Retry { .. } | Outcome::Rejected { .. })
        };
        if results.len() < 2 || !results.iter().all(failed) {
            self.finish(results, inputs);
            return;
        }
        let mut keys = BTreeSet::new();
        let (mut first, mut later) = (Vec::new(), Vec::new());
        for AttemptResult { item, outcome } in results {
            if let Outcome::Retry { why, .. } | Outcome::Rejected { why } = outcome {
                self.failures.last_failure = describe(&why);
            }
            self.window.set_send_alone(item.event.offset);
            if keys.insert(item.event.key) { first.push(item) } else { later.push(item) }
        }
        self.step_back(later);
        for item in first.iter().rev() {
            if item.parked {
                self.put_back(item, inputs.now_ms);
            } else if self.window.get(item.event.offset).is_some() {
                self.window.set_busy(item.event.offset, false);
                self.ready.push_front(Candidate::Window(item.event.offset));
            }
        }
    }

    /// Judges the outcomes of an attempt, in their order.
    pub(super) fn finish(&mut self, results: Vec<AttemptResult>, inputs: &mut Inputs<'_>) {
        let mut earlier: Vec<(KeyHash, Earlier)> = Vec::new();
        let mut stepping_back = Vec::new();
        let random = inputs.random;
        for (index, AttemptResult { item, outcome }) in results.into_iter().enumerate() {
            let key = item.event.key;
            let before = earlier.iter().rev().find(|(other, _)| *other == key).map(|(_, why)| *why);
            // At most one event of a key is given up or fails at a time.
            if before == Some(Earlier::Failed) || before.is_some() && outcome != Outcome::Delivered {
                stepping_back.push(item);
                continue;
            }
            inputs.random = random.rotate_left(u32::try_from(index % 64).unwrap_or(0));
            match self.judge(item, &outcome, inputs) {
                Verdict::Deliver => {}
                Verdict::Reject => earlier.push((key, Earlier::GivenUp)),
                Verdict::Retry { .. } | Verdict::Throttle { .. } | Verdict::SinkDown { .. } => {
                    earlier.push((key, Earlier::Failed));
                }
            }
        }
        inputs.random = random;
        self.step_back(stepping_back);
    }

    /// Judges one outcome, and acts on the verdict.
    fn judge(&mut self, item: AttemptItem, outcome: &Outcome, inputs: &mut Inputs<'_>) -> Verdict {
        let history = self.history(&item, inputs);
        let verdict = judge(&history, outcome);
        let was_down = inputs.breaker.is_down();
        inputs.breaker.record(&verdict, history.source);
        match outcome {
            Outcome::Delivered => self.failures.last_failure.clear(),
            Outcome::Rejected { why } | Outcome::Retry { why, .. } | Outcome::SinkDown { why, .. } => {
                self.failures.last_failure = describe(why);
            }
        }
        match verdict {
            Verdict::Deliver => self.settle(&item, Settlement::Delivered, inputs.now_ms),
            Verdict::Reject => {
                let (attempts, detail) = (self.attempts(&item) + 1, self.failures.last_failure.clone());
                self.dead_letters.push(DeadLetterRequest {
                    item,
                    reason: Reason::Rejected,
                    detail,
                    attempts,
                });
            }
            Verdict::Retry { after, .. } => self.park_or_give_up(item, after, inputs),
            Verdict::Throttle { after, .. } => self.park_or_give_up(item, Some(after), inputs),
            Verdict::SinkDown { after, refund } => {
                if matches!(outcome, Outcome::SinkDown { .. }) && !was_down {
                    let (offset, passes) = (item.event.offset, history.passes);
                    self.failures.last_outage = Some(LastOutage { offset, passes });
                }
                self.refund(refund, inputs.now_ms);
                trip(&self.options.retry, after, inputs);
                self.put_back(&item, inputs.now_ms);
            }
        }
        verdict
    }

    fn history(&self, item: &AttemptItem, inputs: &Inputs<'_>) -> History {
        let parked = item.parked.then(|| self.parked_keys.get(item.event.key)).flatten();
        let outage = self.failures.last_outage.filter(|outage| outage.offset == item.event.offset);
        History {
            source: KeySource { subscription: self.id, key: item.event.key },
            is_down: inputs.breaker.is_down(),
            passes: inputs.breaker.passes(),
            suspect: inputs.breaker.suspect(),
            failed_at_passes: parked.and_then(|parked| parked.failed_at_passes),
            outage_at_passes: outage.map(|outage| outage.passes),
        }
    }

    /// Takes back the attempt that was charged to a key before the sink was known to be down. A suspect of another
    /// subscription keeps the charge: one attempt more or less decides little there.
    fn refund(&mut self, source: Option<KeySource>, now_ms: u64) {
        let own = source.filter(|source| source.subscription == self.id);
        if let Some(parked) = own.and_then(|source| self.parked_keys.get_mut(source.key))
            && parked.phase == Phase::Waiting
        {
            parked.attempts = parked.attempts.saturating_sub(1);
            parked.retry_at_ms = now_ms;
        }
    }

    /// These events, in order, wait again behind earlier ones of their keys that were begun with them.
    fn step_back(&mut self, items: Vec<AttemptItem>) {
        for item in items.into_iter().rev() {
            if self.window.get(item.event.offset).is_some() {
                self.window.set_busy(item.event.offset, false);
                self.key_queues.step_back(item.event.key, item.event.offset);
            }
        }
    }

    /// Gives up an event in flight, without an attempt.
    pub(super) fn refuse(&mut self, item: AttemptItem, reason: Reason, detail: String) {
        let attempts = self.attempts(&item);
        self.dead_letters.push(DeadLetterRequest { item, reason, detail, attempts });
    }

    fn attempts(&self, item: &AttemptItem) -> u32 {
        let parked = item.parked.then(|| self.parked_keys.get(item.event.key)).flatten();
        parked.map_or(0, |parked| parked.attempts)
    }

    /// The event of a candidate, unless the candidate is outdated.
    pub(super) fn candidate_event(&self, candidate: Candidate) -> Option<&BufferedEvent> {
        match candidate {
            Candidate::Window(offset) => self.window.get(offset),
            Candidate::Parked(key) => self.parked_keys.get(key)?.buffer.front(),
        }
    }

    /// The candidate's event, now in flight.
    pub(super) fn begin(&mut self, candidate: Candidate) -> Option<AttemptItem> {
        let event = self.candidate_event(candidate)?.clone();
        let parked = match candidate {
            Candidate::Window(offset) => {
                self.window.set_busy(offset, true);
                false
            }
            Candidate::Parked(key) => {
                self.parked_keys.get_mut(key)?.phase = Phase::Busy;
                true
            }
        };
        Some(AttemptItem { event, parked })
    }

    /// The event may be attempted again as if it had not been.
    fn put_back(&mut self, item: &AttemptItem, now_ms: u64) {
        if item.parked {
            if let Some(parked) = self.parked_keys.get_mut(item.event.key) {
                (parked.phase, parked.retry_at_ms) = (Phase::Waiting, now_ms);
            }
        } else if self.window.get(item.event.offset).is_some() {
            self.window.set_busy(item.event.offset, false);
            self.ready.push_back(Candidate::Window(item.event.offset));
            // The key's queue stays closed: later events of the key wait for this one.
            release_next_if_planted(self, item.event.key);
        }
    }

    fn park_or_give_up(&mut self, item: AttemptItem, after: Option<Duration>, inputs: &mut Inputs<'_>) {
        let (key, offset) = (item.event.key, item.event.offset);
        if !item.parked && self.window.get(offset).is_none() {
            return;
        }
        let attempts = self.attempts(&item) + 1;
        if attempts >= self.options.retry.attempts_max {
            let (reason, detail) = (Reason::AttemptsExhausted, self.failures.last_failure.clone());
            self.dead_letters.push(DeadLetterRequest { item, reason, detail, attempts });
            return;
        }
        if !item.parked && self.parked_keys.len() >= self.options.parked_keys_max {
            trip(&self.options.retry, after, inputs);
            self.put_back(&item, inputs.now_ms);
            return;
        }
        let delay_ms = retry_delay_ms(&self.options.retry, attempts, after, inputs.random);
        if !item.parked {
            self.park(&item.event, attempts);
        }
        let Some(parked) = self.parked_keys.get_mut(key) else { return };
        parked.phase = Phase::Waiting;
        parked.attempts = attempts;
        parked.retry_at_ms = inputs.now_ms + delay_ms;
        parked.failed_at_passes = Some(inputs.breaker.passes());
        parked.buffer.clear();
        parked.scanned_to = offset;
    }

    /// Takes the key's events out of the window; only their number stays.
    fn park(&mut self, event: &BufferedEvent, attempts: u32) {
        let offsets = self.window.take_key(event.key);
        assert_eq!(
            offsets.first(),
            Some(&event.offset),
            "invariant violation: the first event of a key is parked with all others of the key"
        );
        self.key_queues.close(event.key);
        self.parked_keys.insert(event, attempts, offsets.len() as u64);
    }
}

fn trip(retry: &RetryPolicy, after: Option<Duration>, inputs: &mut Inputs<'_>) {
    let random = inputs.random;
    inputs.breaker.trip(inputs.now_ms, |probes| probe_delay_ms(retry, probes, after, random));
}

fn settle_sent_if_planted(state: &mut SubscriptionState, items: &[AttemptItem], now_ms: u64) {
    if planted(Bug::CursorAheadOfOutcome) {
        for item in items.iter().filter(|item| !item.parked) {
            state.settle(item, Settlement::Delivered, now_ms);
        }
    }
}

fn release_next_if_planted(state: &mut SubscriptionState, key: KeyHash) {
    if planted(Bug::KeyOutOfOrder)
        && let Some(next) = state.key_queues.leave(key)
    {
        state.take_turn(next);
    }
}

/// Reason why the event must not be sent to a sink of these abilities, if there is one.
fn refusal(event: &BufferedEvent, abilities: Abilities) -> Option<GivenUp> {
    let (size_bytes, size_bytes_max) = (event.bytes.len(), abilities.event_bytes_max);
    if size_bytes > size_bytes_max {
        let detail = format!("the event has {size_bytes} bytes, the sink takes {size_bytes_max}");
        return Some(GivenUp { reason: Reason::TooLarge, detail });
    }
    match &event.schema {
        SchemaCheck::Failed(detail) => {
            Some(GivenUp { reason: Reason::SchemaVersion, detail: detail.to_string() })
        }
        SchemaCheck::Passed(_) | SchemaCheck::Unchecked(_) => None,
    }
}

fn describe(why: &Failure) -> String {
    match why.status {
        0 => format!("{}: {}", why.class, why.message),
        status => format!("{} {status}: {}", why.class, why.message),
    }
}

//! Choice of the events of an attempt, and the consequences of its outcomes.

use std::{collections::BTreeSet, time::Duration};

use fanfare_environment::{Bug, planted};
use fanfare_model::KeyHash;
use fanfare_partition::{Outcome as Settlement, Reason};
use fanfare_sinks::{Abilities, Failure, Outcome};

use super::{
    buffered_event::{AttemptItem, BufferedEvent, DeadLetterRequest, SchemaCheck},
    event::{Action, Actions, AttemptResult, Inputs},
    parked_keys::{Failures, GivenUp, Phase},
    state::{Candidate, LastOutage, Mode, SubscriptionState},
};
use crate::{
    RetryPolicy,
    backoff::{probe_delay_ms, retry_after_ms, retry_delay_ms},
    judgement::{Allowed, History, KeySource, Rejections, Verdict, judge},
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
        let allowed = !matches!(self.allowed(inputs), Allowed::Nothing { .. });
        self.mode == Mode::Active && allowed && !self.ready.is_empty()
    }

    /// A probe waits until the window is read again: parked keys, which are read sooner, would be probed for ever.
    fn allowed(&self, inputs: &Inputs<'_>) -> Allowed {
        match inputs.breaker.allowed(inputs.now_ms) {
            Allowed::OneProbe if !self.window.unloaded().is_empty() => Allowed::Nothing { until_ms: None },
            allowed => allowed,
        }
    }

    /// Starts one attempt, if there is an event for it. Events that must not be sent become dead letters instead.
    pub(super) fn start_attempt(
        &mut self,
        abilities: Abilities,
        inputs: &mut Inputs<'_>,
        actions: &mut Actions,
    ) {
        let allowed = self.allowed(inputs);
        let events_max = match allowed {
            _ if self.mode != Mode::Active => 0,
            Allowed::Everything => abilities.batch_events_max.max(1),
            Allowed::OneProbe => 1,
            Allowed::Nothing { .. } => 0,
        };
        if allowed == Allowed::OneProbe {
            self.choose_probe(inputs);
        }
        let items = self.choose(events_max, abilities);
        settle_sent_if_planted(self, &items, inputs.now_ms);
        if !items.is_empty() {
            let probe = inputs.breaker.start_attempt();
            actions.work.push(Action::StartAttempt { items, probe });
        }
        self.write_dead_letters(actions);
    }

    /// Puts a candidate first that is not of the key of the last failed probe, if there is one: any, at random. One
    /// event that fails for ever would keep a healthy sink closed otherwise.
    fn choose_probe(&mut self, inputs: &Inputs<'_>) {
        let failed = inputs.breaker.last_failed_probe().filter(|failed| failed.subscription == self.id);
        let is_other = |(index, candidate): (usize, &Candidate)| {
            let event = self.candidate_event(*candidate)?;
            failed.is_none_or(|failed| failed.key != event.key).then_some(index)
        };
        let others: Vec<usize> = self.ready.iter().enumerate().filter_map(is_other).collect();
        if !others.is_empty() {
            let chosen = inputs.random % others.len() as u64;
            self.ready.swap(0, others[usize::try_from(chosen).expect("an index of a list")]);
        }
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
            match candidate {
                Candidate::Window(_) if abilities.keeps_key_order_in_batch => {
                    self.add_followers(key, abilities, &mut room, &mut items);
                }
                // With an outcome for each event, a later one could be delivered and not settled.
                Candidate::Parked(key) if abilities.keeps_key_order_in_batch && abilities.atomic_batch => {
                    self.add_parked_followers(key, abilities, &mut room, &mut items);
                }
                Candidate::Window(_) | Candidate::Parked(_) => {}
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

    /// Lets the events of a parked key that are in memory join the batch of the first one.
    fn add_parked_followers(
        &self,
        key: KeyHash,
        abilities: Abilities,
        room: &mut BatchRoom,
        items: &mut Vec<AttemptItem>,
    ) {
        let Some(parked) = self.parked_keys.get(key) else { return };
        for event in parked.buffer.iter().skip(1) {
            let is_checked = !matches!(event.schema, SchemaCheck::Unchecked(_));
            let joins = is_checked && event.bytes.len() <= room.bytes && refusal(event, abilities).is_none();
            if room.events == 0 || !joins {
                return;
            }
            room.events -= 1;
            room.bytes -= event.bytes.len();
            items.push(AttemptItem { event: event.clone(), parked: true });
        }
    }

    /// The outcome has to be about this event and no other.
    fn goes_alone(&self, candidate: Candidate, abilities: Abilities) -> bool {
        match candidate {
            Candidate::Window(offset) => self.window.is_sent_alone(offset),
            Candidate::Parked(key) => {
                let failures = self.parked_keys.get(key).map(|parked| &parked.failures);
                abilities.atomic_batch
                    && failures.is_none_or(|failures| failures.attempts > 0 || failures.send_alone)
            }
        }
    }

    /// Like [`Self::finish`], for a sink whose outcome covers the whole batch: a failure does not tell which event is
    /// at fault, so that nothing is judged and each event is attempted alone.
    pub(super) fn finish_atomic(&mut self, results: Vec<AttemptResult>, inputs: &mut Inputs<'_>) {
        let failed = |result: &AttemptResult| {
            matches!(result.outcome, Outcome::Retry { .. } | Outcome::Rejected { .. })
        };
        let first_key = results.first().map(|result| result.item.event.key);
        if results.iter().all(|result| Some(result.item.event.key) == first_key)
            || !results.iter().all(failed)
        {
            // Of one key the first event is tried again alone, whichever is at fault.
            self.finish(results, inputs);
            return;
        }
        let mut keys = BTreeSet::new();
        let (mut first, mut later) = (Vec::new(), Vec::new());
        for AttemptResult { item, outcome } in results {
            if let Outcome::Retry { why, .. } | Outcome::Rejected { why } = outcome {
                self.failures.last_failure = describe(&why);
            }
            if item.parked {
                self.parked_keys.update(item.event.key, |parked| parked.failures.send_alone = true);
            } else {
                self.window.set_send_alone(item.event.offset);
            }
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
                Verdict::Retry { .. }
                | Verdict::Throttle { .. }
                | Verdict::HoldRejected { .. }
                | Verdict::SinkDown { .. } => earlier.push((key, Earlier::Failed)),
            }
        }
        inputs.random = random;
        self.step_back(stepping_back);
    }

    /// Judges one outcome, and acts on the verdict.
    fn judge(&mut self, item: AttemptItem, outcome: &Outcome, inputs: &mut Inputs<'_>) -> Verdict {
        let history = self.history(&item, inputs);
        let verdict = judge(&history, outcome, &self.options.retry);
        let was_down = inputs.breaker.is_down();
        inputs.breaker.record(&verdict, history.source, inputs.now_ms);
        match outcome {
            Outcome::Delivered => self.failures.last_failure.clear(),
            Outcome::Rejected { why }
            | Outcome::Retry { why, .. }
            | Outcome::Throttled { why, .. }
            | Outcome::SinkDown { why, .. } => self.failures.last_failure = describe(why),
        }
        match verdict {
            Verdict::Deliver => {
                self.settle(&item, Settlement::Delivered, inputs.now_ms);
                if was_down {
                    self.parked_keys.make_faultless_due(inputs.now_ms);
                }
            }
            Verdict::Reject => self.give_up_after_attempt(item, Reason::Rejected),
            Verdict::HoldRejected { outage } => {
                if outage {
                    trip(&self.options.retry, None, inputs);
                }
                self.hold_rejected(&item, &history, inputs);
            }
            Verdict::Retry { after, suspect } => self.park_or_give_up(item, after, suspect, inputs),
            Verdict::Throttle { after } => {
                throttle(&self.options.retry, after, inputs);
                self.put_back(&item, inputs.now_ms);
            }
            Verdict::SinkDown { after, told } => {
                if matches!(outcome, Outcome::SinkDown { .. }) && !was_down {
                    let (offset, deliveries) = (item.event.offset, history.deliveries);
                    self.failures.last_outage = Some(LastOutage { offset, deliveries });
                }
                let is_probe = inputs.breaker.last_failed_probe() == Some(history.source);
                if told || was_down {
                    trip(&self.options.retry, after, inputs);
                } else {
                    // Many have failed by now, and any other key may still be taken: the first probe need not wait.
                    inputs.breaker.trip(inputs.now_ms, |_| 0);
                }
                self.hold(&item, is_probe, inputs);
            }
        }
        verdict
    }

    fn history(&self, item: &AttemptItem, inputs: &Inputs<'_>) -> History {
        let parked = item.parked.then(|| self.parked_keys.get(item.event.key)).flatten();
        let outage = self.failures.last_outage.filter(|outage| outage.offset == item.event.offset);
        History {
            source: KeySource { subscription: self.id, key: item.event.key },
            now_ms: inputs.now_ms,
            is_down: inputs.breaker.is_down(),
            deliveries: inputs.breaker.deliveries(),
            streak: inputs.breaker.streak(),
            failed_at_deliveries: parked.and_then(|parked| parked.failures.at_deliveries),
            outage_at_deliveries: outage.map(|outage| outage.deliveries),
            rejections: parked.and_then(|parked| parked.failures.rejections),
            has_other_keys: self.has_other_keys(item),
        }
    }

    /// Events of other keys than the item's are unsettled, or may be.
    fn has_other_keys(&self, item: &AttemptItem) -> bool {
        let key = item.event.key;
        let parked = self.parked_keys.len() - usize::from(self.parked_keys.get(key).is_some());
        parked > 0
            || !self.window.unloaded().is_empty()
            || !self.position.is_live()
            || self.window.unsettled().any(|event| event.key != key)
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

    /// Gives up an event whose attempt has just failed.
    fn give_up_after_attempt(&mut self, item: AttemptItem, reason: Reason) {
        let (attempts, detail) = (self.attempts(&item) + 1, self.failures.last_failure.clone());
        self.dead_letters.push(DeadLetterRequest { item, reason, detail, attempts });
    }

    /// Failed attempts of the item before the one that has just ended.
    fn attempts(&self, item: &AttemptItem) -> u32 {
        let parked = item.parked.then(|| self.parked_keys.get(item.event.key)).flatten();
        parked.map_or(0, |parked| parked.failures.attempts)
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
                self.parked_keys.update(key, |parked| parked.phase = Phase::Busy)?;
                true
            }
        };
        Some(AttemptItem { event, parked })
    }

    /// The event may be attempted again as if it had not been.
    fn put_back(&mut self, item: &AttemptItem, now_ms: u64) {
        if item.parked {
            self.parked_keys.update(item.event.key, |parked| {
                (parked.phase, parked.retry_at_ms) = (Phase::Waiting, now_ms);
            });
        } else if self.window.get(item.event.offset).is_some() {
            self.window.set_busy(item.event.offset, false);
            self.ready.push_back(Candidate::Window(item.event.offset));
            // The key's queue stays closed: later events of the key wait for this one.
            release_next_if_planted(self, item.event.key);
        }
    }

    /// A key that is not known to be at fault may be the only one of a sink that is down: its retries come as often as
    /// probes.
    fn park_or_give_up(
        &mut self,
        item: AttemptItem,
        after: Option<Duration>,
        suspect: bool,
        inputs: &Inputs<'_>,
    ) {
        let attempts = self.attempts(&item) + 1;
        if self.options.retry.attempts_max.is_some_and(|attempts_max| attempts >= attempts_max) {
            if item.parked || self.window.get(item.event.offset).is_some() {
                self.give_up_after_attempt(item, Reason::AttemptsExhausted);
            }
            return;
        }
        let retry = &self.options.retry;
        let delay_ms = retry_delay_ms(retry, attempts, after, inputs.random);
        let delay_ms_max = if suspect { retry.probe_max_ms.max(retry_after_ms(after)) } else { u64::MAX };
        let retry_at_ms = inputs.now_ms + delay_ms.min(delay_ms_max);
        let deliveries = inputs.breaker.deliveries();
        self.park(&item, retry_at_ms, |failures| {
            (failures.attempts, failures.at_deliveries) = (attempts, Some(deliveries));
        });
    }

    /// The event was rejected, and nothing proves yet that the event is at fault.
    fn hold_rejected(&mut self, item: &AttemptItem, history: &History, inputs: &Inputs<'_>) {
        let attempts = self.attempts(item) + 1;
        let retry_at_ms = inputs.now_ms + retry_delay_ms(&self.options.retry, attempts, None, inputs.random);
        let (first_ms, at_deliveries) = (inputs.now_ms, history.deliveries);
        let first = Rejections { first_ms, count: 0, at_deliveries };
        self.park(item, retry_at_ms, |failures| {
            failures.attempts = attempts;
            let earlier = failures.rejections.unwrap_or(first);
            failures.rejections = Some(Rejections { count: earlier.count + 1, ..earlier });
        });
    }

    /// The sink is down. A probe's key leaves the window, so that the next events get into it and any key is probed in
    /// the end. No attempt is counted.
    fn hold(&mut self, item: &AttemptItem, is_probe: bool, inputs: &Inputs<'_>) {
        if is_probe {
            let delay_ms = retry_delay_ms(&self.options.retry, 1, None, inputs.random);
            self.park(item, inputs.now_ms + delay_ms, |_| {});
        } else {
            self.put_back(item, inputs.now_ms);
        }
    }

    /// Takes the key's events out of the window; only their number stays. Without room for another key the event waits
    /// in the window.
    fn park(&mut self, item: &AttemptItem, retry_at_ms: u64, note: impl FnOnce(&mut Failures)) {
        let (key, offset) = (item.event.key, item.event.offset);
        if !item.parked {
            if self.window.get(offset).is_none() {
                return;
            }
            if self.parked_keys.len() >= self.options.parked_keys_max {
                self.window.set_busy(offset, false);
                self.failures.delayed.insert((retry_at_ms, offset));
                return;
            }
            let offsets = self.window.take_key(key);
            assert_eq!(
                offsets.first(),
                Some(&offset),
                "invariant violation: the first event of a key is parked with all others of the key"
            );
            self.key_queues.close(key);
            self.parked_keys.insert(&item.event, offsets.len() as u64);
        }
        self.parked_keys.update(key, |parked| {
            (parked.phase, parked.retry_at_ms) = (Phase::Waiting, retry_at_ms);
            note(&mut parked.failures);
            parked.drop_buffer();
        });
    }
}

fn trip(retry: &RetryPolicy, after: Option<Duration>, inputs: &mut Inputs<'_>) {
    let random = inputs.random;
    inputs.breaker.trip(inputs.now_ms, |probes| probe_delay_ms(retry, probes, after, random));
}

fn throttle(retry: &RetryPolicy, after: Option<Duration>, inputs: &mut Inputs<'_>) {
    let random = inputs.random;
    inputs.breaker.throttle(inputs.now_ms, |probes| match after {
        Some(_) => retry_after_ms(after),
        None => probe_delay_ms(retry, probes, None, random),
    });
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

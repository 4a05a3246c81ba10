//! Consequences of the outcomes of an attempt: delivered, parked, held, given up.

use std::{collections::BTreeSet, time::Duration};

use fanfare_environment::{Bug, planted};
use fanfare_model::KeyHash;
use fanfare_partition::{Outcome as Settlement, Reason};
use fanfare_sinks::Outcome;

use super::{
    buffered_event::{AttemptItem, DeadLetterRequest},
    event::{AttemptResult, Inputs},
    parked_keys::{KeyFailures, Phase},
    state::{Candidate, LastOutage, SubscriptionState},
};
use crate::{
    backoff::{retry_after_ms, retry_delay_ms},
    judgement::{History, KeySource, Pause, Rejections, Verdict, judge},
};

/// Reason why later events of a key in the same batch cannot be judged by their own outcome alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Earlier {
    GivenUp,
    Failed,
}

impl SubscriptionState {
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
            // The first event of a single key is tried again alone, whichever is at fault.
            self.finish(results, inputs);
            return;
        }
        let mut keys = BTreeSet::new();
        let (mut first, mut later) = (Vec::new(), Vec::new());
        for AttemptResult { item, outcome } in results {
            if let Outcome::Retry { why, .. } | Outcome::Rejected { why } = outcome {
                self.failures.last_failure = why.to_string();
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
        let mut throttled = None;
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
                Verdict::Throttle { after } => {
                    throttled = throttled.max(Some(after));
                    earlier.push((key, Earlier::Failed));
                }
                Verdict::Retry { .. } | Verdict::HoldRejected { .. } | Verdict::SinkDown { .. } => {
                    earlier.push((key, Earlier::Failed));
                }
            }
        }
        inputs.random = random;
        // Once for the attempt, and after its deliveries: each of these closes the breaker.
        if let Some(after) = throttled {
            pause(after, inputs).throttle(inputs.breaker);
        }
        self.step_back(stepping_back);
    }

    /// Judges one outcome, and acts on the verdict.
    fn judge(&mut self, item: AttemptItem, outcome: &Outcome, inputs: &mut Inputs<'_>) -> Verdict {
        let history = self.history(&item, outcome, inputs);
        let verdict = judge(&history, outcome, inputs.retry);
        let was_down = inputs.breaker.is_down();
        inputs.breaker.record(&verdict, history.source, inputs.now_ms);
        match outcome {
            Outcome::Delivered => self.failures.last_failure.clear(),
            Outcome::Rejected { why }
            | Outcome::Retry { why, .. }
            | Outcome::Throttled { why, .. }
            | Outcome::SinkDown { why, .. } => self.failures.last_failure = why.to_string(),
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
                    pause(None, inputs).trip(inputs.breaker);
                }
                self.hold_rejected(&item, &history, inputs);
            }
            Verdict::Retry { after, suspect } => self.park_or_give_up(item, after, suspect, inputs),
            Verdict::Throttle { .. } => self.put_back(&item, inputs.now_ms),
            Verdict::SinkDown { after, told } => {
                if matches!(outcome, Outcome::SinkDown { .. }) && !was_down {
                    let (offset, deliveries) = (item.event.offset, history.deliveries);
                    self.failures.last_outage = Some(LastOutage { offset, deliveries });
                }
                let is_probe = inputs.breaker.last_failed_probe() == Some(history.source);
                if told || was_down {
                    pause(after, inputs).trip(inputs.breaker);
                } else {
                    // Many have failed by now, and any other key may still be taken: the first probe need not wait.
                    inputs.breaker.trip(inputs.now_ms, |_| 0);
                }
                self.hold(&item, is_probe, inputs);
            }
        }
        verdict
    }

    fn history(&self, item: &AttemptItem, outcome: &Outcome, inputs: &Inputs<'_>) -> History {
        let parked = item.parked.then(|| self.parked_keys.get(item.event.key)).flatten();
        History {
            source: KeySource { subscription: self.id, key: item.event.key },
            now_ms: inputs.now_ms,
            is_down: inputs.breaker.is_down(),
            deliveries: inputs.breaker.deliveries(),
            streak: inputs.breaker.streak(),
            failed_at_deliveries: parked.and_then(|parked| parked.failures.at_deliveries),
            outage_at_deliveries: self.failures.outage_at_deliveries(item.event.offset),
            rejections: parked.and_then(|parked| parked.failures.rejections),
            has_other_keys: matches!(outcome, Outcome::Rejected { .. }) && self.has_other_keys(item),
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
        // While several keys fail and nothing is delivered, the sink may be down: that spends nobody's attempts.
        let may_be_outage = suspect && inputs.breaker.streak().has_several_keys();
        let attempts_max = inputs.retry.attempts_max.filter(|_| !may_be_outage);
        if attempts_max.is_some_and(|attempts_max| attempts >= attempts_max) {
            if item.parked || self.window.get(item.event.offset).is_some() {
                self.give_up_after_attempt(item, Reason::AttemptsExhausted);
            }
            return;
        }
        let retry = inputs.retry;
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
        let retry_at_ms = inputs.now_ms + retry_delay_ms(inputs.retry, attempts, None, inputs.random);
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
            let delay_ms = retry_delay_ms(inputs.retry, 1, None, inputs.random);
            self.park(item, inputs.now_ms + delay_ms, |_| {});
        } else {
            self.put_back(item, inputs.now_ms);
        }
    }

    /// Takes the key's events out of the window; only their number stays. Without room for another key the event waits
    /// in the window.
    fn park(&mut self, item: &AttemptItem, retry_at_ms: u64, note: impl FnOnce(&mut KeyFailures)) {
        let (key, offset) = (item.event.key, item.event.offset);
        if !item.parked {
            if self.window.get(offset).is_none() {
                return;
            }
            if self.parked_keys.len() >= self.options.parked_keys_max {
                self.window.delay(offset, retry_at_ms);
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

fn pause<'a>(after: Option<Duration>, inputs: &Inputs<'a>) -> Pause<'a> {
    Pause { now_ms: inputs.now_ms, retry: inputs.retry, after, random: inputs.random }
}

fn release_next_if_planted(state: &mut SubscriptionState, key: KeyHash) {
    if planted(Bug::KeyOutOfOrder)
        && let Some(next) = state.key_queues.leave(key)
    {
        state.take_turn(next);
    }
}

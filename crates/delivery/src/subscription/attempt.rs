//! Choice of the events of an attempt.

use fanfare_environment::{Bug, planted};
use fanfare_model::KeyHash;
use fanfare_partition::{Outcome as Settlement, Reason};
use fanfare_sinks::Abilities;

use super::{
    buffered_event::{AttemptItem, BufferedEvent, SchemaCheck},
    event::{Action, Actions, Inputs},
    parked_keys::{GivenUp, Phase},
    state::{Candidate, Mode, SubscriptionState},
};
use crate::judgement::Allowed;

/// Capacity left in a batch.
#[derive(Clone, Copy)]
struct BatchRoom {
    events: usize,
    bytes: usize,
}

impl SubscriptionState {
    /// An attempt is worth a permit of the sink. If only the rate forbids, a tick follows when the rate allows one.
    pub(crate) fn wants_attempt(&self, inputs: &Inputs<'_>, actions: &mut Actions) -> bool {
        let is_wanted = self.mode == Mode::Active && !self.ready.is_empty();
        let allowed = self.allowed(inputs);
        if is_wanted {
            actions.wake_at_ms = allowed.until_ms().into_iter().chain(actions.wake_at_ms).min();
        }
        is_wanted && !matches!(allowed, Allowed::Nothing { .. })
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
            let probe = inputs.breaker.start_attempt(inputs.now_ms);
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
}

fn settle_sent_if_planted(state: &mut SubscriptionState, items: &[AttemptItem], now_ms: u64) {
    if planted(Bug::CursorAheadOfOutcome) {
        for item in items.iter().filter(|item| !item.parked) {
            state.settle(item, Settlement::Delivered, now_ms);
        }
    }
}

/// Reason why the event must not be sent to a sink of these abilities, if there is one.
fn refusal(event: &BufferedEvent, abilities: Abilities) -> Option<GivenUp> {
    if let SchemaCheck::DeadLettered(reason) = event.schema {
        return Some(GivenUp { reason, detail: "the dead letter is written already".to_owned() });
    }
    let (size_bytes, size_bytes_max) = (event.bytes.len(), abilities.event_bytes_max);
    if size_bytes > size_bytes_max {
        let detail = format!("the event has {size_bytes} bytes, the sink takes {size_bytes_max}");
        return Some(GivenUp { reason: Reason::TooLarge, detail });
    }
    match &event.schema {
        SchemaCheck::Failed(detail) => {
            Some(GivenUp { reason: Reason::SchemaVersion, detail: detail.to_string() })
        }
        SchemaCheck::Passed(_) | SchemaCheck::Unchecked(_) | SchemaCheck::DeadLettered(_) => None,
    }
}

//! A sink for tests: records delivered events and fails on command.
//!
//! A fake with the behaviour of a receiver, not a mock: tests judge the delivered events. A [`Network`] stands for
//! all destinations of a [`crate::Factory::in_memory`]; each destination is a [`MemorySink`].

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use fanfare_model::{KeyHash, SinkConfig};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{Abilities, AttemptFuture, Delivery, Failure, Outcome, Sink};

/// All destinations by name, each made at its first use. Clones share them.
#[derive(Clone, Default)]
pub struct Network(Arc<Mutex<HashMap<String, Arc<MemorySink>>>>);

impl Network {
    /// The destination called `name`: a webhook's URL or a Kinesis stream's ARN, byte for byte.
    #[must_use]
    pub fn sink(&self, name: &str) -> Arc<MemorySink> {
        self.0.lock().entry(name.to_owned()).or_default().clone()
    }
}

pub(crate) fn destination(config: &SinkConfig) -> &str {
    match config {
        SinkConfig::Webhook(webhook) => &webhook.destination,
        SinkConfig::Kinesis(kinesis) => &kinesis.arn,
    }
}

/// One destination. Takes single events and delivers them at once unless set otherwise. An atomic batch fails whole,
/// with the outcome of its first event that fails.
pub struct MemorySink {
    script: Mutex<Script>,
    mode: watch::Sender<Mode>,
    deliveries: watch::Sender<Vec<Delivery>>,
    attempts: watch::Sender<AttemptCounts>,
}

/// Counts of attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttemptCounts {
    pub started: usize,
    /// Started and neither answered nor aborted.
    pub running: usize,
    /// Highest number of concurrent attempts so far.
    pub running_max: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Up,
    Down,
    Hang,
}

struct Script {
    abilities: Abilities,
    next: VecDeque<Outcome>,
    by_key: HashMap<KeyHash, Outcome>,
}

impl Default for MemorySink {
    fn default() -> Self {
        let abilities = Abilities {
            batch_events_max: 1,
            batch_bytes_max: 1 << 20,
            event_bytes_max: 1 << 20,
            keeps_key_order_in_batch: true,
            atomic_batch: true,
        };
        Self {
            script: Mutex::new(Script { abilities, next: VecDeque::new(), by_key: HashMap::new() }),
            mode: watch::Sender::new(Mode::Up),
            deliveries: watch::Sender::default(),
            attempts: watch::Sender::default(),
        }
    }
}

impl MemorySink {
    pub fn set_abilities(&self, abilities: Abilities) {
        self.script.lock().abilities = abilities;
    }

    /// Ends the next `events` events with `outcome`.
    pub fn fail_next(&self, events: usize, outcome: Outcome) {
        self.script.lock().next.extend(std::iter::repeat_n(outcome, events));
    }

    /// Ends every event of `key` with `outcome` until [`Self::heal_key`].
    pub fn fail_key(&self, key: KeyHash, outcome: Outcome) {
        self.script.lock().by_key.insert(key, outcome);
    }

    pub fn heal_key(&self, key: KeyHash) {
        self.script.lock().by_key.remove(&key);
    }

    /// Ends every attempt with [`Outcome::SinkDown`] until [`Self::up`], hung attempts at once.
    pub fn down(&self) {
        self.mode.send_replace(Mode::Down);
    }

    /// Holds every attempt until [`Self::up`] or [`Self::down`].
    pub fn hang(&self) {
        self.mode.send_replace(Mode::Hang);
    }

    /// Lets attempts through again, hung ones too.
    pub fn up(&self) {
        self.mode.send_replace(Mode::Up);
    }

    /// The delivered events in order of arrival, repeats included.
    #[must_use]
    pub fn delivered(&self) -> Vec<Delivery> {
        self.deliveries.borrow().clone()
    }

    /// Waits until `enough` holds for the delivered events. The caller sets the deadline.
    pub async fn delivered_when(&self, mut enough: impl FnMut(&[Delivery]) -> bool) -> Vec<Delivery> {
        let mut deliveries = self.deliveries.subscribe();
        deliveries.wait_for(|deliveries| enough(deliveries)).await.expect("the sender lives in self").clone()
    }

    #[must_use]
    pub fn attempts(&self) -> AttemptCounts {
        *self.attempts.borrow()
    }

    /// Waits until `enough` holds for the attempts. The caller sets the deadline.
    pub async fn attempts_when(&self, mut enough: impl FnMut(AttemptCounts) -> bool) -> AttemptCounts {
        let mut attempts = self.attempts.subscribe();
        *attempts.wait_for(|attempts| enough(*attempts)).await.expect("the sender lives in self")
    }

    async fn mode_after_hanging(&self) -> Mode {
        let mut mode = self.mode.subscribe();
        *mode.wait_for(|mode| *mode != Mode::Hang).await.expect("the sender lives in self")
    }

    fn receive(&self, events: Vec<Delivery>) -> Vec<Outcome> {
        let mut script = self.script.lock();
        let mut outcomes: Vec<_> = events
            .iter()
            .map(|event| {
                let failure = script.by_key.get(&event.key).cloned().or_else(|| script.next.pop_front());
                failure.unwrap_or(Outcome::Delivered)
            })
            .collect();
        let failure = outcomes.iter().find(|outcome| **outcome != Outcome::Delivered);
        if script.abilities.atomic_batch
            && let Some(failure) = failure.cloned()
        {
            outcomes.fill(failure);
        }
        let delivered = events.into_iter().zip(&outcomes);
        let delivered = delivered.filter(|(_, outcome)| **outcome == Outcome::Delivered);
        self.deliveries.send_modify(|deliveries| deliveries.extend(delivered.map(|(event, _)| event)));
        outcomes
    }
}

impl Sink for MemorySink {
    fn abilities(&self) -> Abilities {
        self.script.lock().abilities
    }

    fn attempt(&self, events: Vec<Delivery>) -> AttemptFuture<'_> {
        Box::pin(async move {
            let _running = RunningAttempt::start(&self.attempts);
            match self.mode_after_hanging().await {
                Mode::Up => self.receive(events),
                Mode::Down | Mode::Hang => {
                    let why = Failure::new(Failure::CONNECT, "set to be down");
                    vec![Outcome::SinkDown { after: None, why }; events.len()]
                }
            }
        })
    }
}

/// Counts an attempt until it ends or is aborted.
struct RunningAttempt<'a>(&'a watch::Sender<AttemptCounts>);

impl<'a> RunningAttempt<'a> {
    fn start(attempts: &'a watch::Sender<AttemptCounts>) -> Self {
        attempts.send_modify(|attempts| {
            attempts.started += 1;
            attempts.running += 1;
            attempts.running_max = attempts.running_max.max(attempts.running);
        });
        Self(attempts)
    }
}

impl Drop for RunningAttempt<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|attempts| attempts.running -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::fixture::delivery;

    fn retry() -> Outcome {
        Outcome::Retry { after: None, why: Failure::new(Failure::TIMEOUT, "") }
    }

    #[tokio::test]
    async fn memory_sink_fails_on_command_and_records_only_delivered_events() {
        let sink = Network::default().sink("https://a.example");
        sink.set_abilities(Abilities { atomic_batch: false, ..sink.abilities() });
        sink.fail_next(1, retry());
        sink.fail_key(KeyHash(2), retry());
        let events = [1, 1, 2, 3].map(|key| Delivery { key: KeyHash(key), ..delivery(key) });
        let outcomes = sink.attempt(events.to_vec()).await;
        assert_eq!(outcomes, [retry(), Outcome::Delivered, retry(), Outcome::Delivered]);
        sink.heal_key(KeyHash(2));
        assert_eq!(sink.attempt(vec![events[2].clone()]).await, [Outcome::Delivered]);
        let keys: Vec<_> =
            sink.delivered_when(|all| all.len() == 3).await.iter().map(|event| event.key.0).collect();
        assert_eq!(keys, [1, 3, 2]);
        sink.set_abilities(Abilities { atomic_batch: true, ..sink.abilities() });
        sink.fail_key(KeyHash(2), retry());
        assert_eq!(sink.attempt(events.to_vec()).await, vec![retry(); 4]);
        assert_eq!(sink.delivered().len(), 3, "an atomic batch that fails delivers nothing");
    }

    #[tokio::test]
    async fn hung_attempt_counts_as_running_until_it_ends_or_is_dropped() {
        let sink = MemorySink::default();
        sink.hang();
        let mut hung = sink.attempt(vec![delivery(1)]);
        assert!((&mut hung).now_or_never().is_none());
        assert_eq!(sink.attempts(), AttemptCounts { started: 1, running: 1, running_max: 1 });
        sink.up();
        assert_eq!(hung.await, [Outcome::Delivered]);
        sink.hang();
        let mut aborted = sink.attempt(vec![delivery(2)]);
        assert!((&mut aborted).now_or_never().is_none());
        drop(aborted);
        assert_eq!(sink.attempts(), AttemptCounts { started: 2, running: 0, running_max: 1 });
        sink.down();
        assert!(matches!(sink.attempt(vec![delivery(2)]).await[..], [Outcome::SinkDown { .. }]));
        assert_eq!(sink.delivered().len(), 1);
    }
}

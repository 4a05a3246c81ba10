//! Producers: each owns some keys, sends their events in order, and repeats what was not acknowledged until it is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fanfare_catalog::Tenant;
use fanfare_ingest::Ingest;
use tokio::time::sleep;

use crate::{
    event::{ACCOUNTS, EventName, KEYS_PER_PRODUCER},
    world::{Power, World},
};

pub(crate) const PRODUCERS: u32 = 4;
const BATCH_EVENTS_MAX: u64 = 6;
/// Only the newest events of a key are repeated: older ones may have left the log, and with it the dedup window.
const REPEATED_MAX: u64 = 8;

/// The part of a producer that outlives the node.
pub(crate) struct ProducerState {
    /// Number of the next event of each key.
    next: Vec<u32>,
    /// Not acknowledged, in order.
    pending: Vec<EventName>,
    /// Simulated time at which each event was made, in microseconds since the first start.
    made_us: BTreeMap<EventName, u64>,
    is_ended: bool,
}

impl ProducerState {
    pub(crate) fn new() -> Self {
        Self {
            next: vec![0; KEYS_PER_PRODUCER as usize],
            pending: Vec::new(),
            made_us: BTreeMap::new(),
            is_ended: false,
        }
    }

    pub(crate) fn pending(&self) -> &[EventName] {
        &self.pending
    }

    pub(crate) fn is_done(&self) -> bool {
        self.is_ended && self.pending.is_empty()
    }

    /// True if the event may be published again at `now_us`.
    fn may_repeat(&self, name: EventName, now_us: u64, age_us_max: u64) -> bool {
        let made_us = self.made_us.get(&name).copied().unwrap_or_default();
        now_us.saturating_sub(made_us) <= age_us_max
    }

    pub(crate) fn end(&mut self) {
        self.is_ended = true;
    }
}

/// One producer in one life of the node.
pub(crate) struct Producer {
    pub(crate) index: u32,
    pub(crate) world: Arc<World>,
    pub(crate) power: Arc<Power>,
    pub(crate) ingest: Ingest,
    pub(crate) tenant: Tenant,
    pub(crate) pause_ms_max: u64,
}

impl Producer {
    pub(crate) async fn run(self) {
        loop {
            if let Some(batch) = self.next_batch() {
                self.publish(&batch).await;
            }
            let world = &self.world;
            match world.dice.below(20) {
                0 => self.repeat().await,
                1 => self.contradict().await,
                _ => {}
            }
            sleep(Duration::from_millis(world.dice.below(self.pause_ms_max))).await;
        }
    }

    /// The event number `number` of the producer's key `key`.
    fn name(&self, key: u32, number: u32) -> EventName {
        let (account, earlier) = (self.index % ACCOUNTS, self.index / ACCOUNTS);
        EventName { account, key: earlier * KEYS_PER_PRODUCER + key, number }
    }

    /// What is pending, or new events.
    fn next_batch(&self) -> Option<Vec<EventName>> {
        let mut producers = self.world.producers.lock();
        let state = &mut producers[self.index as usize];
        let (now_us, age_us_max) = (self.world.trace.now_us(), self.world.retention.repeat_age_us_max());
        for name in std::mem::take(&mut state.pending) {
            if state.may_repeat(name, now_us, age_us_max) {
                state.pending.push(name);
            } else {
                self.world.count("a producer gave up an event that may be stored");
                self.world.oracle.lock().gave_up(name);
            }
        }
        if state.pending.is_empty() {
            if state.is_ended {
                return None;
            }
            for _ in 0..self.world.dice.between(1, BATCH_EVENTS_MAX) {
                let key = u32::try_from(self.world.dice.below(KEYS_PER_PRODUCER.into())).expect("few keys");
                let number = state.next[key as usize];
                state.next[key as usize] += 1;
                let name = self.name(key, number);
                state.made_us.insert(name, now_us);
                state.pending.push(name);
            }
        }
        Some(state.pending.clone())
    }

    async fn publish(&self, batch: &[EventName]) {
        let world = &self.world;
        world.trace.add(format_args!("publish {batch:?}"));
        let events: Vec<Vec<u8>> = batch.iter().map(|name| name.encode()).collect();
        let outcomes = self.ingest.publish(self.tenant, events.iter().map(Vec::as_slice)).await;
        if self.power.is_off() {
            return std::future::pending().await;
        }
        for (name, outcome) in batch.iter().zip(&outcomes) {
            world.trace.add(format_args!("outcome {name} {outcome:?}"));
            if let Ok(committed) = outcome {
                world.oracle.lock().acknowledged(*name, *committed);
                let mut producers = world.producers.lock();
                producers[self.index as usize].pending.retain(|pending| pending != name);
            }
        }
    }

    /// Publishes an acknowledged event once more.
    async fn repeat(&self) {
        if let Some(name) = self.any_acknowledged() {
            self.world.count("an acknowledged event was published again");
            self.publish(&[name]).await;
        }
    }

    /// Publishes another event under the id of an acknowledged one.
    async fn contradict(&self) {
        let Some(name) = self.any_acknowledged() else { return };
        self.world.count("another event was published under a known id");
        let event = name.encode_as(1);
        let outcomes = self.ingest.publish(self.tenant, std::iter::once(event.as_slice())).await;
        if self.power.is_off() {
            return std::future::pending().await;
        }
        self.world.trace.add(format_args!("contradiction {name} {outcomes:?}"));
        let mut oracle = self.world.oracle.lock();
        match &outcomes[0] {
            Ok(committed) => {
                oracle.violate(format!("another event under the id of {name} was taken: {committed:?}"));
            }
            Err(refusal) => oracle.conflicted(name, refusal),
        }
    }

    fn any_acknowledged(&self) -> Option<EventName> {
        let key = u32::try_from(self.world.dice.below(KEYS_PER_PRODUCER.into())).expect("few keys");
        let producers = self.world.producers.lock();
        let state = &producers[self.index as usize];
        let first = self.name(key, 0);
        let pending = state.pending.iter().filter(|name| name.key == first.key).map(|name| name.number).min();
        let end = pending.unwrap_or(state.next[key as usize]);
        let back = u32::try_from(self.world.dice.between(1, REPEATED_MAX)).expect("a small number");
        let number = end.checked_sub(back)?;
        let name = EventName { number, ..first };
        let (now_us, age_us_max) = (self.world.trace.now_us(), self.world.retention.repeat_age_us_max());
        (self.world.oracle.lock().is_stored(name) && state.may_repeat(name, now_us, age_us_max))
            .then_some(name)
    }
}

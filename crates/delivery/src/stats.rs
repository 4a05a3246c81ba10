//! Outcomes of a subscription's events: as replicated, plus those of this node since then.

use std::collections::BTreeMap;

use fanfare_model::{AccountId, Offset, SubscriptionId, Timestamp};
use fanfare_partition::{Counters, Outcome, Partition};

use crate::{judgement::Outage, leader::PartitionSlot};

/// State of a subscription's deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum State {
    /// None of its partitions has a leader here.
    #[default]
    Unknown,
    Active,
    Paused,
    SinkDown,
    /// The sink answers, and rejects all that it gets.
    RejectsEverything,
    /// The sink asks for a slower pace.
    Throttled,
}

/// One instant on the clocks of a partition's log and of the node.
#[derive(Clone, Copy, Debug)]
struct Now {
    time: Timestamp,
    monotonic_ms: u64,
}

impl Now {
    /// The log's time at another instant of the monotonic clock.
    fn time_at(self, monotonic_ms: u64) -> Timestamp {
        Timestamp((self.time.0 + monotonic_ms).saturating_sub(self.monotonic_ms))
    }
}

/// Times of a subscription's deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamps {
    pub oldest_pending_age_ms: Option<u64>,
    /// Begin of the sink's outage, as this node has seen it.
    pub failing_since: Option<Timestamp>,
    /// The next probe of a sink that is not sent to; past if a probe may start at once.
    pub next_attempt: Option<Timestamp>,
    /// Time at which the age of a pending event exceeds the retention.
    pub first_loss: Option<Timestamp>,
}

/// The account of every matched event: `matched = delivered + dead_lettered + expired + cancelled + pending`.
#[derive(Clone, Debug, Default)]
pub struct SubscriptionStats {
    pub matched: u64,
    pub delivered: u64,
    pub dead_lettered: u64,
    pub expired: u64,
    pub cancelled: u64,
    pub pending: u64,
    /// Settled otherwise than delivered, by the reason's name.
    pub reasons: BTreeMap<&'static str, u64>,
    pub state: State,
    pub times: Timestamps,
    pub parked_keys: u32,
    /// Empty if the last attempt succeeded.
    pub last_failure: String,
    /// (partition index, matched, pending, frontier)
    pub partitions: Vec<(u16, u64, u64, Offset)>,
}

impl SubscriptionStats {
    /// Adds one partition's part; `now_ms` is monotonic.
    pub(crate) fn add(
        &mut self,
        slot: &PartitionSlot,
        account: AccountId,
        subscription: SubscriptionId,
        now_ms: u64,
    ) {
        let index = slot.partition.id().index;
        let frontier = slot.partition.positions().borrow().frontier;
        if slot.is_leading() && self.state == State::Unknown {
            self.state = State::Active;
        }
        let Some(attached) = slot.subscription(account, subscription) else {
            return self.add_replicated(&slot.partition, subscription);
        };
        let locked = attached.lock();
        let machine = &locked.machine;
        let counters = machine.counters();
        self.count(&counters);
        self.partitions.push((index, counters.matched, counters.pending(), frontier));
        let now = Now { time: slot.partition.now(), monotonic_ms: now_ms };
        if let Some(oldest) = machine.oldest_append_time() {
            let age_ms = now.time.millis_since(oldest);
            self.times.oldest_pending_age_ms = self.times.oldest_pending_age_ms.max(Some(age_ms));
            let retention_ms = slot.partition.retention_ms();
            let loss = retention_ms.map(|retention_ms| Timestamp(oldest.0.saturating_add(retention_ms)));
            self.times.first_loss = earliest(self.times.first_loss, loss);
        }
        self.parked_keys += u32::try_from(machine.parked_keys()).unwrap_or(u32::MAX);
        if let Some(sink) = &locked.sink {
            let breaker = sink.breaker.lock();
            let since = breaker.failing_since_ms(now.monotonic_ms);
            match breaker.outage() {
                Some(Outage::Down) => self.state = State::SinkDown,
                Some(Outage::RejectsEverything) => self.state = State::RejectsEverything,
                Some(Outage::Throttled) => self.state = State::Throttled,
                None if since.is_some() => self.state = State::SinkDown,
                None => {}
            }
            self.times.failing_since =
                earliest(self.times.failing_since, since.map(|since| now.time_at(since)));
            let probe = breaker.next_probe_ms().map(|probe| now.time_at(probe));
            self.times.next_attempt = earliest(self.times.next_attempt, probe);
        }
        let broken = locked.sink.as_ref().and_then(|sink| sink.sink.as_ref().err());
        if broken.is_some() {
            self.state = State::SinkDown;
        }
        let failure = broken.map_or_else(|| machine.last_failure(), String::as_str);
        if !failure.is_empty() {
            failure.clone_into(&mut self.last_failure);
        }
    }

    /// Adds the part of a partition that is not led here, or has not attached the subscription: as replicated.
    pub(crate) fn add_replicated(&mut self, partition: &Partition, subscription: SubscriptionId) {
        let Some(counters) = partition.counters(subscription) else { return };
        let frontier = partition.positions().borrow().frontier;
        self.count(&counters);
        self.partitions.push((partition.id().index, counters.matched, counters.pending(), frontier));
    }

    pub(crate) fn conclude(&mut self, paused: bool) {
        if paused && self.state != State::Unknown {
            (self.state, self.times.failing_since, self.times.next_attempt) = (State::Paused, None, None);
        }
    }

    fn count(&mut self, counters: &Counters) {
        self.matched += counters.matched;
        self.pending += counters.pending();
        for (outcome, &count) in &counters.settled {
            let (sum, reason) = match outcome {
                Outcome::Delivered => (&mut self.delivered, None),
                Outcome::DeadLettered(reason) => (&mut self.dead_lettered, Some(reason)),
                Outcome::Expired(reason) => (&mut self.expired, Some(reason)),
                Outcome::Cancelled(reason) => (&mut self.cancelled, Some(reason)),
            };
            *sum += count;
            if let Some(reason) = reason {
                *self.reasons.entry(reason.name()).or_default() += count;
            }
        }
    }
}

fn earliest(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

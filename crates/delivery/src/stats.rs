//! Outcomes of a subscription's events: as replicated, plus those of this node since then.

use std::collections::BTreeMap;

use fanfare_model::{AccountId, Offset, SubscriptionId};
use fanfare_partition::{Counters, Outcome, Partition};

use crate::leader::PartitionSlot;

/// State of a subscription's deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum State {
    /// None of its partitions has a leader here.
    #[default]
    Unknown,
    Active,
    Paused,
    SinkDown,
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
    pub oldest_pending_age_ms: Option<u64>,
    pub state: State,
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
        let oldest = machine.oldest_append_time();
        let age_ms = oldest.map(|oldest| slot.partition.now().millis_since(oldest));
        self.oldest_pending_age_ms = self.oldest_pending_age_ms.max(age_ms);
        self.parked_keys += u32::try_from(machine.parked_keys()).unwrap_or(u32::MAX);
        let is_down = locked.sink.as_ref().is_some_and(|sink| sink.breaker.lock().is_failing(now_ms));
        let broken = locked.sink.as_ref().and_then(|sink| sink.sink.as_ref().err());
        if is_down || broken.is_some() {
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
            self.state = State::Paused;
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

//! The account of every event of a delivery run: sent when, refused or not, arrived how often.
//!
//! Fixed in size at the start; producers and the receiver write it without locks.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::latency::Latencies;

const NOT_SENT: u64 = u64::MAX;

/// See the module.
#[derive(Debug)]
pub(super) struct DeliveryLedger {
    epoch: Instant,
    /// Nanoseconds after the epoch, by event number.
    sent: Vec<AtomicU64>,
    seen: Vec<AtomicBool>,
    refused: Vec<AtomicBool>,
    arrived: AtomicU64,
    duplicates: AtomicU64,
    first_arrival: AtomicU64,
    last_arrival: AtomicU64,
    latencies: Mutex<Latencies>,
    progress: Notify,
}

/// Totals of a ledger at the end of a run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Balance {
    /// Different events that arrived.
    pub(super) arrived: u64,
    /// Arrivals beyond the first of an event.
    pub(super) duplicates: u64,
    /// Events that were acknowledged and did not arrive.
    pub(super) missing: u64,
    /// From the first arrival to the last.
    pub(super) span: Duration,
}

impl DeliveryLedger {
    pub(super) fn new(events: u64, epoch: Instant) -> Self {
        let flags = || (0..events).map(|_| AtomicBool::new(false)).collect();
        Self {
            epoch,
            sent: (0..events).map(|_| AtomicU64::new(NOT_SENT)).collect(),
            seen: flags(),
            refused: flags(),
            arrived: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            first_arrival: AtomicU64::new(u64::MAX),
            last_arrival: AtomicU64::new(0),
            latencies: Mutex::new(Latencies::new()),
            progress: Notify::new(),
        }
    }

    pub(super) fn sent(&self, event: u64, at: Instant) {
        if let Some(sent) = at_number(&self.sent, event) {
            sent.store(self.nanos(at), Ordering::Release);
        }
    }

    /// Refused, or with an unknown outcome: it may arrive, but need not.
    pub(super) fn refused(&self, event: u64) {
        if let Some(refused) = at_number(&self.refused, event) {
            refused.store(true, Ordering::Release);
        }
    }

    /// Events that need not arrive.
    pub(super) fn refusals(&self) -> u64 {
        self.refused.iter().filter(|refused| refused.load(Ordering::Acquire)).count() as u64
    }

    /// Takes note of an arrival; latency counts if it was sent at or after `measure_from`.
    pub(super) fn arrived(&self, event: u64, at: Instant, measure_from: Instant) {
        let (Some(seen), Some(sent)) = (at_number(&self.seen, event), at_number(&self.sent, event)) else {
            return;
        };
        if seen.swap(true, Ordering::AcqRel) {
            self.duplicates.fetch_add(1, Ordering::AcqRel);
            return;
        }
        let (now, sent) = (self.nanos(at), sent.load(Ordering::Acquire));
        self.first_arrival.fetch_min(now, Ordering::AcqRel);
        self.last_arrival.fetch_max(now, Ordering::AcqRel);
        if sent >= self.nanos(measure_from) && sent != NOT_SENT {
            self.recorder().record(Duration::from_nanos(now.saturating_sub(sent)), 1);
        }
        self.arrived.fetch_add(1, Ordering::AcqRel);
        self.progress.notify_one();
    }

    /// Waits until as many events arrived, or none has for `patience`.
    pub(super) async fn wait_for(&self, events: u64, patience: Duration) {
        while self.arrived.load(Ordering::Acquire) < events {
            if tokio::time::timeout(patience, self.progress.notified()).await.is_err() {
                return;
            }
        }
    }

    pub(super) fn latencies(&self) -> Latencies {
        self.recorder().clone()
    }

    /// Totals of the events recorded so far; recording continues with a fresh ledger.
    pub(super) fn take_latencies(&self) -> Latencies {
        std::mem::replace(&mut self.recorder(), Latencies::new())
    }

    /// Different events that arrived so far.
    pub(super) fn arrivals(&self) -> u64 {
        self.arrived.load(Ordering::Acquire)
    }

    pub(super) fn balance(&self) -> Balance {
        let events = self.sent.iter().zip(&self.seen).zip(&self.refused);
        let missing = events.filter(|((sent, seen), refused)| {
            let acknowledged = sent.load(Ordering::Acquire) != NOT_SENT && !refused.load(Ordering::Acquire);
            acknowledged && !seen.load(Ordering::Acquire)
        });
        let (first, last) =
            (self.first_arrival.load(Ordering::Acquire), self.last_arrival.load(Ordering::Acquire));
        Balance {
            arrived: self.arrived.load(Ordering::Acquire),
            duplicates: self.duplicates.load(Ordering::Acquire),
            missing: missing.count() as u64,
            span: Duration::from_nanos(last.saturating_sub(first)),
        }
    }

    fn recorder(&self) -> MutexGuard<'_, Latencies> {
        self.latencies.lock().expect("recording a latency does not panic")
    }

    fn nanos(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(nanos).unwrap_or(NOT_SENT - 1)
    }
}

fn at_number<T>(entries: &[T], event: u64) -> Option<&T> {
    usize::try_from(event).ok().and_then(|event| entries.get(event))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_accounted_for() {
        let epoch = Instant::now();
        let ledger = DeliveryLedger::new(5, epoch);
        let at = |millis| epoch + Duration::from_millis(millis);
        for event in 0..4 {
            ledger.sent(event, at(event));
        }
        ledger.refused(3);
        ledger.arrived(0, at(10), epoch);
        ledger.arrived(1, at(15), epoch);
        ledger.arrived(1, at(16), epoch);
        ledger.arrived(99, at(17), epoch);
        let expected = Balance { arrived: 2, duplicates: 1, missing: 1, span: Duration::from_millis(5) };
        assert_eq!(ledger.balance(), expected);
    }

    #[tokio::test]
    async fn waiting_ends_with_the_last_event_or_with_patience() {
        let epoch = Instant::now();
        let ledger = DeliveryLedger::new(2, epoch);
        ledger.sent(0, epoch);
        ledger.arrived(0, epoch, epoch);
        ledger.wait_for(1, Duration::from_secs(600)).await;
        let started = Instant::now();
        let patience = Duration::from_millis(20);
        ledger.wait_for(2, patience).await;
        assert!(started.elapsed() >= patience);
        assert_eq!(ledger.balance().arrived, 1);
    }
}

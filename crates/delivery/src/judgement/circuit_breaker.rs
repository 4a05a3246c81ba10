//! The circuit breaker of one sink on this node, shared by all subscriptions and partitions that deliver to the sink.
//!
//! Opens when the sink is down or throttles, closes when anything is delivered. While open, one probe at a time may be
//! attempted. After an outage the number of concurrent attempts starts from one.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use fanfare_partition::{OutageReason, SinkOutage};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::{FailureStreak, KeySource, Verdict, concurrency::Concurrency, rate_limit::RateLimit};

/// Attempts that may be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    Everything,
    /// One attempt of one event.
    OneProbe,
    /// Nothing before this time, if there is one; else nothing until an attempt in flight ends.
    Nothing {
        until_ms: Option<u64>,
    },
}

impl Allowed {
    /// The time before which nothing may be started, if there is one.
    pub(crate) fn until_ms(self) -> Option<u64> {
        match self {
            Self::Nothing { until_ms } => until_ms,
            Self::Everything | Self::OneProbe => None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Open {
        until_ms: u64,
        probes: u32,
    },
    /// A probe is in flight.
    HalfOpen {
        probes: u32,
    },
}

/// The reason why a breaker is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outage {
    Down,
    RejectsEverything,
    Throttled,
}

/// Events are worth keeping in memory while nothing is attempted for so long at most.
const HELD_MS: u64 = 5_000;

/// The pure state of a breaker. Times are the delivery context's monotonic milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct CircuitBreaker {
    state: State,
    /// Time of the last opening of a closed breaker.
    opened_ms: u64,
    /// The reason of the last outage.
    outage: Outage,
    streak: FailureStreak,
    /// Events that the sink has taken.
    deliveries: u64,
    /// Numbers the probes, so that an abandoned one never ends a later one.
    probe: u64,
    last_failed_probe: Option<KeySource>,
    concurrency: Concurrency,
    /// None: as many requests per second as come.
    rate: Option<RateLimit>,
    /// Nothing is to be sent before, as the sink said itself.
    named_ms: u64,
    sink_revision: u64,
}

impl CircuitBreaker {
    /// A closed breaker of a sink that may get so many requests at once.
    pub(crate) fn new(concurrency_max: usize) -> Self {
        Self {
            state: State::Closed,
            opened_ms: 0,
            outage: Outage::Down,
            streak: FailureStreak::default(),
            deliveries: 0,
            probe: 0,
            last_failed_probe: None,
            concurrency: Concurrency::new(concurrency_max),
            rate: None,
            named_ms: 0,
            sink_revision: 0,
        }
    }

    /// Changes the limits of the sink's requests. An outage, and what is in flight, stay.
    pub(crate) fn set_limits(
        &mut self,
        sink_revision: u64,
        concurrency_max: usize,
        requests_per_second_max: Option<u32>,
    ) {
        self.sink_revision = sink_revision;
        self.concurrency.set_max(concurrency_max);
        self.rate = requests_per_second_max.map(|rate| match &self.rate {
            Some(limit) => limit.with_rate(rate),
            None => RateLimit::new(rate),
        });
    }

    pub(crate) fn allowed(&self, now_ms: u64) -> Allowed {
        let next_ms = self.rate.as_ref().map_or(0, RateLimit::next_ms);
        match self.state {
            State::Closed if self.concurrency.is_used_up() => Allowed::Nothing { until_ms: None },
            State::Closed if next_ms > now_ms => Allowed::Nothing { until_ms: Some(next_ms) },
            State::Closed => Allowed::Everything,
            State::Open { until_ms, .. } if until_ms.max(next_ms) <= now_ms => Allowed::OneProbe,
            State::Open { until_ms, .. } => Allowed::Nothing { until_ms: Some(until_ms.max(next_ms)) },
            State::HalfOpen { .. } => Allowed::Nothing { until_ms: None },
        }
    }

    /// Begins an attempt that is allowed. Returns the number of the probe, if the attempt is one.
    ///
    /// # Panics
    /// If a probe is in flight.
    pub(crate) fn start_attempt(&mut self, now_ms: u64) -> Option<u64> {
        self.concurrency.begin();
        if let Some(rate) = &mut self.rate {
            rate.take(now_ms);
        }
        match self.state {
            State::Closed => None,
            State::Open { probes, .. } => {
                self.state = State::HalfOpen { probes };
                self.probe += 1;
                Some(self.probe)
            }
            State::HalfOpen { .. } => {
                panic!("invariant violation: an attempt starts while a probe is in flight")
            }
        }
    }

    /// The attempt has ended, or was aborted. A probe without an outcome may be repeated at once.
    pub(crate) fn end_attempt(&mut self, probe: Option<u64>) {
        self.concurrency.end();
        if let State::HalfOpen { probes } = self.state
            && probe == Some(self.probe)
        {
            self.state = State::Open { until_ms: 0, probes };
        }
    }

    /// Takes a verdict into account. An outage takes effect with [`Self::trip`].
    pub(crate) fn record(&mut self, verdict: &Verdict, source: KeySource, now_ms: u64) {
        match verdict {
            Verdict::Deliver => {
                self.streak = FailureStreak::default();
                self.deliveries += 1;
                (self.state, self.last_failed_probe, self.named_ms) = (State::Closed, None, 0);
                self.concurrency.delivered();
            }
            Verdict::Retry { suspect: true, .. } | Verdict::SinkDown { told: false, .. } => {
                self.streak.add_failure(source, now_ms);
            }
            Verdict::HoldRejected { .. } => self.streak.add_rejection(source, now_ms),
            Verdict::Retry { suspect: false, .. }
            | Verdict::Throttle { .. }
            | Verdict::Reject
            | Verdict::SinkDown { told: true, .. } => {}
        }
        if matches!(self.state, State::HalfOpen { .. }) {
            self.last_failed_probe = Some(source);
        }
    }

    /// Opens the breaker; `delay_ms` computes the pause from the number of probes that have failed.
    pub(crate) fn trip(&mut self, now_ms: u64, delay_ms: impl FnOnce(u32) -> u64) {
        if !self.is_down() {
            self.concurrency.restart();
        }
        self.outage = if self.streak.is_all_rejections() { Outage::RejectsEverything } else { Outage::Down };
        // Attempts that were in flight when the breaker opened fail too and change nothing.
        if !matches!(self.state, State::Open { .. }) {
            self.open(now_ms, delay_ms);
        }
    }

    /// The sink said that nothing is to be sent before.
    pub(crate) fn name_time(&mut self, until_ms: u64) {
        self.named_ms = self.named_ms.max(until_ms);
    }

    /// The outage as a new leader learns of it.
    pub(crate) fn replicated(&self, now_ms: u64) -> Option<SinkOutage> {
        let (State::Open { probes, .. } | State::HalfOpen { probes }) = self.state else { return None };
        let reason = match self.outage {
            Outage::Down => OutageReason::Down,
            Outage::RejectsEverything => OutageReason::RejectsEverything,
            Outage::Throttled => OutageReason::Throttled,
        };
        Some(SinkOutage {
            sink_revision: self.sink_revision,
            reason,
            age_ms: now_ms.saturating_sub(self.opened_ms),
            probes,
            retry_after_ms: self.named_ms.saturating_sub(now_ms),
        })
    }

    /// Goes on with the outage that an earlier leader saw, unless the sink has taken an event since: the first attempt is
    /// a probe, at once or at the time that the sink named.
    pub(crate) fn resume(&mut self, outage: Option<SinkOutage>, now_ms: u64) {
        let Some(outage) = outage.filter(|_| self.deliveries == 0) else { return };
        let is_of_this_sink = outage.sink_revision == self.sink_revision;
        self.name_time(if is_of_this_sink { now_ms.saturating_add(outage.retry_after_ms) } else { now_ms });
        match &mut self.state {
            State::Closed => {
                self.concurrency.restart();
                self.opened_ms = now_ms.saturating_sub(outage.age_ms);
                self.outage = match outage.reason {
                    OutageReason::Down => Outage::Down,
                    OutageReason::RejectsEverything => Outage::RejectsEverything,
                    OutageReason::Throttled => Outage::Throttled,
                };
                self.state = State::Open { until_ms: self.named_ms, probes: outage.probes };
            }
            State::Open { until_ms, .. } => *until_ms = self.named_ms.max(*until_ms),
            State::HalfOpen { .. } => {}
        }
    }

    /// The sink asks for a slower pace; `delay_ms` computes the pause from the number of probes that were throttled.
    pub(crate) fn throttle(&mut self, now_ms: u64, delay_ms: impl FnOnce(u32) -> u64) {
        if self.state == State::Closed {
            self.outage = Outage::Throttled;
            // Once for all attempts in flight.
            self.concurrency.throttled();
        }
        self.open(now_ms, delay_ms);
    }

    /// Opens the breaker, after a failed probe for one more; an open one for longer, if that is longer.
    fn open(&mut self, now_ms: u64, delay_ms: impl FnOnce(u32) -> u64) {
        let (probes, open_until_ms) = match self.state {
            State::Closed => {
                self.opened_ms = now_ms;
                (0, 0)
            }
            State::HalfOpen { probes } => (probes.saturating_add(1), 0),
            State::Open { until_ms, probes } => (probes, until_ms),
        };
        let until_ms = open_until_ms.max(now_ms.saturating_add(delay_ms(probes)));
        self.state = State::Open { until_ms, probes };
    }

    /// The reason why the breaker is open, if it is.
    pub(crate) fn outage(&self) -> Option<Outage> {
        (self.state != State::Closed).then_some(self.outage)
    }

    /// Open, and not for throttling.
    pub(crate) fn is_down(&self) -> bool {
        self.outage().is_some_and(|outage| outage != Outage::Throttled)
    }

    /// Begin of the outage, or of the failures that are no outage yet; none of a sink that takes events.
    pub(crate) fn failing_since_ms(&self, now_ms: u64) -> Option<u64> {
        match self.state {
            State::Closed => self.streak.is_failing(now_ms).then(|| self.streak.since_ms()),
            State::Open { .. } | State::HalfOpen { .. } => Some(self.opened_ms),
        }
    }

    /// Time of the next probe, which may be past; none while one is in flight, and of a closed breaker.
    pub(crate) fn next_probe_ms(&self) -> Option<u64> {
        match self.state {
            State::Open { until_ms, .. } => Some(until_ms),
            State::Closed | State::HalfOpen { .. } => None,
        }
    }

    /// Open for so long, and with no probe due, that no event is worth keeping in memory.
    pub(crate) fn is_held(&self, now_ms: u64) -> bool {
        match self.state {
            State::Closed => false,
            State::Open { until_ms, probes } => {
                let is_long = until_ms.saturating_sub(now_ms) > HELD_MS;
                until_ms > now_ms && (is_long || probes > 0 && self.is_down())
            }
            State::HalfOpen { probes } => probes > 0 && self.is_down(),
        }
    }

    pub(crate) fn deliveries(&self) -> u64 {
        self.deliveries
    }

    pub(crate) fn streak(&self) -> FailureStreak {
        self.streak
    }

    /// The key of the last probe that failed, while nothing was delivered since.
    pub(crate) fn last_failed_probe(&self) -> Option<KeySource> {
        self.last_failed_probe
    }

    /// The state whose changes others wait for.
    fn waited_for(&self) -> (State, bool) {
        (self.state, self.concurrency.is_used_up())
    }
}

/// A breaker behind its lock. Every change of its state wakes those who watch it.
///
/// Lock order: the lock of a subscription comes before the lock of a breaker.
#[derive(Debug)]
pub(crate) struct SharedBreaker {
    breaker: Mutex<CircuitBreaker>,
    changed: watch::Sender<()>,
}

/// Access to a shared breaker.
pub(crate) struct BreakerGuard<'a> {
    shared: &'a SharedBreaker,
    before: (State, bool),
    breaker: MutexGuard<'a, CircuitBreaker>,
}

/// An attempt in flight. Dropped without an outcome, the ticket gives a probe back.
pub(crate) struct AttemptTicket {
    shared: Arc<SharedBreaker>,
    probe: Option<u64>,
}

impl SharedBreaker {
    pub(crate) fn new(concurrency_max: usize) -> Arc<Self> {
        let breaker = Mutex::new(CircuitBreaker::new(concurrency_max));
        Arc::new(Self { breaker, changed: watch::Sender::default() })
    }

    pub(crate) fn lock(&self) -> BreakerGuard<'_> {
        let breaker = self.breaker.lock();
        BreakerGuard { shared: self, before: breaker.waited_for(), breaker }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The ticket of an attempt that has been started.
    pub(crate) fn ticket(self: Arc<Self>, probe: Option<u64>) -> AttemptTicket {
        AttemptTicket { shared: self, probe }
    }
}

impl Deref for BreakerGuard<'_> {
    type Target = CircuitBreaker;

    fn deref(&self) -> &CircuitBreaker {
        &self.breaker
    }
}

impl DerefMut for BreakerGuard<'_> {
    fn deref_mut(&mut self) -> &mut CircuitBreaker {
        &mut self.breaker
    }
}

impl Drop for BreakerGuard<'_> {
    fn drop(&mut self) {
        if self.breaker.waited_for() != self.before {
            self.shared.changed.send_replace(());
        }
    }
}

impl Drop for AttemptTicket {
    fn drop(&mut self) {
        self.shared.lock().end_attempt(self.probe);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn source() -> KeySource {
        KeySource {
            subscription: fanfare_model::SubscriptionId::from_bytes([1; 16]),
            key: fanfare_model::KeyHash(1),
        }
    }

    fn trip(breaker: &mut CircuitBreaker, now_ms: u64) {
        breaker.trip(now_ms, |probes| 100 << probes);
    }

    /// An attempt that ends with this verdict.
    fn attempt(breaker: &mut CircuitBreaker, verdict: Verdict, now_ms: u64) {
        let probe = breaker.start_attempt(now_ms);
        breaker.record(&verdict, source(), now_ms);
        match verdict {
            Verdict::SinkDown { .. } => trip(breaker, now_ms),
            Verdict::Throttle { .. } => breaker.throttle(now_ms, |probes| 100 << probes),
            _ => {}
        }
        breaker.end_attempt(probe);
    }

    const DOWN: Verdict = Verdict::SinkDown { after: None, told: true };

    #[test]
    fn open_breaker_allows_one_probe_at_a_time_with_growing_delays() {
        let mut breaker = CircuitBreaker::new(8);
        trip(&mut breaker, 1_000);
        assert_eq!(breaker.allowed(1_000), Allowed::Nothing { until_ms: Some(1_100) });
        trip(&mut breaker, 1_050);
        let unchanged = Allowed::Nothing { until_ms: Some(1_100) };
        assert_eq!(breaker.allowed(1_099), unchanged, "attempts in flight change nothing");
        for (now_ms, next_ms) in [(1_100, 1_300), (1_300, 1_700), (1_700, 2_500)] {
            assert_eq!(breaker.allowed(now_ms), Allowed::OneProbe);
            let probe = breaker.start_attempt(now_ms);
            assert_eq!(breaker.allowed(now_ms), Allowed::Nothing { until_ms: None });
            breaker.record(&DOWN, source(), now_ms);
            trip(&mut breaker, now_ms);
            breaker.end_attempt(probe);
            assert_eq!(breaker.allowed(now_ms), Allowed::Nothing { until_ms: Some(next_ms) });
            assert_eq!(breaker.last_failed_probe(), Some(source()));
            assert!(breaker.is_held(now_ms) && !breaker.is_held(next_ms));
        }
        attempt(&mut breaker, Verdict::Deliver, 2_500);
        assert_eq!((breaker.allowed(2_500), breaker.last_failed_probe()), (Allowed::Everything, None));
        assert!(!breaker.is_held(2_500));
    }

    #[test]
    fn after_an_outage_the_sink_gets_one_request_and_then_more() {
        let mut breaker = CircuitBreaker::new(8);
        attempt(&mut breaker, DOWN, 0);
        attempt(&mut breaker, Verdict::Deliver, 100);
        let tickets = [breaker.start_attempt(0), breaker.start_attempt(0)];
        assert_eq!(breaker.allowed(100), Allowed::Nothing { until_ms: None }, "two are allowed by now");
        for probe in tickets {
            breaker.record(&Verdict::Deliver, source(), 100);
            breaker.end_attempt(probe);
        }
        for _ in 0..4 {
            assert_eq!(breaker.allowed(100), Allowed::Everything);
            breaker.start_attempt(0);
        }
        assert_eq!(breaker.allowed(100), Allowed::Nothing { until_ms: None }, "four are allowed by now");
    }

    #[test]
    fn throttled_sink_gets_nothing_before_the_time_that_it_names_and_then_one_probe() {
        let mut breaker = CircuitBreaker::new(64);
        let throttled = Verdict::Throttle { after: Some(Duration::from_secs(1)) };
        (0..3).for_each(|_| assert_eq!(breaker.start_attempt(0), None));
        for (now_ms, until_ms) in [(0, 1_000), (10, 1_010), (20, 1_020)] {
            breaker.record(&throttled, source(), now_ms);
            breaker.throttle(now_ms, |_| 1_000);
            breaker.end_attempt(None);
            assert_eq!(breaker.allowed(now_ms), Allowed::Nothing { until_ms: Some(until_ms) });
        }
        assert_eq!((breaker.outage(), breaker.is_down()), (Some(Outage::Throttled), false));
        assert_eq!(breaker.allowed(1_020), Allowed::OneProbe);
        attempt(&mut breaker, Verdict::Deliver, 1_020);
        (0..16).for_each(|_| assert_eq!(breaker.start_attempt(0), None));
        assert_eq!(breaker.allowed(1_020), Allowed::Nothing { until_ms: None }, "a quarter is left");
    }

    #[test]
    fn requests_keep_to_the_limits_of_the_sink_and_a_change_holds_at_once() {
        let mut breaker = CircuitBreaker::new(64);
        breaker.set_limits(1, 2, Some(4));
        breaker.start_attempt(1_000);
        assert_eq!(breaker.allowed(1_000), Allowed::Nothing { until_ms: Some(1_250) });
        assert_eq!(breaker.allowed(1_250), Allowed::Everything);
        breaker.start_attempt(1_250);
        assert_eq!(breaker.allowed(2_000), Allowed::Nothing { until_ms: None }, "two are in flight");
        trip(&mut breaker, 2_000);
        breaker.set_limits(1, 3, None);
        assert_eq!(breaker.allowed(2_000), Allowed::Nothing { until_ms: Some(2_100) }, "the outage stays");
        attempt(&mut breaker, Verdict::Deliver, 2_100);
        breaker.set_limits(1, 3, Some(1));
        breaker.end_attempt(None);
        breaker.end_attempt(None);
        assert_eq!(breaker.allowed(2_100), Allowed::Everything);
        breaker.start_attempt(2_100);
        assert_eq!(breaker.allowed(2_100), Allowed::Nothing { until_ms: Some(3_100) });
    }

    #[test]
    fn outage_is_resumed_with_a_probe_and_not_before_the_time_that_the_sink_named() {
        let mut before = CircuitBreaker::new(8);
        before.set_limits(7, 8, None);
        assert_eq!(before.replicated(0), None);
        attempt(&mut before, DOWN, 1_000);
        attempt(&mut before, DOWN, 1_100);
        let replicated = before.replicated(1_150);
        let down = SinkOutage {
            sink_revision: 7,
            reason: OutageReason::Down,
            age_ms: 150,
            probes: 1,
            retry_after_ms: 0,
        };
        assert_eq!(replicated, Some(down));
        let resumed = |outage, revision| {
            let mut breaker = CircuitBreaker::new(8);
            breaker.set_limits(revision, 8, None);
            breaker.resume(Some(outage), 20);
            breaker
        };
        let mut after = resumed(down, 7);
        assert_eq!((after.allowed(20), after.outage()), (Allowed::OneProbe, Some(Outage::Down)));
        attempt(&mut after, DOWN, 20);
        assert_eq!(after.allowed(20), Allowed::Nothing { until_ms: Some(420) }, "the third probe's delay");

        let throttled = SinkOutage { reason: OutageReason::Throttled, retry_after_ms: 5_000, ..down };
        assert_eq!(resumed(throttled, 7).allowed(5_019), Allowed::Nothing { until_ms: Some(5_020) });
        assert_eq!(resumed(throttled, 7).allowed(5_020), Allowed::OneProbe);
        assert_eq!(resumed(throttled, 8).allowed(20), Allowed::OneProbe, "the sink was changed since");
        let mut both = resumed(down, 7);
        both.resume(Some(throttled), 20);
        assert_eq!(both.allowed(20), Allowed::Nothing { until_ms: Some(5_020) }, "the longest holds");
        attempt(&mut after, Verdict::Deliver, 420);
        after.resume(Some(throttled), 430);
        assert_eq!(after.allowed(430), Allowed::Everything, "the sink has taken an event since");
    }

    #[test]
    fn abandoned_probe_may_be_repeated_at_once_and_an_old_ticket_ends_no_later_probe() {
        let shared = SharedBreaker::new(8);
        let mut watch = shared.watch();
        trip(&mut shared.lock(), 0);
        assert!(watch.has_changed().unwrap());
        watch.mark_unchanged();
        let probe = shared.lock().start_attempt(0);
        let first = shared.clone().ticket(probe);
        trip(&mut shared.lock(), 0);
        let probe = shared.lock().start_attempt(0);
        let second = shared.clone().ticket(probe);
        drop(first);
        assert_eq!(shared.lock().allowed(1_000), Allowed::Nothing { until_ms: None });
        drop(second);
        assert_eq!(shared.lock().allowed(0), Allowed::OneProbe);
        assert!(watch.has_changed().unwrap(), "whoever waits for the probe is woken");
    }
}

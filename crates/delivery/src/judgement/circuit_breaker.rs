//! The circuit breaker of one sink on this node, shared by all subscriptions and partitions that deliver to the sink.
//!
//! Opens when the sink is down, closes when anything passes. While open, one probe at a time may be attempted.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::{KeySource, Verdict};

/// Attempts that may be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    Everything,
    /// One attempt of one event.
    OneProbe,
    /// Nothing before this time, if there is one; else nothing until the probe in flight ends.
    Nothing {
        until_ms: Option<u64>,
    },
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

/// The pure state of a breaker. Times are the delivery context's monotonic milliseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct CircuitBreaker {
    state: State,
    /// First key that failed since anything passed.
    suspect: Option<KeySource>,
    /// Outcomes that answered for an event, whether the event was taken or refused.
    passes: u64,
    /// Numbers the probes, so that an abandoned one never ends a later one.
    probe: u64,
}

impl CircuitBreaker {
    pub(crate) fn allowed(&self, now_ms: u64) -> Allowed {
        match self.state {
            State::Closed => Allowed::Everything,
            State::Open { until_ms, .. } if until_ms <= now_ms => Allowed::OneProbe,
            State::Open { until_ms, .. } => Allowed::Nothing { until_ms: Some(until_ms) },
            State::HalfOpen { .. } => Allowed::Nothing { until_ms: None },
        }
    }

    /// Begins the one attempt that [`Allowed::OneProbe`] permits. Returns the number of the probe.
    ///
    /// # Panics
    /// If the breaker is not open.
    pub(crate) fn start_probe(&mut self) -> u64 {
        let State::Open { probes, .. } = self.state else {
            panic!("invariant violation: a probe starts only while the breaker is open, not {:?}", self.state)
        };
        self.state = State::HalfOpen { probes };
        self.probe += 1;
        self.probe
    }

    /// The probe ended without an outcome: its task was aborted. The next one may start at once.
    fn abandon_probe(&mut self, probe: u64) {
        if let State::HalfOpen { probes } = self.state
            && probe == self.probe
        {
            self.state = State::Open { until_ms: 0, probes };
        }
    }

    /// Takes a verdict into account. A [`Verdict::SinkDown`] takes effect with [`Self::trip`].
    pub(crate) fn record(&mut self, verdict: &Verdict, source: KeySource) {
        match verdict {
            Verdict::Deliver | Verdict::Reject => {
                self.suspect = None;
                self.passes += 1;
                self.state = State::Closed;
            }
            Verdict::Retry { suspect: true, .. } | Verdict::Throttle { suspect: true, .. } => {
                self.suspect.get_or_insert(source);
            }
            Verdict::Retry { .. } | Verdict::Throttle { .. } | Verdict::SinkDown { .. } => {}
        }
    }

    /// Opens the breaker; `delay_ms` computes the pause from the number of probes that have failed.
    pub(crate) fn trip(&mut self, now_ms: u64, delay_ms: impl FnOnce(u32) -> u64) {
        self.state = match self.state {
            State::Closed => State::Open { until_ms: now_ms.saturating_add(delay_ms(0)), probes: 0 },
            State::HalfOpen { probes } => {
                let probes = probes.saturating_add(1);
                State::Open { until_ms: now_ms.saturating_add(delay_ms(probes)), probes }
            }
            // Attempts that were in flight when the breaker opened fail too and change nothing.
            open @ State::Open { .. } => open,
        };
    }

    pub(crate) fn is_down(&self) -> bool {
        self.state != State::Closed
    }

    /// Down for so long, and with no probe due, that no event is worth keeping in memory.
    pub(crate) fn is_held(&self, now_ms: u64) -> bool {
        let probe_failed = match self.state {
            State::Closed => false,
            State::Open { probes, .. } | State::HalfOpen { probes } => probes > 0,
        };
        probe_failed && self.allowed(now_ms) != Allowed::OneProbe
    }

    pub(crate) fn passes(&self) -> u64 {
        self.passes
    }

    pub(crate) fn suspect(&self) -> Option<KeySource> {
        self.suspect
    }
}

/// A breaker behind its lock. Every change of its state wakes those who watch it.
///
/// Lock order: the lock of a subscription comes before the lock of a breaker.
#[derive(Debug, Default)]
pub(crate) struct SharedBreaker {
    breaker: Mutex<CircuitBreaker>,
    changed: watch::Sender<()>,
}

/// Access to a shared breaker.
pub(crate) struct BreakerGuard<'a> {
    shared: &'a SharedBreaker,
    state_before: State,
    breaker: MutexGuard<'a, CircuitBreaker>,
}

/// A probe in flight. Dropped without an outcome, the ticket gives the probe back.
pub(crate) struct ProbeTicket {
    shared: Arc<SharedBreaker>,
    probe: u64,
}

impl SharedBreaker {
    pub(crate) fn lock(&self) -> BreakerGuard<'_> {
        let breaker = self.breaker.lock();
        BreakerGuard { shared: self, state_before: breaker.state, breaker }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(crate) fn ticket(self: Arc<Self>, probe: u64) -> ProbeTicket {
        ProbeTicket { shared: self, probe }
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
        if self.breaker.state != self.state_before {
            self.shared.changed.send_replace(());
        }
    }
}

impl Drop for ProbeTicket {
    fn drop(&mut self) {
        self.shared.lock().abandon_probe(self.probe);
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn open_breaker_allows_one_probe_at_a_time_with_growing_delays() {
        let mut breaker = CircuitBreaker::default();
        trip(&mut breaker, 1_000);
        assert_eq!(breaker.allowed(1_000), Allowed::Nothing { until_ms: Some(1_100) });
        trip(&mut breaker, 1_050);
        let unchanged = Allowed::Nothing { until_ms: Some(1_100) };
        assert_eq!(breaker.allowed(1_099), unchanged, "attempts in flight change nothing");
        for (now_ms, next_ms) in [(1_100, 1_300), (1_300, 1_700), (1_700, 2_500)] {
            assert_eq!(breaker.allowed(now_ms), Allowed::OneProbe);
            breaker.start_probe();
            assert_eq!(breaker.allowed(now_ms), Allowed::Nothing { until_ms: None });
            trip(&mut breaker, now_ms);
            assert_eq!(breaker.allowed(now_ms), Allowed::Nothing { until_ms: Some(next_ms) });
            assert!(breaker.is_held(now_ms) && !breaker.is_held(next_ms));
        }
        breaker.start_probe();
        breaker.record(&Verdict::Deliver, source());
        assert_eq!(breaker.allowed(2_000), Allowed::Everything);
        assert!(!breaker.is_held(2_000));
    }

    #[test]
    fn abandoned_probe_may_be_repeated_at_once_and_an_old_ticket_ends_no_later_probe() {
        let shared = Arc::new(SharedBreaker::default());
        let mut watch = shared.watch();
        trip(&mut shared.lock(), 0);
        assert!(watch.has_changed().unwrap());
        watch.mark_unchanged();
        let probe = shared.lock().start_probe();
        let first = shared.clone().ticket(probe);
        trip(&mut shared.lock(), 0);
        let probe = shared.lock().start_probe();
        let second = shared.clone().ticket(probe);
        drop(first);
        assert_eq!(shared.lock().allowed(1_000), Allowed::Nothing { until_ms: None });
        drop(second);
        assert_eq!(shared.lock().allowed(0), Allowed::OneProbe);
        assert!(watch.has_changed().unwrap(), "whoever waits for the probe is woken");
    }
}

//! Outage or poison? Decides from outcomes alone whether the sink is down or a key fails. Pure.
//!
//! The sink is down when it says so, or when two keys fail and nothing has passed since the first of these
//! failures. Then nothing is attempted but one probe at a time, and no event's attempts are spent. A key that fails
//! while others pass is poison: it alone is held back.

use fanfare_model::KeyHash;

/// What a failed attempt means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The key alone is at fault: park it and count the attempt.
    Poison,
    /// The sink is down: hold everything and count nothing, not even the failure that `unspent` was charged for.
    Outage { unspent: Option<KeyHash> },
}

/// What may be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// One attempt of one event.
    Probe,
    /// Nothing before this time, if there is one; else nothing until an attempt under way ends.
    Shut {
        until_ms: Option<u64>,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Passing,
    Down {
        until_ms: u64,
        probes: u32,
    },
    Probing {
        probes: u32,
    },
}

/// Opens when the sink is down, closes when anything passes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Breaker {
    state: State,
    /// The first key that failed since anything passed.
    suspect: Option<KeyHash>,
    passes: u64,
}

impl Breaker {
    pub(crate) fn gate(&self, now_ms: u64) -> Gate {
        match self.state {
            State::Passing => Gate::Open,
            State::Down { until_ms, .. } if until_ms <= now_ms => Gate::Probe,
            State::Down { until_ms, .. } => Gate::Shut { until_ms: Some(until_ms) },
            State::Probing { .. } => Gate::Shut { until_ms: None },
        }
    }

    /// The one attempt that [`Gate::Probe`] allows is under way.
    pub(crate) fn probe_started(&mut self) {
        if let State::Down { probes, .. } = self.state {
            self.state = State::Probing { probes };
        }
    }

    /// The probe ended without asking the sink: the next may start at once.
    pub(crate) fn probe_lapsed(&mut self) {
        if let State::Probing { probes } = self.state {
            self.state = State::Down { until_ms: 0, probes };
        }
    }

    /// The sink answered for an event, whether it took it or refused it for good. True if it was down before.
    pub(crate) fn passed(&mut self) -> bool {
        self.suspect = None;
        self.passes += 1;
        let was_down = self.is_down();
        self.state = State::Passing;
        was_down
    }

    /// An attempt for `key` failed. `failed_before`: [`Self::passes`] when the same event failed the last time; if
    /// others passed in between, the key is known to be at fault and says nothing about the sink.
    pub(crate) fn failed(&mut self, key: KeyHash, failed_before: Option<u64>) -> Verdict {
        if self.is_down() {
            return Verdict::Outage { unspent: None };
        }
        if failed_before.is_some_and(|passes| passes != self.passes) {
            return Verdict::Poison;
        }
        match self.suspect {
            Some(first) if first != key => Verdict::Outage { unspent: Some(first) },
            Some(_) => Verdict::Poison,
            None => {
                self.suspect = Some(key);
                Verdict::Poison
            }
        }
    }

    /// Holds everything; `delay_ms` is asked with the number of probes that have failed.
    pub(crate) fn trip(&mut self, now_ms: u64, delay_ms: impl FnOnce(u32) -> u64) {
        self.state = match self.state {
            State::Passing => State::Down { until_ms: now_ms.saturating_add(delay_ms(0)), probes: 0 },
            State::Probing { probes } => {
                let probes = probes.saturating_add(1);
                State::Down { until_ms: now_ms.saturating_add(delay_ms(probes)), probes }
            }
            // What was under way when the sink went down fails too and changes nothing.
            down @ State::Down { .. } => down,
        };
    }

    pub(crate) fn is_down(&self) -> bool {
        self.state != State::Passing
    }

    /// Down for longer than a moment: a probe has failed since.
    fn is_down_for_long(&self) -> bool {
        match self.state {
            State::Passing => false,
            State::Down { probes, .. } | State::Probing { probes } => probes > 0,
        }
    }

    /// Down for so long, and with no probe due, that nothing is worth keeping at hand.
    pub(crate) fn is_held(&self, now_ms: u64) -> bool {
        self.is_down_for_long() && self.gate(now_ms) != Gate::Probe
    }

    pub(crate) fn passes(&self) -> u64 {
        self.passes
    }
}

#[cfg(test)]
mod tests;

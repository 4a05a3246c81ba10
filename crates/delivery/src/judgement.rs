//! Outage, poison or throttling: judges an outcome from history. Pure.
//!
//! A key that fails while others pass is at fault itself and is held back alone. A sink is down when its answer says
//! so, or when two keys fail and nothing has passed since the first of these failures.

mod circuit_breaker;

use std::time::Duration;

use fanfare_model::{KeyHash, SubscriptionId};
use fanfare_sinks::{Failure, Outcome};

pub(crate) use self::circuit_breaker::{Allowed, CircuitBreaker, ProbeTicket, SharedBreaker};

/// Consequence of one outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The event is delivered.
    Deliver,
    /// The key is at fault: the key is parked and the attempt is counted. With `suspect` the sink may still turn out
    /// to be down.
    Retry { after: Option<Duration>, suspect: bool },
    /// The sink asks for a slower pace. Handled as [`Verdict::Retry`].
    Throttle { after: Duration, suspect: bool },
    /// The event is refused for good: a dead letter.
    Reject,
    /// The sink is down: everything is held and no attempt is counted, not even the one charged to `refund`.
    SinkDown { after: Option<Duration>, refund: Option<KeySource> },
}

/// A key of one subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeySource {
    pub(crate) subscription: SubscriptionId,
    pub(crate) key: KeyHash,
}

/// Everything a verdict depends on besides the outcome.
#[derive(Clone, Copy, Debug)]
pub(crate) struct History {
    pub(crate) source: KeySource,
    /// The circuit breaker of the sink is not closed.
    pub(crate) is_down: bool,
    /// Answers for events that the sink has given so far.
    pub(crate) passes: u64,
    /// First key that failed since anything passed.
    pub(crate) suspect: Option<KeySource>,
    /// `passes` when the same event failed last.
    pub(crate) failed_at_passes: Option<u64>,
    /// `passes` when the same event was the last to take the sink down.
    pub(crate) outage_at_passes: Option<u64>,
}

/// Judges one outcome. Today's rule; throttling counts as a failure of the key.
pub(crate) fn judge(history: &History, outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Delivered => Verdict::Deliver,
        Outcome::Rejected { .. } => Verdict::Reject,
        Outcome::Retry { after, why } => judge_retry(history, *after, why),
        Outcome::SinkDown { after, .. } => {
            // An event that takes the sink down again, while others passed in between, is at fault itself.
            let passed_since = history.outage_at_passes.is_some_and(|passes| passes != history.passes);
            if passed_since && !history.is_down {
                Verdict::Retry { after: *after, suspect: false }
            } else {
                Verdict::SinkDown { after: *after, refund: None }
            }
        }
    }
}

fn judge_retry(history: &History, after: Option<Duration>, why: &Failure) -> Verdict {
    if history.is_down {
        return Verdict::SinkDown { after, refund: None };
    }
    // Others passed between two failures of this event: the key is known to be at fault and says nothing of the sink.
    let known_at_fault = history.failed_at_passes.is_some_and(|passes| passes != history.passes);
    match history.suspect.filter(|suspect| *suspect != history.source && !known_at_fault) {
        Some(first) => Verdict::SinkDown { after, refund: Some(first) },
        None => match after.filter(|_| matches!(why.status, 429 | 503)) {
            Some(after) => Verdict::Throttle { after, suspect: !known_at_fault },
            None => Verdict::Retry { after, suspect: !known_at_fault },
        },
    }
}

#[cfg(test)]
mod tests;

//! Outage, throttling or poison: judges an outcome from history. Pure.
//!
//! - A retryable failure counts against nobody for good. A key that fails while others are delivered waits by itself; when
//!   nothing is delivered any more, the sink is down.
//! - Throttling counts against nobody: the sink gets nothing before the time that it names.
//! - A rejection is settled only if the event is rejected again after a delivery on another key, which proves that the
//!   sink takes events. Where there is no other key, many tries over a long time have to do. Until then the event is
//!   held, and a sink that rejects everything is down.

mod circuit_breaker;
mod concurrency;
mod failure_streak;
mod pause;
mod rate_limit;

use std::time::Duration;

use fanfare_model::{KeyHash, SubscriptionId};
use fanfare_sinks::Outcome;

pub(crate) use self::{
    circuit_breaker::{Allowed, AttemptTicket, CircuitBreaker, Outage, SharedBreaker},
    failure_streak::FailureStreak,
    pause::Pause,
};
use crate::RetryPolicy;

/// Consequence of one outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The event is delivered.
    Deliver,
    /// The key waits by itself. With `suspect` the sink may still turn out to be down.
    Retry { after: Option<Duration>, suspect: bool },
    /// The sink asks for a slower pace: nothing is attempted before that, and no attempt is counted.
    Throttle { after: Option<Duration> },
    /// The event is refused, and it is not known yet who is at fault: the key is held. With `outage` the sink is down.
    HoldRejected { outage: bool },
    /// The event is refused for good: a dead letter.
    Reject,
    /// The sink is down: everything is held and no attempt is counted. `told` if the answer itself says so; else the
    /// next probe need not wait.
    SinkDown { after: Option<Duration>, told: bool },
}

/// A key of one subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeySource {
    pub(crate) subscription: SubscriptionId,
    pub(crate) key: KeyHash,
}

/// Earlier rejections of an event that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rejections {
    /// Time of the first, in monotonic milliseconds.
    pub(crate) first_ms: u64,
    pub(crate) count: u32,
    /// The sink's count of deliveries by the first.
    pub(crate) at_deliveries: u64,
}

/// Everything that a verdict depends on besides the outcome.
#[derive(Clone, Copy, Debug)]
pub(crate) struct History {
    pub(crate) source: KeySource,
    /// Monotonic.
    pub(crate) now_ms: u64,
    /// The sink is known to be down.
    pub(crate) is_down: bool,
    /// Events that the sink has taken so far.
    pub(crate) deliveries: u64,
    /// Failures since the last delivery.
    pub(crate) streak: FailureStreak,
    /// `deliveries` when the same event failed last.
    pub(crate) failed_at_deliveries: Option<u64>,
    /// `deliveries` when the same event was the last to take the sink down.
    pub(crate) outage_at_deliveries: Option<u64>,
    pub(crate) rejections: Option<Rejections>,
    /// The subscription has unsettled events of other keys. Asked for a rejection alone, as the window is searched.
    pub(crate) has_other_keys: bool,
}

/// Judges one outcome.
pub(crate) fn judge(history: &History, outcome: &Outcome, policy: &RetryPolicy) -> Verdict {
    match outcome {
        Outcome::Delivered => Verdict::Deliver,
        Outcome::Throttled { after, .. } => Verdict::Throttle { after: *after },
        Outcome::Rejected { .. } if is_confirmed(history, policy) => Verdict::Reject,
        Outcome::Rejected { .. } => {
            let mut streak = history.streak;
            streak.add_rejection(history.source, history.now_ms);
            Verdict::HoldRejected { outage: history.is_down || streak.is_outage(history.now_ms) }
        }
        Outcome::Retry { after, .. } => judge_retry(history, *after),
        Outcome::SinkDown { after, .. } => {
            // An event that takes the sink down again, while others are delivered in between, is at fault itself.
            let delivered_since =
                history.outage_at_deliveries.is_some_and(|deliveries| deliveries != history.deliveries);
            if delivered_since && !history.is_down {
                Verdict::Retry { after: *after, suspect: false }
            } else {
                Verdict::SinkDown { after: *after, told: true }
            }
        }
    }
}

fn judge_retry(history: &History, after: Option<Duration>) -> Verdict {
    if history.is_down {
        return Verdict::SinkDown { after, told: true };
    }
    // Others were delivered between two failures of this event: the key is known to be at fault and says nothing of
    // the sink.
    if history.failed_at_deliveries.is_some_and(|deliveries| deliveries != history.deliveries) {
        return Verdict::Retry { after, suspect: false };
    }
    let mut streak = history.streak;
    streak.add_failure(history.source, history.now_ms);
    if streak.is_outage(history.now_ms) {
        Verdict::SinkDown { after, told: false }
    } else {
        Verdict::Retry { after, suspect: true }
    }
}

/// The rejection of an event is the event's own fault.
fn is_confirmed(history: &History, policy: &RetryPolicy) -> bool {
    let Some(Rejections { first_ms, count, at_deliveries }) = history.rejections else { return false };
    let is_only_key = !history.has_other_keys
        && count + 1 >= policy.rejections_min
        && history.now_ms.saturating_sub(first_ms) >= policy.rejected_for_min_ms;
    history.deliveries != at_deliveries || is_only_key
}

#[cfg(test)]
pub(crate) mod tests;

//! Limits the concurrent attempts of subscriptions that catch up, so that subscriptions at the end of the log do not
//! wait for them.
//!
//! A subscription that catches up always has a next event at hand and would take all processor time. It measures the
//! delay between yielding and running again, which is the delay of every task, and the limit of all subscriptions that
//! catch up on this node follows that delay: additive increase, multiplicative decrease (AIMD).
//!
//! The delay does not tell the cause: an attempt that waits for a slow sink takes no processor time, and publishers may
//! take all of it. So a limited subscription that makes too little progress gets a rising minimum of its own: see
//! [`ProgressFloor`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// A longer delay lowers the limit.
const LAG_MAX: Duration = Duration::from_micros(500);
/// The limit is counted in fractions of an attempt.
const FRACTIONS: u32 = 16;
const ATTEMPTS_MAX: u32 = 256;
/// A limited subscription makes enough progress if it would reach the end of the log within this time. Events are
/// retained for longer.
const CATCH_UP_MAX_S: u64 = 3_600;
/// Time between two measurements of progress.
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);
/// Upper bound of [`ProgressFloor::min_concurrency`].
const MIN_CONCURRENCY_MAX: usize = 256;

/// The node's limit of concurrent attempts of subscriptions that catch up.
#[derive(Debug)]
pub(crate) struct CatchUpLimiter {
    /// In fractions of an attempt.
    limit: AtomicU32,
    running: AtomicU32,
}

/// Counts as one running attempt until dropped.
pub(crate) struct Permit(Arc<CatchUpLimiter>);

/// The concurrency that one limited subscription has in any case, raised while it makes too little progress.
pub(crate) struct ProgressFloor {
    min_concurrency: usize,
    measured: Option<Progress>,
}

#[derive(Clone, Copy)]
struct Progress {
    at: Instant,
    /// Offsets up to the fan-out.
    remaining: u64,
}

impl Default for CatchUpLimiter {
    fn default() -> Self {
        Self { limit: AtomicU32::new(ATTEMPTS_MAX * FRACTIONS), running: AtomicU32::new(0) }
    }
}

impl CatchUpLimiter {
    /// True if a subscription with `running` attempts may start another one. Every subscription may have one, so that
    /// none depends on being woken by another.
    pub(crate) fn allows(&self, running: usize, floor: &ProgressFloor) -> bool {
        running < floor.min_concurrency
            || self.running.load(Ordering::Relaxed) < self.limit.load(Ordering::Relaxed) / FRACTIONS
    }

    pub(crate) fn acquire(self: &Arc<Self>) -> Permit {
        self.running.fetch_add(1, Ordering::Relaxed);
        Permit(self.clone())
    }

    /// Adapts the limit to the delay between yielding and running again.
    pub(crate) fn record_lag(&self, lag: Duration) {
        let limit = self.limit.load(Ordering::Relaxed);
        let next = if lag > LAG_MAX {
            (limit - limit / 8).max(FRACTIONS)
        } else {
            (limit + (FRACTIONS * FRACTIONS / limit).max(1)).min(ATTEMPTS_MAX * FRACTIONS)
        };
        // A racing update may be lost. Samples are frequent and the limit is a heuristic, so that a compare-and-swap
        // loop is not worth its cost.
        self.limit.store(next, Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for ProgressFloor {
    fn default() -> Self {
        Self { min_concurrency: 1, measured: None }
    }
}

impl ProgressFloor {
    /// Records that the subscription is limited at `now`, with `remaining` offsets up to the fan-out.
    pub(crate) fn record_limited(&mut self, now: Instant, remaining: u64) {
        let Some(earlier) = self.measured else {
            self.measured = Some(Progress { at: now, remaining });
            return;
        };
        let elapsed = now.duration_since(earlier.at);
        if elapsed < MEASURE_INTERVAL {
            return;
        }
        let gained = earlier.remaining.saturating_sub(remaining);
        if gained.saturating_mul(CATCH_UP_MAX_S) < remaining.saturating_mul(elapsed.as_secs()) {
            self.min_concurrency = (self.min_concurrency * 2).min(MIN_CONCURRENCY_MAX);
        }
        self.measured = Some(Progress { at: now, remaining });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lowered_limiter() -> Arc<CatchUpLimiter> {
        let limiter = Arc::new(CatchUpLimiter::default());
        for _ in 0..100 {
            limiter.record_lag(LAG_MAX * 2);
        }
        limiter
    }

    #[test]
    fn long_lags_lower_the_limit_to_one_attempt_each_and_short_lags_raise_it() {
        let limiter = lowered_limiter();
        let floor = ProgressFloor::default();
        assert!(limiter.allows(1, &floor), "no attempt runs");
        let permits: Vec<_> = (0..20).map(|_| limiter.acquire()).collect();
        assert!(!limiter.allows(1, &floor) && limiter.allows(0, &floor));
        for _ in 0..10_000 {
            limiter.record_lag(LAG_MAX / 2);
        }
        assert!(limiter.allows(20, &floor));
        drop(permits);
    }

    /// Remaining offsets and minimum concurrency of a subscription after an hour of long lags, with attempts of 100 ms
    /// each and `inflow` new events in that time.
    fn after_an_hour(mut remaining: u64, inflow: u64) -> (u64, usize) {
        let (limiter, start) = (lowered_limiter(), Instant::now());
        let mut floor = ProgressFloor::default();
        for tick in 0..36_000 {
            remaining += inflow;
            let mut permits = Vec::new();
            while remaining > 0 && limiter.allows(permits.len(), &floor) {
                permits.push(limiter.acquire());
                remaining -= 1;
            }
            if remaining == 0 {
                break;
            }
            floor.record_limited(start + Duration::from_millis(100) * tick, remaining);
        }
        (remaining, floor.min_concurrency)
    }

    #[test]
    fn permanently_limited_subscription_catches_up_with_the_concurrency_it_needs() {
        assert_eq!(after_an_hour(20_000, 5), (0, 8), "50 events/s arrive, 8 attempts make 80");
        assert_eq!(after_an_hour(20_000, 10), (0, 16), "100 events/s");
        assert_eq!(after_an_hour(20_000, 0), (0, 1), "10 events/s are enough");
    }

    #[test]
    fn fast_progress_keeps_the_minimum_concurrency_at_one() {
        let (mut floor, start) = (ProgressFloor::default(), Instant::now());
        for second in 0..900 {
            floor.record_limited(start + Duration::from_secs(second), 1_000_000 - 1_000 * second);
        }
        assert_eq!(floor.min_concurrency, 1);
    }
}

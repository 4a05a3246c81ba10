//! Admission by bytes: the limit of what may queue for one partition, and the advice to a refused producer.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::budgets::BudgetShare;

/// Bounds of the advised wait.
const RETRY_AFTER_MS_MIN: u64 = 5;
const RETRY_AFTER_MS_MAX: u64 = 1_000;
/// The moving average weighs a new measurement as one in this many.
const RATE_WEIGHT: u64 = 8;

/// Counts the bytes that were taken and not answered yet.
pub(crate) struct Admission {
    budget: Arc<BudgetShare>,
    queued_bytes: AtomicU64,
    /// Bytes per millisecond that were committed lately; 0 before the first commit.
    commit_rate: AtomicU64,
    last_commit: Mutex<Option<Instant>>,
}

/// Queued bytes, given back when it is dropped.
pub(crate) struct AdmissionPermit {
    admission: Arc<Admission>,
    bytes: u64,
}

/// Too many bytes are queued.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overloaded {
    pub(crate) retry_after_ms: u64,
}

impl Admission {
    pub(crate) fn new(budget: Arc<BudgetShare>) -> Self {
        let (queued_bytes, commit_rate) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { budget, queued_bytes, commit_rate, last_commit: Mutex::new(None) }
    }

    /// Takes `bytes` if they fit into the budget, or if nothing else is queued: a batch larger than the budget is
    /// admitted alone.
    pub(crate) fn admit(self: &Arc<Self>, bytes: u64) -> Result<AdmissionPermit, Overloaded> {
        let bytes_max = self.budget.queue_bytes();
        let fits = |queued: u64| {
            let after = queued.saturating_add(bytes);
            (queued == 0 || after <= bytes_max).then_some(after)
        };
        // Relaxed: the counter guards no other memory.
        match self.queued_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(AdmissionPermit { admission: self.clone(), bytes }),
            Err(_) => Err(self.overloaded()),
        }
    }

    /// Advises the time in which half of the queued bytes commit at the present rate.
    pub(crate) fn overloaded(&self) -> Overloaded {
        let half = self.queued_bytes.load(Ordering::Relaxed) / 2;
        let wait_ms =
            half.checked_div(self.commit_rate.load(Ordering::Relaxed)).unwrap_or(RETRY_AFTER_MS_MAX);
        Overloaded { retry_after_ms: wait_ms.clamp(RETRY_AFTER_MS_MIN, RETRY_AFTER_MS_MAX) }
    }

    /// Updates the rate after an entry of `bytes` was committed.
    pub(crate) fn record_commit(&self, bytes: u64, now: Instant) {
        let Some(last) = self.last_commit.lock().replace(now) else { return };
        let elapsed_us = u64::try_from(now.duration_since(last).as_micros()).unwrap_or(u64::MAX).max(1);
        let measured = bytes.saturating_mul(1_000) / elapsed_us;
        let before = self.commit_rate.load(Ordering::Relaxed);
        let rate = if before == 0 {
            measured
        } else {
            (before * (RATE_WEIGHT - 1)).saturating_add(measured) / RATE_WEIGHT
        };
        self.commit_rate.store(rate.max(1), Ordering::Relaxed);
    }
}

impl Drop for AdmissionPermit {
    fn drop(&mut self) {
        let before = self.admission.queued_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        debug_assert!(before >= self.bytes, "invariant violation: more bytes are given back than were taken");
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Duration;

    use super::*;
    use crate::budgets::{Budgets, MemoryLimits};

    fn admission(queue_bytes_max: u64) -> Arc<Admission> {
        let limits = MemoryLimits { dedup_bytes_max: 0, queue_bytes_max, read_cache_bytes_max: 0 };
        Arc::new(Admission::new(Arc::new(Budgets::new(limits, 1).share())))
    }

    #[test]
    fn bytes_are_admitted_up_to_the_limit_and_given_back() {
        let admission = admission(100);
        let first = admission.admit(60).unwrap();
        let second = admission.admit(40).unwrap();
        assert!(admission.admit(1).is_err());
        drop(first);
        let third = admission.admit(60).unwrap();
        assert!(admission.admit(1).is_err());
        drop((second, third));
        assert_eq!(admission.queued_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn batch_larger_than_the_limit_is_admitted_alone() {
        let admission = admission(100);
        let large = admission.admit(1_000).unwrap();
        assert!(admission.admit(1).is_err());
        drop(large);
        let _small = admission.admit(1).unwrap();
        assert!(admission.admit(1_000).is_err());
    }

    #[test]
    fn advised_wait_follows_the_rate_within_bounds() {
        let admission = admission(1_000_000);
        let _waiting = admission.admit(1_000_000).unwrap();
        assert_eq!(admission.overloaded(), Overloaded { retry_after_ms: 1_000 });
        let mut now = Instant::now();
        for _ in 0..50 {
            now += Duration::from_millis(10);
            admission.record_commit(50_000, now);
        }
        assert_eq!(admission.overloaded(), Overloaded { retry_after_ms: 100 });
        for _ in 0..50 {
            now += Duration::from_millis(1);
            admission.record_commit(500_000, now);
        }
        assert_eq!(admission.overloaded(), Overloaded { retry_after_ms: 5 });
    }
}

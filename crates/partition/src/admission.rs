//! How many bytes may wait for one partition, and how long a refused producer should wait.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Bounds of the advice to a refused producer.
const RETRY_AFTER_MS_MIN: u64 = 5;
const RETRY_AFTER_MS_MAX: u64 = 1_000;
/// Share of a new measurement in the rate: an eighth.
const RATE_WEIGHT: u64 = 8;

/// Counts the bytes that were taken and not answered yet.
pub(crate) struct Admission {
    bytes_max: u64,
    waiting: AtomicU64,
    /// Bytes per millisecond that were committed lately; 0 before the first.
    rate: AtomicU64,
    last_drained: Mutex<Option<Instant>>,
}

/// Bytes that count until it is dropped.
pub(crate) struct Admitted {
    admission: Arc<Admission>,
    bytes: u64,
}

/// Too many bytes wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overloaded {
    pub(crate) retry_after_ms: u64,
}

impl Admission {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let (waiting, rate) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { bytes_max, waiting, rate, last_drained: Mutex::new(None) }
    }

    /// Takes `bytes` if they fit, or if nothing else waits: a batch larger than the limit is admitted alone.
    pub(crate) fn admit(self: &Arc<Self>, bytes: u64) -> Result<Admitted, Overloaded> {
        let fits = |waiting: u64| {
            let after = waiting.saturating_add(bytes);
            (waiting == 0 || after <= self.bytes_max).then_some(after)
        };
        match self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(Admitted { admission: Arc::clone(self), bytes }),
            Err(_) => Err(self.overloaded()),
        }
    }

    /// When half of what waits should be gone.
    pub(crate) fn overloaded(&self) -> Overloaded {
        let half = self.waiting.load(Ordering::Relaxed) / 2;
        let wait_ms = half.checked_div(self.rate.load(Ordering::Relaxed)).unwrap_or(RETRY_AFTER_MS_MAX);
        Overloaded { retry_after_ms: wait_ms.clamp(RETRY_AFTER_MS_MIN, RETRY_AFTER_MS_MAX) }
    }

    /// An entry of `bytes` was committed.
    pub(crate) fn drained(&self, bytes: u64, now: Instant) {
        let Some(last) = self.last_drained.lock().replace(now) else { return };
        let elapsed_us = u64::try_from(now.duration_since(last).as_micros()).unwrap_or(u64::MAX).max(1);
        let measured = bytes.saturating_mul(1_000) / elapsed_us;
        let before = self.rate.load(Ordering::Relaxed);
        let rate = if before == 0 {
            measured
        } else {
            (before * (RATE_WEIGHT - 1)).saturating_add(measured) / RATE_WEIGHT
        };
        self.rate.store(rate.max(1), Ordering::Relaxed);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Duration;

    use super::*;

    #[test]
    fn bytes_are_admitted_up_to_the_limit_and_given_back() {
        let admission = Arc::new(Admission::new(100));
        let first = admission.admit(60).unwrap();
        let second = admission.admit(40).unwrap();
        assert!(admission.admit(1).is_err());
        drop(first);
        let third = admission.admit(60).unwrap();
        assert!(admission.admit(1).is_err());
        drop((second, third));
        assert_eq!(admission.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_batch_larger_than_the_limit_is_admitted_alone() {
        let admission = Arc::new(Admission::new(100));
        let large = admission.admit(1_000).unwrap();
        assert!(admission.admit(1).is_err());
        drop(large);
        let _small = admission.admit(1).unwrap();
        assert!(admission.admit(1_000).is_err());
    }

    #[test]
    fn the_advice_to_wait_follows_the_rate_within_bounds() {
        let admission = Arc::new(Admission::new(1_000_000));
        let _waiting = admission.admit(1_000_000).unwrap();
        assert_eq!(admission.overloaded(), Overloaded { retry_after_ms: 1_000 });
        let mut now = Instant::now();
        for _ in 0..50 {
            now += Duration::from_millis(10);
            admission.drained(50_000, now);
        }
        assert_eq!(admission.overloaded(), Overloaded { retry_after_ms: 100 });
        for _ in 0..50 {
            now += Duration::from_millis(1);
            admission.drained(500_000, now);
        }
        assert_eq!(admission.overloaded(), Overloaded { retry_after_ms: 5 });
    }
}

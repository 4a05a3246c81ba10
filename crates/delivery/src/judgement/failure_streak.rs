//! Failures of a sink since its last delivery. Pure.

use super::KeySource;

/// So many failures on [`KEYS`] keys in a row are an outage. One key in two may fail for ever, and a healthy sink has such
/// a streak once in a thousand attempts.
const FAILURES: u32 = 10;
const KEYS: usize = 3;
/// Where few events come, fewer failures tell as much, if they are spread over time.
const SLOW_FAILURES: u32 = 3;
const SLOW_KEYS: usize = 2;
const SLOW_MS: u64 = 5_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FailureStreak {
    failures: u32,
    rejections: u32,
    /// Time of the first, in monotonic milliseconds.
    since_ms: u64,
    /// Distinct keys.
    keys: [Option<KeySource>; KEYS],
}

impl FailureStreak {
    pub(crate) fn add_failure(&mut self, source: KeySource, now_ms: u64) {
        if self.failures == 0 {
            self.since_ms = now_ms;
        }
        self.failures = self.failures.saturating_add(1);
        if !self.keys.contains(&Some(source))
            && let Some(free) = self.keys.iter_mut().find(|key| key.is_none())
        {
            *free = Some(source);
        }
    }

    pub(crate) fn add_rejection(&mut self, source: KeySource, now_ms: u64) {
        self.add_failure(source, now_ms);
        self.rejections = self.rejections.saturating_add(1);
    }

    /// So much has failed, and on so many keys, that the sink is at fault.
    pub(crate) fn is_outage(&self, now_ms: u64) -> bool {
        let keys = self.keys.iter().flatten().count();
        let lasts = now_ms.saturating_sub(self.since_ms) >= SLOW_MS;
        self.failures >= FAILURES && keys >= KEYS
            || self.failures >= SLOW_FAILURES && keys >= SLOW_KEYS && lasts
    }

    pub(crate) fn has_several_keys(&self) -> bool {
        self.keys[1].is_some()
    }

    /// Nothing has been delivered for a while, be it on one key alone.
    pub(crate) fn is_failing(&self, now_ms: u64) -> bool {
        self.failures >= SLOW_FAILURES && now_ms.saturating_sub(self.since_ms) >= SLOW_MS
    }

    /// Time of the first failure, in monotonic milliseconds.
    pub(crate) fn since_ms(&self) -> u64 {
        self.since_ms
    }

    /// Every failure is a rejection.
    pub(crate) fn is_all_rejections(&self) -> bool {
        self.rejections > 0 && self.rejections == self.failures
    }
}

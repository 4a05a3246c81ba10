//! The seam of time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Two clocks: one that people set, and one that only goes forward.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970, as the machine's wall clock says; may jump either way.
    fn unix_ms(&self) -> u64;

    /// Time since an origin of the clock's own; never goes back.
    fn monotonic(&self) -> Duration;
}

/// The machine's clocks. The origin of `monotonic` is the start.
pub(crate) struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    pub(crate) fn start() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn unix_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }
}

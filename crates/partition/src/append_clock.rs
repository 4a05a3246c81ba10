//! The time that goes into entries: this node's wall clock, never running backwards.

use std::sync::atomic::{AtomicU64, Ordering};

use fanfare_environment::Environment;
use fanfare_model::Timestamp;

pub(crate) struct AppendClock {
    environment: Environment,
    /// Milliseconds of the newest time given out.
    last_ms: AtomicU64,
}

impl AppendClock {
    pub(crate) fn new(environment: Environment) -> Self {
        Self { environment, last_ms: AtomicU64::new(0) }
    }

    /// A time for the next entry: at or after `previous`, the newest applied entry's, and every time given out before.
    ///
    /// The wall clock may jump back, and the previous leader's clock may be ahead of this one: the log's index by time
    /// and the dedup window rely on times that never fall.
    pub(crate) fn next(&self, previous: Timestamp) -> Timestamp {
        let now_ms = self.now().max(previous).0;
        Timestamp(self.last_ms.fetch_max(now_ms, Ordering::Relaxed).max(now_ms))
    }

    /// The wall clock as it is.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.environment.clock().unix_ms())
    }
}

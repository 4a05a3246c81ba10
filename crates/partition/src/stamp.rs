//! The time that goes into entries: this node's clock, never running backwards.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use fanfare_model::Timestamp;

/// Wall clock of this node, injected.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Timestamp;
}

pub(crate) struct Stamp {
    clock: Arc<dyn Clock>,
    last: AtomicU64,
}

impl Stamp {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, last: AtomicU64::new(0) }
    }

    /// Not before `previous`, nor before any time it gave.
    pub(crate) fn next(&self, previous: Timestamp) -> Timestamp {
        let now = self.clock.now().max(previous).0;
        Timestamp(self.last.fetch_max(now, Ordering::Relaxed).max(now))
    }

    /// The clock as it is.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

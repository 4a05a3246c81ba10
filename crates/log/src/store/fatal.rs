//! The first failed write or sync of a data directory, which is final.

use std::sync::OnceLock;

use crate::error::Fatal;

/// Called once, at the first failed write or sync. Must not block.
pub type OnFatal = Box<dyn Fn(&Fatal) + Send + Sync>;

/// Remembers the first failure. After a failed sync the kernel may call lost pages clean, so nothing is retried.
pub(crate) struct FatalLatch {
    fatal: OnceLock<Fatal>,
    on_fatal: OnFatal,
}

impl FatalLatch {
    pub(crate) fn new(on_fatal: OnFatal) -> Self {
        Self { fatal: OnceLock::new(), on_fatal }
    }

    pub(crate) fn get(&self) -> Option<Fatal> {
        self.fatal.get().cloned()
    }

    pub(crate) fn set(&self, fatal: Fatal) {
        let mut is_first = false;
        let first = self.fatal.get_or_init(|| {
            is_first = true;
            fatal
        });
        if is_first {
            (self.on_fatal)(first);
        }
    }
}

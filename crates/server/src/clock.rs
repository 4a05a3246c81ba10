//! The node's wall clock, handed to everything that stamps time.

use std::time::{SystemTime, UNIX_EPOCH};

use fanfare_model::Timestamp;
use fanfare_partition::Clock;

pub(crate) struct WallClock;

impl WallClock {
    pub(crate) fn read() -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }
}

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        Self::read()
    }
}

//! Ends a process whose disk has stalled: a follower, a leader and their clients would all wait for it without an end.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

/// Interval between two looks at the disk.
const LOOK: Duration = Duration::from_secs(1);
/// A write that waits longer for the disk is not waited for any more. The log itself reports a stall after a second.
const STALLED_MAX: Duration = Duration::from_secs(10);

/// Returns when the oldest write has waited longer than [`STALLED_MAX`], with the time that it has waited.
/// `oldest_unsynced` tells how long the oldest write that is not durable yet has been waiting.
pub(crate) async fn stalled(oldest_unsynced: impl Fn() -> Duration) -> Duration {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let waited = oldest_unsynced();
        if waited > STALLED_MAX {
            return waited;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn disk_that_stalls_for_ten_seconds_is_given_up_and_a_slow_one_is_not() {
        let start = Instant::now();
        // Slow for a minute, with an answer every nine seconds; then no answer at all.
        let oldest = move || {
            let passed = start.elapsed();
            if passed < Duration::from_secs(63) {
                Duration::from_millis(u64::try_from(passed.as_millis()).unwrap_or_default() % 9_000)
            } else {
                passed - Duration::from_secs(63)
            }
        };
        let waited = stalled(oldest).await;
        assert!(waited > STALLED_MAX && waited <= STALLED_MAX + LOOK, "{waited:?}");
        assert!(start.elapsed() > Duration::from_secs(73), "{:?}", start.elapsed());
    }
}

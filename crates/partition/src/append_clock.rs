//! The time that goes into entries and that ages are measured by. A jump of the wall clock moves neither.
//!
//! While the node runs, time advances with the monotonic clock and follows the wall clock by small steps only: after a
//! larger jump it stays apart from the wall clock, and says so, until both agree again or the node is started anew. A
//! start takes the wall clock as it is. How long the node was down cannot be told from a jump, so that time counts
//! towards no age until the node has run for as long as that age.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use fanfare_environment::Environment;
use fanfare_model::{PartitionId, Timestamp};
use parking_lot::Mutex;

/// Largest step by which time follows the wall clock at once, and the difference that is no jump.
const STEP_MS_MAX: u64 = 60_000;
/// A step that was taken may be taken again after so many times its length.
const STEP_PAUSE: u64 = 10;
/// Interval between two looks at the wall clock.
const LOOK: Duration = Duration::from_millis(100);
/// A node may have been down for so long; what is beyond may be a jump.
const DOWN_MS_BELIEVED: u64 = 3_600_000;

pub(crate) struct AppendClock {
    partition: PartitionId,
    environment: Environment,
    steady: Mutex<SteadyTime>,
    started: Duration,
    /// Time from the newest entry to the start that may have been a jump.
    unexplained_ms: u64,
    /// Milliseconds of the newest time given out.
    last_ms: AtomicU64,
}

/// Time at a moment of the monotonic clock.
struct SteadyTime {
    time_ms: u64,
    at: Duration,
    step_ms_left: u64,
    is_apart: bool,
}

impl AppendClock {
    /// The clock of a partition whose newest entry is of the time `newest`, zero if it has none.
    pub(crate) fn new(partition: PartitionId, environment: Environment, newest: Timestamp) -> Self {
        let (started, time_ms) = (environment.clock().monotonic(), environment.clock().unix_ms());
        let down_ms = if newest == Timestamp(0) { 0 } else { Timestamp(time_ms).millis_since(newest) };
        let unexplained_ms = down_ms.saturating_sub(DOWN_MS_BELIEVED);
        if unexplained_ms > 0 {
            tracing::info!(
                %partition, down_ms,
                "the newest entry is old, or the clock was set; until the node has run for the retention, that time counts towards no event's age"
            );
        }
        let steady = SteadyTime { time_ms, at: started, step_ms_left: STEP_MS_MAX, is_apart: false };
        Self {
            partition,
            environment,
            steady: Mutex::new(steady),
            started,
            unexplained_ms,
            last_ms: AtomicU64::new(0),
        }
    }

    /// A time for the next entry: at or after `previous`, the newest applied entry's, and every time given out before.
    ///
    /// The wall clock may go back by a small step, and the previous leader's clock may be ahead of this one: the log's
    /// index by time and the dedup window rely on times that never fall.
    pub(crate) fn next(&self, previous: Timestamp) -> Timestamp {
        let now_ms = self.now().max(previous).0;
        Timestamp(self.last_ms.fetch_max(now_ms, Ordering::Relaxed).max(now_ms))
    }

    /// The time at which events of an age of `age_ms` are to go: behind the present by what may have been a jump.
    pub(crate) fn now_for_age(&self, age_ms: u64) -> Timestamp {
        let ran = self.environment.clock().monotonic().saturating_sub(self.started);
        let has_seen_all = ran >= Duration::from_millis(age_ms);
        let unexplained_ms = if has_seen_all { 0 } else { self.unexplained_ms };
        Timestamp(self.now().0.saturating_sub(unexplained_ms))
    }

    fn now(&self) -> Timestamp {
        let clock = self.environment.clock();
        let mut steady = self.steady.lock();
        let now = clock.monotonic();
        let elapsed = now.saturating_sub(steady.at);
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        if elapsed < LOOK {
            return Timestamp(steady.time_ms.saturating_add(elapsed_ms));
        }
        let was_apart = steady.is_apart;
        steady.follow(elapsed_ms, clock.unix_ms());
        if steady.is_apart != was_apart {
            self.tell(&steady, clock.unix_ms());
        }
        Timestamp(steady.time_ms)
    }

    fn tell(&self, steady: &SteadyTime, wall_ms: u64) {
        let (partition, time_ms) = (self.partition, steady.time_ms);
        if steady.is_apart {
            tracing::warn!(
                %partition, time_ms, wall_ms,
                "the wall clock jumped; the time of events goes on as before, until the clock is right again or the node is started anew"
            );
        } else {
            tracing::info!(%partition, time_ms, "the wall clock agrees with the time of events again");
        }
    }
}

impl SteadyTime {
    /// Moves on by `elapsed_ms`, and to `wall_ms` if that is near.
    fn follow(&mut self, elapsed_ms: u64, wall_ms: u64) {
        // Whole milliseconds, so that what is left of one is not lost.
        self.at += Duration::from_millis(elapsed_ms);
        self.step_ms_left = STEP_MS_MAX.min(self.step_ms_left + elapsed_ms / STEP_PAUSE);
        let expected_ms = self.time_ms.saturating_add(elapsed_ms);
        let ahead_ms = wall_ms.saturating_sub(expected_ms);
        let behind_ms = expected_ms.saturating_sub(wall_ms);
        self.is_apart = ahead_ms > self.step_ms_left || behind_ms > STEP_MS_MAX;
        if self.is_apart {
            self.time_ms = expected_ms;
        } else {
            self.step_ms_left -= ahead_ms;
            self.time_ms = wall_ms;
        }
    }
}

#[cfg(test)]
mod tests {
    use fanfare_environment::Simulation;
    use tokio::time::advance;

    use super::*;

    const DAY_MS: u64 = 86_400_000;
    const RETENTION_MS: u64 = 4 * 3_600_000;

    fn clock(simulation: &Simulation, newest: Timestamp) -> AppendClock {
        AppendClock::new(PartitionId::events(0), Environment::simulated(simulation), newest)
    }

    #[tokio::test(start_paused = true)]
    async fn time_follows_small_steps_and_no_jump() {
        let simulation = Simulation::new(1);
        let clock = clock(&simulation, Timestamp(0));
        let start = clock.next(Timestamp(0));
        for (jump_ms, followed_ms) in [(30_000, 30_000), (2 * 86_400_000, 0), (-2 * 86_400_000, 0)] {
            let before = clock.next(Timestamp(0));
            simulation.clock().jump_ms(jump_ms);
            advance(Duration::from_secs(1)).await;
            assert_eq!(clock.next(Timestamp(0)).millis_since(before), 1_000 + followed_ms, "{jump_ms}");
        }
        // Back in agreement; many small steps do not add up to a jump.
        for _ in 0..100 {
            simulation.clock().jump_ms(30_000);
            advance(Duration::from_secs(1)).await;
            clock.next(Timestamp(0));
        }
        assert!(clock.next(Timestamp(0)).millis_since(start) < 300_000);
    }

    #[tokio::test(start_paused = true)]
    async fn jump_ages_no_event() {
        let simulation = Simulation::new(1);
        let clock = clock(&simulation, Timestamp(0));
        let appended = clock.next(Timestamp(0));
        for days in [2, 36_500] {
            simulation.clock().jump_ms(days * 86_400_000);
            advance(Duration::from_secs(1)).await;
            assert!(clock.now_for_age(RETENTION_MS).millis_since(appended) < 10_000);
        }
        advance(Duration::from_millis(RETENTION_MS)).await;
        assert!(clock.now_for_age(RETENTION_MS).millis_since(appended) > RETENTION_MS, "real time ages them");
    }

    #[tokio::test(start_paused = true)]
    async fn time_before_a_start_ages_no_event_until_the_node_has_run_for_that_age() {
        let simulation = Simulation::new(1);
        let newest = Timestamp(Environment::simulated(&simulation).clock().unix_ms() - 2 * DAY_MS);
        let clock = clock(&simulation, newest);
        assert!(clock.next(newest).millis_since(newest) >= 2 * DAY_MS, "new events have the right time");
        assert!(clock.now_for_age(RETENTION_MS).millis_since(newest) <= DOWN_MS_BELIEVED);
        advance(Duration::from_millis(RETENTION_MS)).await;
        assert!(clock.now_for_age(RETENTION_MS).millis_since(newest) > 2 * DAY_MS);
    }
}

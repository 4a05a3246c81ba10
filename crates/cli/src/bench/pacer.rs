//! The clock of an open-loop run: says how many requests are due.
//!
//! It blocks one of the runtime's threads for blocking work, because the runtime's timers are a millisecond
//! coarse, which would count as latency.

use std::{
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// Requests due sooner than this after another are announced together.
const TICK_MIN: Duration = Duration::from_micros(100);

/// Due time of each request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timetable {
    pub(super) started: Instant,
    pub(super) requests_per_second: f64,
    pub(super) requests: u64,
}

impl Timetable {
    pub(super) fn due_at(&self, request: u64) -> Instant {
        self.started + Duration::from_secs_f64(request as f64 / self.requests_per_second)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive count below 2^53"
    )]
    fn due_by(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.started);
        let due = (elapsed.as_secs_f64() * self.requests_per_second).floor() as u64 + 1;
        due.min(self.requests)
    }
}

/// Runs on `tasks` until every request is due or nobody listens.
pub(super) fn start(timetable: Timetable, tasks: &TaskTracker) -> watch::Receiver<u64> {
    let (announce, due) = watch::channel(0);
    tasks.spawn_blocking(move || {
        while !announce.is_closed() {
            let due = timetable.due_by(Instant::now());
            announce.send_if_modified(|announced| std::mem::replace(announced, due) != due);
            if due >= timetable.requests {
                return;
            }
            let wait = timetable.due_at(due).saturating_duration_since(Instant::now());
            thread::park_timeout(wait.max(TICK_MIN));
        }
    });
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_agrees_with_when_it_is_due() {
        let timetable = Timetable { started: Instant::now(), requests_per_second: 250.0, requests: 1000 };
        assert_eq!(timetable.due_by(timetable.started), 1);
        for request in [0, 1, 7, 999] {
            let due_at = timetable.due_at(request) + Duration::from_micros(1);
            assert_eq!(timetable.due_by(due_at), request + 1);
        }
        assert_eq!(timetable.due_by(timetable.started + Duration::from_secs(60)), 1000);
    }

    #[tokio::test]
    async fn every_request_is_announced_and_not_before_its_time() {
        let timetable = Timetable { started: Instant::now(), requests_per_second: 2000.0, requests: 100 };
        let tasks = TaskTracker::new();
        let mut due = start(timetable, &tasks);
        let last = *due.wait_for(|&due| due == 100).await.unwrap();
        assert!(Instant::now() >= timetable.due_at(last - 1));
        tasks.close();
        tasks.wait().await;
    }
}

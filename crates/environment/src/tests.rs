//! The seams keep their promises in both worlds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use crate::{Environment, Next, Simulation, Worker};

/// Counts rounds; ends after `rounds_max`.
struct Counting {
    rounds: Arc<AtomicU32>,
    rounds_max: u32,
}

impl Worker for Counting {
    fn run_round(&mut self) -> Next {
        let rounds = self.rounds.fetch_add(1, Ordering::SeqCst) + 1;
        if rounds < self.rounds_max { Next::Within(Duration::from_millis(1)) } else { Next::End }
    }
}

#[test]
fn thread_workers_run_until_they_end() {
    let rounds = Arc::new(AtomicU32::new(0));
    let worker = Counting { rounds: rounds.clone(), rounds_max: 5 };
    let handle = Environment::system().start_worker("test", Box::new(worker)).expect("a thread");
    handle.notify();
    handle.join();
    assert_eq!(rounds.load(Ordering::SeqCst), 5);
}

#[tokio::test(start_paused = true)]
async fn simulated_workers_are_finished_by_a_join() {
    let simulation = Simulation::new(7);
    let rounds = Arc::new(AtomicU32::new(0));
    let worker = Counting { rounds: rounds.clone(), rounds_max: 1_000 };
    let handle =
        Environment::simulated(&simulation).start_worker("test", Box::new(worker)).expect("no thread");
    tokio::time::sleep(Duration::from_millis(20)).await;
    let before = rounds.load(Ordering::SeqCst);
    assert!((10..1_000).contains(&before), "{before} rounds by time alone");
    handle.join();
    assert_eq!(rounds.load(Ordering::SeqCst), 1_000);
}

#[tokio::test(start_paused = true)]
async fn one_seed_gives_one_sequence() {
    let draw = |seed| {
        let environment = Environment::simulated(&Simulation::new(seed));
        [environment.random().next_u64(), environment.random().next_u64()]
    };
    assert_eq!(draw(3), draw(3));
    assert_ne!(draw(3), draw(4));
}

#[tokio::test(start_paused = true)]
async fn wall_clock_jumps_and_the_monotonic_clock_does_not() {
    let simulation = Simulation::new(1);
    let environment = Environment::simulated(&simulation);
    let (wall, monotonic) = (environment.clock().unix_ms(), environment.clock().monotonic());
    tokio::time::sleep(Duration::from_secs(1)).await;
    simulation.clock().jump_ms(-3_600_000);
    assert_eq!(environment.clock().monotonic() - monotonic, Duration::from_secs(1));
    assert_eq!(environment.clock().unix_ms() + 3_600_000, wall + 1_000);
}

#[tokio::test]
async fn blocking_jobs_answer() {
    assert_eq!(Environment::system().run_blocking(|| 6 * 7).await, 42);
}

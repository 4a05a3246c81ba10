//! Workers, blocking work, clock and randomness inside one deterministic runtime.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tokio::{sync::Notify, time::Instant};

use crate::{
    blocking::BlockingPool,
    clock::Clock,
    random::Random,
    worker::{Control, Next, Worker, WorkerHandle, Workers},
};

/// Wall time at the start of every simulation: 2026-01-01T00:00:00Z.
const EPOCH_MS: u64 = 1_767_225_600_000;
/// Longest delay before a notified worker runs a round, or a blocking job starts: what a scheduler and a disk take.
const DELAY_US_MAX: u64 = 2_000;

/// One simulated machine. Everything it hands out is driven by tokio's time and by one seeded generator, so it belongs
/// to one current-thread runtime with paused time and a seeded scheduler. Cheap to clone.
#[derive(Clone)]
pub struct Simulation {
    random: Arc<SeededRandom>,
    clock: Arc<SimulatedClock>,
}

impl Simulation {
    /// Must be called inside the runtime that it will run in.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let random = SeededRandom(Mutex::new(StdRng::seed_from_u64(seed)));
        Self { random: Arc::new(random), clock: Arc::new(SimulatedClock::start()) }
    }

    /// The wall clock, to be set off by a test.
    #[must_use]
    pub fn clock(&self) -> Arc<SimulatedClock> {
        self.clock.clone()
    }

    pub(crate) fn random(&self) -> Arc<SeededRandom> {
        self.random.clone()
    }

    pub(crate) fn workers(&self) -> Arc<InlineWorkers> {
        Arc::new(InlineWorkers(self.random.clone()))
    }

    pub(crate) fn blocking(&self) -> Arc<InlineBlocking> {
        Arc::new(InlineBlocking(self.random.clone()))
    }
}

pub(crate) struct SeededRandom(Mutex<StdRng>);

impl SeededRandom {
    fn delay(&self) -> Duration {
        Duration::from_micros(self.0.lock().random_range(0..=DELAY_US_MAX))
    }
}

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().fill_bytes(bytes);
    }
}

/// tokio's time as a clock; the wall clock can be set off from it.
pub struct SimulatedClock {
    origin: Instant,
    offset_ms: AtomicI64,
}

impl SimulatedClock {
    fn start() -> Self {
        Self { origin: Instant::now(), offset_ms: AtomicI64::new(0) }
    }

    /// Moves the wall clock by `ms` from where it is; the monotonic clock does not see it.
    pub fn jump_ms(&self, ms: i64) {
        self.offset_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for SimulatedClock {
    fn unix_ms(&self) -> u64 {
        let elapsed_ms = u64::try_from(self.monotonic().as_millis()).unwrap_or(u64::MAX);
        (EPOCH_MS + elapsed_ms).saturating_add_signed(self.offset_ms.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }
}

/// Rounds of workers as steps of tasks.
pub(crate) struct InlineWorkers(Arc<SeededRandom>);

impl Workers for InlineWorkers {
    fn start(&self, _name: &'static str, worker: Box<dyn Worker>) -> io::Result<WorkerHandle> {
        let control = Arc::new(InlineWorker {
            worker: Mutex::new(Some(worker)),
            wake: Notify::new(),
            running: AtomicBool::new(false),
        });
        let (own, random) = (control.clone(), self.0.clone());
        #[expect(clippy::disallowed_methods, reason = "a worker is seen through its handle, as a thread is")]
        drop(tokio::spawn(async move { own.run(&random).await }));
        Ok(WorkerHandle(control))
    }

    fn parallelism(&self) -> usize {
        1
    }
}

struct InlineWorker {
    /// None once it has ended.
    worker: Mutex<Option<Box<dyn Worker>>>,
    wake: Notify,
    running: AtomicBool,
}

impl InlineWorker {
    async fn run(&self, random: &SeededRandom) {
        loop {
            match self.round() {
                Next::Now => tokio::task::yield_now().await,
                Next::Notified => {
                    self.wake.notified().await;
                    tokio::time::sleep(random.delay()).await;
                }
                Next::Within(time) => {
                    if tokio::time::timeout(time, self.wake.notified()).await.is_ok() {
                        tokio::time::sleep(random.delay()).await;
                    }
                }
                Next::End => return,
            }
        }
    }

    fn round(&self) -> Next {
        let mut slot = self.worker.lock();
        let Some(worker) = &mut *slot else { return Next::End };
        self.running.store(true, Ordering::Relaxed);
        let next = worker.run_round();
        self.running.store(false, Ordering::Relaxed);
        if next == Next::End {
            *slot = None;
        }
        next
    }
}

impl Control for InlineWorker {
    fn notify(&self) {
        self.wake.notify_one();
    }

    /// All rounds run on the runtime's one thread, so a round that runs is the caller's own.
    fn is_current(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// Runs what is left of the worker inline: nobody else could, because the caller holds the only thread.
    fn join(&self) {
        while self.round() != Next::End {}
        self.wake.notify_one();
    }
}

/// Blocking jobs as tasks that do not yield.
pub(crate) struct InlineBlocking(Arc<SeededRandom>);

impl BlockingPool for InlineBlocking {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        let delay = self.0.delay();
        #[expect(clippy::disallowed_methods, reason = "the job answers through a channel of its own")]
        drop(tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            job();
        }));
    }
}

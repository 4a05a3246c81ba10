//! The seams of time, randomness, threads and blocking work.
//!
//! Nothing below the composition root starts a thread, reads a clock or draws randomness except through an
//! [`Environment`] handed to its constructor. [`Environment::system`] is the machine's own;
//! [`Environment::simulated`] runs everything inside one deterministic tokio runtime. Sleeping and spawning tasks
//! inside async code go through tokio itself, whose time and scheduler a simulation owns.

mod blocking;
mod clock;
mod planted;
mod random;
mod simulated;
mod worker;

use std::{io, sync::Arc};

#[cfg(feature = "planted-bugs")]
pub use self::planted::plant;
pub use self::{
    blocking::BlockingPool,
    clock::Clock,
    planted::{Bug, planted},
    random::Random,
    simulated::{SimulatedClock, Simulation},
    worker::{Next, Worker, WorkerHandle, Workers},
};

/// The machine as a node sees it. Cheap to clone.
#[derive(Clone)]
pub struct Environment {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    workers: Arc<dyn Workers>,
    blocking: Arc<dyn BlockingPool>,
}

impl Environment {
    /// The machine's clocks, its random numbers, threads of the operating system and tokio's pool for blocking work.
    #[must_use]
    pub fn system() -> Self {
        Self {
            clock: Arc::new(clock::SystemClock::start()),
            random: Arc::new(random::SystemRandom),
            workers: Arc::new(worker::Threads),
            blocking: Arc::new(blocking::TokioBlocking),
        }
    }

    /// Everything from one seed, inside the current-thread tokio runtime that calls: see [`Simulation`].
    #[must_use]
    pub fn simulated(simulation: &Simulation) -> Self {
        Self {
            clock: simulation.clock(),
            random: simulation.random(),
            workers: simulation.workers(),
            blocking: simulation.blocking(),
        }
    }

    /// The same environment with another clock, for tests of time.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The same environment with other random numbers, for tests of formats.
    #[must_use]
    pub fn with_random(mut self, random: Arc<dyn Random>) -> Self {
        self.random = random;
        self
    }

    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    #[must_use]
    pub fn random(&self) -> &Arc<dyn Random> {
        &self.random
    }

    /// Upper bound of workers that run at the same time; 1 in a simulation, where a worker must never wait for
    /// another one.
    #[must_use]
    pub fn parallelism(&self) -> usize {
        self.workers.parallelism()
    }

    /// Starts `worker`, which runs until it answers [`Next::End`].
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start_worker(&self, name: &'static str, worker: Box<dyn Worker>) -> io::Result<WorkerHandle> {
        self.workers.start(name, worker)
    }

    /// Runs `job`, which may block, off the runtime's own threads. Must be called inside a tokio runtime. Dropping the
    /// future does not cancel the job.
    ///
    /// A job that the runtime drops while it shuts down never answers: the caller is being dropped as well.
    pub async fn run_blocking<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.blocking.run(Box::new(move || {
            // Nobody waits any more: the caller was cancelled, and the job's effect is what it is.
            drop(answer.send(job()));
        }));
        match answered.await {
            Ok(value) => value,
            Err(_) => std::future::pending().await,
        }
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment").field("parallelism", &self.parallelism()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

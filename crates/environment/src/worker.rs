//! The seam of threads: a worker does one round of what is ready, and says when the next one is due.
//!
//! A worker never waits inside a round for another worker. In production each worker has a thread that parks between
//! rounds; a simulation runs the rounds inline, in an order that the seed decides.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle, ThreadId},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

/// Condition of a worker's next round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At once.
    Now,
    /// At the next [`WorkerHandle::notify`]; at once if it was called since the round began.
    Notified,
    /// The same, and after this time at the latest.
    Within(Duration),
    /// Never: the worker is done.
    End,
}

/// A loop that an [`Environment`](crate::Environment) drives.
pub trait Worker: Send + 'static {
    /// Does what is ready and returns. Dropped after it answered [`Next::End`].
    fn run_round(&mut self) -> Next;
}

/// Starts workers.
pub trait Workers: Send + Sync + 'static {
    /// # Errors
    /// If the operating system gives no thread.
    fn start(&self, name: &'static str, worker: Box<dyn Worker>) -> io::Result<WorkerHandle>;

    /// Upper bound of workers that run at the same time.
    fn parallelism(&self) -> usize;
}

/// The other side of a running worker. Cheap to clone; dropping it does not end the worker.
#[derive(Clone)]
pub struct WorkerHandle(pub(crate) Arc<dyn Control>);

pub(crate) trait Control: Send + Sync + 'static {
    fn notify(&self);
    fn is_current(&self) -> bool;
    fn join(&self);
}

impl WorkerHandle {
    /// Makes the worker run a round soon. A notification during a round is kept for the next one.
    pub fn notify(&self) {
        self.0.notify();
    }

    /// True inside a round of this worker.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.0.is_current()
    }

    /// Waits until the worker has ended; the caller has told it to end and notified it. Blocking.
    ///
    /// Returns at once inside a round of the worker itself.
    pub fn join(&self) {
        if !self.is_current() {
            self.0.join();
        }
    }
}

/// A thread per worker.
pub(crate) struct Threads;

/// As many syncs and rounds as there may be at once: threads mostly wait for the disk, so this is not the number of
/// processors.
const PARALLELISM: usize = 8;

impl Workers for Threads {
    fn start(&self, name: &'static str, mut worker: Box<dyn Worker>) -> io::Result<WorkerHandle> {
        let parked = Arc::new(Parked::default());
        let own = parked.clone();
        let run = move || {
            loop {
                match worker.run_round() {
                    Next::Now => {}
                    Next::Notified => own.wait(None),
                    Next::Within(time) => own.wait(Some(time)),
                    Next::End => return,
                }
            }
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        let id = thread.thread().id();
        Ok(WorkerHandle(Arc::new(Thread { name, parked, id, thread: Mutex::new(Some(thread)) })))
    }

    fn parallelism(&self) -> usize {
        PARALLELISM
    }
}

#[derive(Default)]
struct Parked {
    state: Mutex<ParkState>,
    wake: Condvar,
}

#[derive(Default)]
struct ParkState {
    notified: bool,
    waiting: bool,
}

impl Parked {
    fn wait(&self, time: Option<Duration>) {
        let deadline = time.map(|time| Instant::now() + time);
        let mut state = self.state.lock();
        state.waiting = true;
        while !state.notified {
            match deadline {
                None => self.wake.wait(&mut state),
                Some(deadline) => {
                    if self.wake.wait_until(&mut state, deadline).timed_out() {
                        break;
                    }
                }
            }
        }
        state.waiting = false;
        state.notified = false;
    }

    /// Costs no system call while the worker runs.
    fn notify(&self) {
        let mut state = self.state.lock();
        state.notified = true;
        if state.waiting {
            self.wake.notify_one();
        }
    }
}

struct Thread {
    name: &'static str,
    parked: Arc<Parked>,
    id: ThreadId,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Control for Thread {
    fn notify(&self) {
        self.parked.notify();
    }

    fn is_current(&self) -> bool {
        thread::current().id() == self.id
    }

    fn join(&self) {
        // Held while joining, so that nobody returns from here before the thread has ended.
        let mut thread = self.thread.lock();
        if thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(worker = self.name, "a worker panicked; its work has stopped");
        }
    }
}

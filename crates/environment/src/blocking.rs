//! The seam of work that may block.

/// Runs jobs that may block away from the tasks that wait for them.
pub trait BlockingPool: Send + Sync + 'static {
    /// Runs `job` once, soon. Called inside a tokio runtime.
    fn run(&self, job: Box<dyn FnOnce() + Send>);
}

/// Tokio's pool of blocking threads.
pub(crate) struct TokioBlocking;

impl BlockingPool for TokioBlocking {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        // The job answers through a channel of its own; its handle has nothing to say.
        drop(tokio::task::spawn_blocking(job));
    }
}

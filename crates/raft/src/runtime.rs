//! The runtime under openraft: tokio, with a random number generator that a simulation can seed.
//!
//! openraft draws election timeouts through a static function, so the seed of a simulation lives in the thread that
//! runs the simulation. A production thread never has one.

use std::{cell::RefCell, convert::Infallible, io, time::Duration};

use openraft::{OptionalSend, async_runtime::AsyncRuntime, impls::TokioRuntime};
use rand::{Rng, SeedableRng, TryRng, rngs::StdRng};

thread_local! {
    /// Some in the thread of a simulation.
    static SIMULATED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// Draws all further election timeouts of groups that run on this thread from `seed`. For the current-thread runtime
/// of a simulation.
pub fn seed_elections(seed: u64) {
    SIMULATED.set(Some(StdRng::seed_from_u64(seed)));
}

/// The generator of the thread: a simulation's if it was seeded, else the operating system's.
pub(crate) struct ElectionRng;

impl TryRng for ElectionRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(draw(|rng| rng.next_u32()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(draw(|rng| rng.next_u64()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        draw(|rng| rng.fill_bytes(bytes));
        Ok(())
    }
}

fn draw<T>(from: impl FnOnce(&mut dyn Rng) -> T) -> T {
    SIMULATED.with_borrow_mut(|simulated| match simulated {
        Some(seeded) => from(seeded),
        None => from(&mut rand::rng()),
    })
}

/// tokio as openraft's runtime.
pub(crate) struct GroupRuntime(TokioRuntime);

impl std::fmt::Debug for GroupRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl AsyncRuntime for GroupRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = ElectionRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        ElectionRng
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    /// On tokio's pool; openraft's default starts a thread for each call.
    async fn spawn_blocking<F, T>(job: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        tokio::task::spawn_blocking(job).await.map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    #[test]
    fn a_seeded_thread_repeats_its_election_timeouts() {
        let draw = |seed| {
            seed_elections(seed);
            [(); 4].map(|()| GroupRuntime::thread_rng().random_range(300..600_u64))
        };
        let first = draw(1);
        assert_eq!(draw(1), first);
        assert_ne!(draw(2), first);
    }
}

//! Waiting for something to become true, never for time to pass.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::bail;

/// Looks again and again until `look` gives a value or `deadline` has passed; the last refusal is in the error.
///
/// # Errors
/// At the deadline.
pub async fn eventually<T, F, Looking>(what: &str, deadline: Duration, mut look: F) -> anyhow::Result<T>
where
    F: FnMut() -> Looking,
    Looking: Future<Output = anyhow::Result<T>>,
{
    let started = Instant::now();
    let mut pause = tokio::time::interval(Duration::from_millis(10));
    loop {
        pause.tick().await;
        match look().await {
            Ok(value) => return Ok(value),
            Err(refusal) if started.elapsed() > deadline => {
                bail!("{what} did not happen within {deadline:?}: {refusal:#}")
            }
            Err(_) => {}
        }
    }
}

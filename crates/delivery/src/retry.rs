//! When the next attempt is due: exponential backoff with full jitter. Pure: randomness is passed in.
//!
//! Full jitter spreads what failed together over the whole delay, so that a sink that comes back is not hit by
//! everybody at once.

use std::time::Duration;

use crate::RetryPolicy;

/// What a sink may ask for at most, whatever its `Retry-After` says.
const AFTER_MS_MAX: u64 = 60 * 60 * 1000;
/// Growth from probe to probe of a sink that is down.
const PROBE_FACTOR: f64 = 2.0;

/// Delay before the attempt that follows `failures` failed ones; not earlier than the sink asked for.
pub(crate) fn retry_delay_ms(
    policy: &RetryPolicy,
    failures: u32,
    asked: Option<Duration>,
    random: u64,
) -> u64 {
    let ceiling = ceiling_ms(policy.initial_ms, policy.max_ms, policy.factor, failures);
    jitter(ceiling, random).max(asked_ms(asked))
}

/// Delay before probing a sink again that has failed `probes` probes since it went down.
/// At least half of the backoff: a probe that comes at once tells nothing.
pub(crate) fn probe_delay_ms(policy: &RetryPolicy, probes: u32, asked: Option<Duration>, random: u64) -> u64 {
    let ceiling =
        ceiling_ms(policy.probe_initial_ms, policy.probe_max_ms, PROBE_FACTOR, probes.saturating_add(1));
    let half = ceiling / 2;
    (half + jitter(ceiling - half, random)).max(asked_ms(asked))
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a delay is clamped to its maximum, and a float cast saturates"
)]
fn ceiling_ms(initial_ms: u64, max_ms: u64, factor: f64, failures: u32) -> u64 {
    let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
    ((initial_ms as f64 * factor.powi(exponent)) as u64).min(max_ms)
}

/// Uniform in 0..=ceiling.
fn jitter(ceiling: u64, random: u64) -> u64 {
    let scaled = ((u128::from(ceiling) + 1) * u128::from(random)) >> 64;
    u64::try_from(scaled).expect("a part of a u64 is a u64")
}

fn asked_ms(asked: Option<Duration>) -> u64 {
    asked.map_or(0, |asked| u64::try_from(asked.as_millis()).unwrap_or(u64::MAX).min(AFTER_MS_MAX))
}

#[cfg(test)]
mod tests;

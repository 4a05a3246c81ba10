//! Delays before the next attempt: exponential backoff with full jitter. Pure: randomness is passed in.
//!
//! Full jitter spreads simultaneous failures over the whole delay, so that a recovering sink does not get all retries
//! at once (M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).

use std::time::Duration;

use crate::RetryPolicy;

/// Upper bound of a delay that a sink asks for.
const RETRY_AFTER_MS_MAX: u64 = 60 * 60 * 1000;
/// Growth from probe to probe of a sink that is down.
const PROBE_FACTOR: f64 = 2.0;

/// Delay before the attempt that follows `failures` failed ones, at least `retry_after`.
pub(crate) fn retry_delay_ms(
    policy: &RetryPolicy,
    failures: u32,
    retry_after: Option<Duration>,
    random: u64,
) -> u64 {
    let ceiling = ceiling_ms(policy.initial_ms, policy.max_ms, policy.factor, failures);
    jitter(ceiling, random).max(retry_after_ms(retry_after))
}

/// Delay before the next probe of a sink that has failed `probes` probes since it went down, at least `retry_after` and
/// half of the backoff: an immediate probe tells nothing.
pub(crate) fn probe_delay_ms(
    policy: &RetryPolicy,
    probes: u32,
    retry_after: Option<Duration>,
    random: u64,
) -> u64 {
    let ceiling =
        ceiling_ms(policy.probe_initial_ms, policy.probe_max_ms, PROBE_FACTOR, probes.saturating_add(1));
    let half = ceiling / 2;
    (half + jitter(ceiling - half, random)).max(retry_after_ms(retry_after))
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

/// The delay that a sink asks for, at most an hour.
pub(crate) fn retry_after_ms(retry_after: Option<Duration>) -> u64 {
    retry_after
        .map_or(0, |delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX).min(RETRY_AFTER_MS_MAX))
}

#[cfg(test)]
mod tests;

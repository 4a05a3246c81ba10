//! The pause of a sink after an answer that takes it down or throttles it.

use std::time::Duration;

use super::CircuitBreaker;
use crate::{
    RetryPolicy,
    backoff::{probe_delay_ms, retry_after_ms},
};

/// Everything that the length of a pause depends on but the probes that have failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause<'a> {
    /// Monotonic.
    pub(crate) now_ms: u64,
    pub(crate) retry: &'a RetryPolicy,
    /// The delay that the sink asks for.
    pub(crate) after: Option<Duration>,
    pub(crate) random: u64,
}

impl Pause<'_> {
    /// The sink is down.
    pub(crate) fn trip(self, breaker: &mut CircuitBreaker) {
        let Self { now_ms, retry, after, random } = self;
        breaker.name_time(now_ms + retry_after_ms(after));
        breaker.trip(now_ms, |probes| probe_delay_ms(retry, probes, after, random));
    }

    /// The sink asks for a slower pace: a time that it names is kept exactly.
    pub(crate) fn throttle(self, breaker: &mut CircuitBreaker) {
        let Self { now_ms, retry, after, random } = self;
        breaker.name_time(now_ms + retry_after_ms(after));
        breaker.throttle(now_ms, |probes| match after {
            Some(_) => retry_after_ms(after),
            None => probe_delay_ms(retry, probes, None, random),
        });
    }
}

//! A limit of requests per second, as a token bucket that is known by one time (the generic cell rate algorithm of
//! ITU-T I.371). Pure.

/// Requests that may come at once after a pause, as time at the limit's rate. Above the resolution of timers, so that a
/// high rate is reached.
const BURST_US: u64 = 100_000;

#[derive(Clone, Debug)]
pub(super) struct RateLimit {
    /// Time of one request at the limit's rate, in microseconds.
    interval_us: u64,
    /// Time at which the bucket is full again.
    full_at_us: u64,
}

impl RateLimit {
    /// # Panics
    /// If no request per second is allowed.
    pub(super) fn new(requests_per_second: u32) -> Self {
        Self { interval_us: (1_000_000 / u64::from(requests_per_second)).max(1), full_at_us: 0 }
    }

    /// The time from which on a request is allowed.
    pub(super) fn next_ms(&self) -> u64 {
        // A bucket of at least one request.
        let depth_us = BURST_US.max(self.interval_us);
        (self.full_at_us + self.interval_us).saturating_sub(depth_us).div_ceil(1_000)
    }

    /// Takes the token of one request.
    pub(super) fn take(&mut self, now_ms: u64) {
        self.full_at_us = self.full_at_us.max(now_ms * 1_000) + self.interval_us;
    }

    /// The same requests under another limit.
    pub(super) fn with_rate(&self, requests_per_second: u32) -> Self {
        let rate = Self::new(requests_per_second);
        if rate.interval_us == self.interval_us { self.clone() } else { rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests of a second, each at the time that the limit names.
    fn requests_of_a_second(requests_per_second: u32, from_ms: u64) -> usize {
        let mut limit = RateLimit::new(requests_per_second);
        let mut count = 0;
        let mut now_ms = from_ms;
        while now_ms < from_ms + 1_000 {
            limit.take(now_ms);
            count += 1;
            now_ms = now_ms.max(limit.next_ms());
        }
        count
    }

    #[test]
    fn rate_is_reached_and_exceeded_by_a_tenth_of_a_second_at_most() {
        for (rate, most) in [(1, 1), (2, 2), (10, 11), (50, 55), (1_000, 1_100), (100_000, 110_000)] {
            for from_ms in [0, 5, 1_000_000] {
                let count = requests_of_a_second(rate, from_ms);
                assert!(count >= rate as usize && count <= most, "{count} requests at a rate of {rate}");
            }
        }
    }

    #[test]
    fn next_request_has_a_time_until_which_nothing_need_be_asked() {
        let mut limit = RateLimit::new(4);
        assert_eq!(limit.next_ms(), 0);
        limit.take(10_000);
        assert_eq!(limit.next_ms(), 10_250);
        limit.take(10_250);
        assert_eq!(limit.next_ms(), 10_500);
        assert_eq!(limit.with_rate(4).next_ms(), 10_500, "the same rate goes on");
        assert_eq!(limit.with_rate(8).next_ms(), 0, "another one begins anew");
    }
}

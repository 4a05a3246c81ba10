//! Concurrent requests that a sink gets: slow start after an outage, additive increase and multiplicative decrease under
//! throttling (RFC 5681, sections 3.1 and 3.2, with requests for segments). Pure.

/// Share of the limit that is left when the sink throttles.
const DECREASE: usize = 4;
/// Deliveries per place of the limit before it grows by one. A sink that throttles is met at its limit rarely.
const DELIVERIES_PER_INCREASE: usize = 8;

#[derive(Clone, Debug)]
pub(super) struct Concurrency {
    max: usize,
    limit: usize,
    /// Below, the limit grows with each delivery.
    slow_start_to: usize,
    /// Deliveries since the limit grew.
    delivered: usize,
    in_flight: usize,
}

impl Concurrency {
    pub(super) fn new(max: usize) -> Self {
        Self { max, limit: max, slow_start_to: max, delivered: 0, in_flight: 0 }
    }

    /// Another maximum. A limit that was at the old one is at the new one.
    pub(super) fn set_max(&mut self, max: usize) {
        self.limit = if self.limit >= self.max { max } else { self.limit.min(max) };
        self.slow_start_to = if self.slow_start_to >= self.max { max } else { self.slow_start_to.min(max) };
        self.max = max;
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.in_flight >= self.limit
    }

    pub(super) fn begin(&mut self) {
        self.in_flight += 1;
    }

    /// # Panics
    /// If more attempts end than began.
    pub(super) fn end(&mut self) {
        self.in_flight = self.in_flight.checked_sub(1).expect("an attempt that ends has begun");
    }

    pub(super) fn delivered(&mut self) {
        if self.limit >= self.max {
            return;
        }
        self.delivered += 1;
        let due = if self.limit < self.slow_start_to { 1 } else { self.limit * DELIVERIES_PER_INCREASE };
        if self.delivered >= due {
            (self.limit, self.delivered) = (self.limit + 1, 0);
        }
    }

    pub(super) fn throttled(&mut self) {
        self.slow_start_to = (self.limit / DECREASE).max(1);
        (self.limit, self.delivered) = (self.slow_start_to, 0);
    }

    /// The sink is down: it is met again with one request, then two, and so on.
    pub(super) fn restart(&mut self) {
        (self.limit, self.slow_start_to, self.delivered) = (1, self.max, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_grows_with_each_delivery_after_an_outage_and_slowly_under_throttling() {
        let mut concurrency = Concurrency::new(64);
        concurrency.restart();
        assert_eq!(concurrency.limit, 1);
        (0..63).for_each(|_| concurrency.delivered());
        assert_eq!(concurrency.limit, 64);
        concurrency.throttled();
        assert_eq!(concurrency.limit, 16);
        (0..16 * 8).for_each(|_| concurrency.delivered());
        assert_eq!(concurrency.limit, 17);
        (0..4).for_each(|_| concurrency.throttled());
        assert_eq!(concurrency.limit, 1, "one request is always allowed");
        concurrency.set_max(8);
        assert_eq!(concurrency.limit, 1, "throttling stays");
        concurrency.restart();
        (0..20).for_each(|_| concurrency.delivered());
        assert_eq!(concurrency.limit, 8);
        concurrency.set_max(16);
        assert_eq!(concurrency.limit, 16);
        concurrency.set_max(1);
        concurrency.begin();
        assert!(concurrency.is_used_up());
        concurrency.end();
        assert!(!concurrency.is_used_up());
    }
}

//! Latencies of a run, and how they are shown.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::output::OutputFields;

const LONGEST_MICROS: u64 = 600_000_000;

/// Latencies in microseconds, to three digits.
#[derive(Clone, Debug)]
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_MICROS, 3).expect("the bounds are valid"))
    }

    /// Anything longer than ten minutes counts as ten minutes.
    pub(super) fn record(&mut self, latency: Duration, times: u64) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record_n(micros.max(1), times);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("the bounds are the same");
    }

    /// Milliseconds; None where nothing was measured.
    pub(super) fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        self.millis(self.0.value_at_quantile(quantile))
    }

    fn millis(&self, micros: u64) -> Option<f64> {
        (!self.0.is_empty()).then_some(micros as f64 / 1000.0)
    }

    /// Milliseconds at p50, p90, p99, p99.9 and the maximum; null where nothing was measured.
    pub(super) fn fields(&self) -> OutputFields {
        OutputFields::new()
            .with("p50Ms", &self.quantile_ms(0.5))
            .with("p90Ms", &self.quantile_ms(0.9))
            .with("p99Ms", &self.quantile_ms(0.99))
            .with("p999Ms", &self.quantile_ms(0.999))
            .with("maxMs", &self.millis(self.0.max()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::output::json_text;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let (mut low, mut high) = (Latencies::new(), Latencies::new());
        let fields = |latencies: &Latencies| -> Value {
            serde_json::from_str(&json_text(&latencies.fields())).unwrap()
        };
        assert_eq!(fields(&low)["p50Ms"], Value::Null);
        low.record(Duration::from_millis(1), 98);
        high.record(Duration::from_millis(50), 1);
        high.record(Duration::from_secs(3600), 1);
        low.add(&high);
        let fields = fields(&low);
        let near = |name: &str, expected: f64| (fields[name].as_f64().unwrap() / expected - 1.0).abs() < 0.01;
        assert!(near("p50Ms", 1.0) && near("p90Ms", 1.0) && near("p99Ms", 50.0), "{fields:?}");
        assert!(near("maxMs", 600_000.0), "{fields:?}");
    }
}

use proptest::prelude::*;

use super::*;

const POLICY: RetryPolicy = RetryPolicy {
    initial_ms: 1_000,
    max_ms: 60_000,
    factor: 2.0,
    attempts_max: None,
    rejections_min: 10,
    rejected_for_min_ms: 600_000,
    probe_initial_ms: 500,
    probe_max_ms: 10_000,
};

#[test]
fn ceiling_doubles_until_the_maximum() {
    let table = [(1, 1_000), (2, 2_000), (3, 4_000), (6, 32_000), (7, 60_000), (u32::MAX, 60_000)];
    for (failures, ceiling) in table {
        assert_eq!(retry_delay_ms(&POLICY, failures, None, u64::MAX), ceiling, "{failures} failures");
        assert_eq!(retry_delay_ms(&POLICY, failures, None, 0), 0, "{failures} failures");
        assert_eq!(
            retry_delay_ms(&POLICY, failures, None, u64::MAX / 2 + 1),
            ceiling / 2,
            "{failures} failures"
        );
    }
}

#[test]
fn retry_after_is_a_lower_bound_of_at_most_an_hour() {
    let retry_after = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(retry_delay_ms(&POLICY, 1, retry_after(7), 0), 7_000);
    assert_eq!(retry_delay_ms(&POLICY, 7, retry_after(7), u64::MAX), 60_000);
    assert_eq!(retry_delay_ms(&POLICY, 1, retry_after(1_000_000), 0), 3_600_000);
    assert_eq!(probe_delay_ms(&POLICY, 0, retry_after(7), 0), 7_000);
}

#[test]
fn probes_have_a_first_and_a_maximal_delay_of_their_own() {
    for (probes, least, most) in [(0, 250, 500), (1, 500, 1_000), (4, 4_000, 8_000), (9, 5_000, 10_000)] {
        assert_eq!(probe_delay_ms(&POLICY, probes, None, 0), least, "{probes} probes");
        assert_eq!(probe_delay_ms(&POLICY, probes, None, u64::MAX), most, "{probes} probes");
    }
}

proptest! {
    #[test]
    fn every_delay_lies_within_its_ceiling(failures in 1u32..200, random: u64, factor in 1.0f64..10.0) {
        let policy = RetryPolicy { factor, ..POLICY };
        prop_assert!(retry_delay_ms(&policy, failures, None, random) <= policy.max_ms);
    }
}

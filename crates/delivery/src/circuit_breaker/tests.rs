use super::*;

const K: KeyHash = KeyHash(1);
const L: KeyHash = KeyHash(2);

fn trip(breaker: &mut Breaker, now_ms: u64) {
    breaker.trip(now_ms, |probes| 100 << probes);
}

#[test]
fn one_failing_key_among_passing_ones_is_poison() {
    let mut breaker = Breaker::default();
    for _ in 0..5 {
        assert_eq!(breaker.failed(K, None), Verdict::Poison);
        assert!(!breaker.passed());
        assert_eq!(breaker.failed(L, None), Verdict::Poison);
        assert!(!breaker.passed());
    }
    assert_eq!(breaker.gate(0), Gate::Open);
}

#[test]
fn a_lone_failing_key_is_poison_however_often_it_fails() {
    let mut breaker = Breaker::default();
    for _ in 0..100 {
        let passes = breaker.passes();
        assert_eq!(breaker.failed(K, Some(passes)), Verdict::Poison);
    }
}

#[test]
fn two_failing_keys_with_nothing_passing_between_are_an_outage_and_the_first_is_not_charged() {
    let mut breaker = Breaker::default();
    assert_eq!(breaker.failed(K, None), Verdict::Poison);
    assert_eq!(breaker.failed(L, None), Verdict::Outage { unspent: Some(K) });
}

#[test]
fn a_key_that_failed_on_both_sides_of_a_pass_accuses_nobody_else() {
    let mut breaker = Breaker::default();
    breaker.failed(K, None);
    let passes = breaker.passes();
    breaker.passed();
    assert_eq!(breaker.failed(K, Some(passes)), Verdict::Poison);
    assert_eq!(breaker.failed(L, None), Verdict::Poison, "K is known poison, L the first suspect");
}

#[test]
fn a_sink_that_is_down_gets_one_probe_at_a_time_with_growing_delays_and_any_pass_opens_the_gate() {
    let mut breaker = Breaker::default();
    trip(&mut breaker, 1_000);
    assert_eq!(breaker.gate(1_000), Gate::Shut { until_ms: Some(1_100) });
    trip(&mut breaker, 1_050);
    assert_eq!(breaker.gate(1_099), Gate::Shut { until_ms: Some(1_100) }, "stragglers change nothing");
    for (now_ms, next_ms) in [(1_100, 1_300), (1_300, 1_700), (1_700, 2_500)] {
        assert_eq!(breaker.gate(now_ms), Gate::Probe);
        breaker.probe_started();
        assert_eq!(breaker.gate(now_ms), Gate::Shut { until_ms: None });
        assert_eq!(breaker.failed(K, None), Verdict::Outage { unspent: None });
        trip(&mut breaker, now_ms);
        assert_eq!(breaker.gate(now_ms), Gate::Shut { until_ms: Some(next_ms) });
    }
    assert!(breaker.is_down_for_long());
    breaker.probe_started();
    assert!(breaker.passed());
    assert_eq!(breaker.gate(2_000), Gate::Open);
    assert!(!breaker.is_down_for_long());
}

#[test]
fn a_probe_that_never_reached_the_sink_may_be_repeated_at_once() {
    let mut breaker = Breaker::default();
    trip(&mut breaker, 0);
    breaker.probe_started();
    breaker.probe_lapsed();
    assert_eq!(breaker.gate(0), Gate::Probe);
}

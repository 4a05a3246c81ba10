use fanfare_sinks::Failure;

use super::*;

const K: KeyHash = KeyHash(1);
const L: KeyHash = KeyHash(2);
const MINUTE_MS: u64 = 60_000;

/// The product's defaults.
pub(crate) const POLICY: RetryPolicy = RetryPolicy {
    initial_ms: 1_000,
    max_ms: 600_000,
    factor: 2.0,
    attempts_max: None,
    rejections_min: RetryPolicy::REJECTIONS_MIN,
    rejected_for_min_ms: RetryPolicy::REJECTED_FOR_MIN_MS,
    probe_initial_ms: 500,
    probe_max_ms: 30_000,
};

fn source(key: KeyHash) -> KeySource {
    KeySource { subscription: SubscriptionId::from_bytes([1; 16]), key }
}

fn why(status: u16) -> Failure {
    Failure { class: "test", status, message: String::new() }
}

fn failure() -> Outcome {
    Outcome::Retry { after: None, why: why(503) }
}

fn rejection() -> Outcome {
    Outcome::Rejected { why: why(400) }
}

fn retry(suspect: bool) -> Verdict {
    Verdict::Retry { after: None, suspect }
}

const TOLD: Verdict = Verdict::SinkDown { after: None, told: true };
const INFERRED: Verdict = Verdict::SinkDown { after: None, told: false };
const HELD: Verdict = Verdict::HoldRejected { outage: false };

/// A breaker and the verdicts on outcomes at it.
struct Bench {
    breaker: CircuitBreaker,
    now_ms: u64,
}

impl Bench {
    fn new() -> Self {
        Self { breaker: CircuitBreaker::new(64), now_ms: 0 }
    }

    fn history(&self, key: KeyHash) -> History {
        History {
            source: source(key),
            now_ms: self.now_ms,
            is_down: self.breaker.is_down(),
            deliveries: self.breaker.deliveries(),
            streak: self.breaker.streak(),
            failed_at_deliveries: None,
            outage_at_deliveries: None,
            rejections: None,
            has_other_keys: true,
        }
    }

    fn judge(&mut self, history: &History, outcome: &Outcome) -> Verdict {
        let verdict = judge(history, outcome, &POLICY);
        self.breaker.record(&verdict, history.source, self.now_ms);
        if matches!(verdict, Verdict::SinkDown { .. } | Verdict::HoldRejected { outage: true }) {
            self.breaker.trip(self.now_ms, |_| 100);
        }
        verdict
    }

    fn fail(&mut self, key: u64) -> Verdict {
        self.judge(&self.history(KeyHash(key)), &failure())
    }

    fn deliver(&mut self, key: KeyHash) {
        assert_eq!(self.judge(&self.history(key), &Outcome::Delivered), Verdict::Deliver);
    }
}

#[test]
fn failing_keys_among_delivering_ones_wait_by_themselves() {
    let mut bench = Bench::new();
    for round in 0..100 {
        for key in 0..5 {
            assert_eq!(bench.fail(round * 5 + key), retry(true));
        }
        bench.deliver(L);
    }
    assert_eq!(bench.breaker.allowed(0), Allowed::Everything);
}

#[test]
fn one_key_alone_takes_no_sink_down_and_is_seen_to_fail() {
    let mut bench = Bench::new();
    for attempt in 0..100 {
        bench.now_ms = attempt * MINUTE_MS;
        assert_eq!(bench.fail(1), retry(true));
    }
    assert!(!bench.breaker.is_down() && bench.breaker.failing_since_ms(bench.now_ms).is_some());
}

#[test]
fn ten_failures_of_three_keys_in_a_row_are_an_outage() {
    let mut bench = Bench::new();
    for failure in 0..9 {
        assert_eq!(bench.fail(failure % 3), retry(true), "{failure}");
    }
    assert_eq!(bench.fail(0), INFERRED);
    assert_eq!(bench.breaker.outage(), Some(Outage::Down));
    assert_eq!(bench.fail(1), TOLD, "an open breaker needs no more proof");
}

#[test]
fn three_failures_of_two_keys_over_some_seconds_are_an_outage() {
    let mut bench = Bench::new();
    for (now_ms, key, verdict) in [(0, 1, retry(true)), (2_000, 2, retry(true)), (5_000, 1, INFERRED)] {
        bench.now_ms = now_ms;
        assert_eq!(bench.fail(key), verdict, "{now_ms}");
    }
}

#[test]
fn a_key_that_failed_on_both_sides_of_a_delivery_says_nothing_of_the_sink() {
    let mut bench = Bench::new();
    bench.deliver(L);
    for _ in 0..100 {
        let history = History { failed_at_deliveries: Some(0), ..bench.history(K) };
        assert_eq!(bench.judge(&history, &failure()), retry(false));
    }
    assert_eq!(bench.breaker.streak(), FailureStreak::default());
}

#[test]
fn an_event_that_takes_the_sink_down_twice_while_others_are_delivered_is_at_fault_itself() {
    let down = Outcome::SinkDown { after: None, why: why(404) };
    let history = History { deliveries: 3, outage_at_deliveries: Some(3), ..Bench::new().history(K) };
    assert_eq!(judge(&history, &down, &POLICY), TOLD, "nothing was delivered since");
    assert_eq!(judge(&History { deliveries: 4, ..history }, &down, &POLICY), retry(false));
    assert_eq!(judge(&History { deliveries: 4, is_down: true, ..history }, &down, &POLICY), TOLD);
}

#[test]
fn throttling_counts_against_nobody() {
    let mut bench = Bench::new();
    let after = Some(Duration::from_secs(1));
    for key in 0..100 {
        let history = bench.history(KeyHash(key));
        let verdict = bench.judge(&history, &Outcome::Throttled { after, why: why(429) });
        assert_eq!(verdict, Verdict::Throttle { after });
    }
    assert_eq!(bench.breaker.streak(), FailureStreak::default());
}

#[test]
fn a_rejection_is_settled_only_after_a_delivery_on_another_key() {
    let mut bench = Bench::new();
    bench.deliver(L);
    assert_eq!(bench.judge(&bench.history(K), &rejection()), HELD, "that delivery was before");
    let first = Rejections { first_ms: 0, count: 1, at_deliveries: 1 };
    let held = History { rejections: Some(first), ..bench.history(K) };
    assert_eq!(bench.judge(&held, &rejection()), HELD);
    let long_held =
        History { now_ms: 600 * MINUTE_MS, rejections: Some(Rejections { count: 99, ..first }), ..held };
    assert_eq!(judge(&long_held, &rejection(), &POLICY), HELD, "other keys may prove more");
    bench.deliver(L);
    let held = History { rejections: Some(first), ..bench.history(K) };
    assert_eq!(bench.judge(&held, &rejection()), Verdict::Reject);
}

#[test]
fn a_rejection_of_the_only_key_is_settled_after_ten_tries_over_ten_minutes() {
    let history = History { has_other_keys: false, ..Bench::new().history(K) };
    for (count, minutes, verdict) in [(8, 60, HELD), (9, 9, HELD), (9, 10, Verdict::Reject)] {
        let rejections = Some(Rejections { first_ms: 0, count, at_deliveries: 0 });
        let history = History { now_ms: minutes * MINUTE_MS, rejections, ..history };
        assert_eq!(judge(&history, &rejection(), &POLICY), verdict, "{count} before, {minutes} min");
    }
}

#[test]
fn a_sink_that_rejects_everything_is_down_for_that_reason() {
    let mut bench = Bench::new();
    for failure in 0..9 {
        let history = bench.history(KeyHash(failure % 3));
        assert_eq!(bench.judge(&history, &rejection()), HELD);
    }
    let history = bench.history(K);
    assert_eq!(bench.judge(&history, &rejection()), Verdict::HoldRejected { outage: true });
    assert_eq!(bench.breaker.outage(), Some(Outage::RejectsEverything));
}

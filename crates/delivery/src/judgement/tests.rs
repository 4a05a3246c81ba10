use super::*;

const K: KeyHash = KeyHash(1);
const L: KeyHash = KeyHash(2);

fn source(key: KeyHash) -> KeySource {
    KeySource { subscription: SubscriptionId::from_bytes([1; 16]), key }
}

/// A breaker and the verdicts on outcomes at it.
#[derive(Default)]
struct Bench {
    breaker: CircuitBreaker,
}

impl Bench {
    fn outcome(&mut self, key: KeyHash, failed_at_passes: Option<u64>, outcome: &Outcome) -> Verdict {
        let history = History {
            source: source(key),
            is_down: self.breaker.is_down(),
            passes: self.breaker.passes(),
            suspect: self.breaker.suspect(),
            failed_at_passes,
            outage_at_passes: None,
        };
        let verdict = judge(&history, outcome);
        self.breaker.record(&verdict, history.source);
        verdict
    }

    fn fail(&mut self, key: KeyHash, failed_at_passes: Option<u64>) -> Verdict {
        self.outcome(key, failed_at_passes, &failure(None))
    }

    fn pass(&mut self) {
        assert_eq!(self.outcome(L, None, &Outcome::Delivered), Verdict::Deliver);
    }
}

fn failure(after: Option<Duration>) -> Outcome {
    Outcome::Retry { after, why: Failure { class: "test", status: 503, message: String::new() } }
}

fn retry(suspect: bool) -> Verdict {
    Verdict::Retry { after: None, suspect }
}

#[test]
fn one_failing_key_among_passing_ones_is_at_fault_itself() {
    let mut bench = Bench::default();
    for _ in 0..5 {
        assert_eq!(bench.fail(K, None), retry(true));
        bench.pass();
        assert_eq!(bench.fail(L, None), retry(true));
        bench.pass();
    }
    assert_eq!(bench.breaker.allowed(0), Allowed::Everything);
}

#[test]
fn a_single_failing_key_is_no_outage_however_often_it_fails() {
    let mut bench = Bench::default();
    for _ in 0..100 {
        let passes = bench.breaker.passes();
        assert_eq!(bench.fail(K, Some(passes)), retry(true));
    }
}

#[test]
fn two_failing_keys_with_no_pass_between_are_an_outage_and_the_first_is_refunded() {
    let mut bench = Bench::default();
    assert_eq!(bench.fail(K, None), retry(true));
    assert_eq!(bench.fail(L, None), Verdict::SinkDown { after: None, refund: Some(source(K)) });
}

#[test]
fn a_key_that_failed_on_both_sides_of_a_pass_is_no_suspect() {
    let mut bench = Bench::default();
    bench.fail(K, None);
    let passes = bench.breaker.passes();
    bench.pass();
    assert_eq!(bench.fail(K, Some(passes)), retry(false));
    assert_eq!(bench.fail(L, None), retry(true), "K is known to be at fault, L is the first suspect");
}

#[test]
fn a_failure_at_an_open_breaker_blames_the_sink_alone() {
    let mut bench = Bench::default();
    bench.breaker.trip(0, |_| 100);
    assert_eq!(bench.fail(K, None), Verdict::SinkDown { after: None, refund: None });
}

#[test]
fn an_event_that_takes_the_sink_down_twice_while_others_pass_is_at_fault_itself() {
    let down =
        Outcome::SinkDown { after: None, why: Failure { class: "test", status: 0, message: String::new() } };
    let history = History {
        source: source(K),
        is_down: false,
        passes: 3,
        suspect: None,
        failed_at_passes: None,
        outage_at_passes: Some(3),
    };
    let sink_down = Verdict::SinkDown { after: None, refund: None };
    assert_eq!(judge(&history, &down), sink_down, "nothing passed since");
    assert_eq!(judge(&History { passes: 4, ..history }, &down), retry(false));
    assert_eq!(judge(&History { passes: 4, is_down: true, ..history }, &down), sink_down);
}

#[test]
fn a_sink_that_asks_for_a_slower_pace_throttles() {
    let after = Duration::from_secs(1);
    let verdict = Bench::default().outcome(K, None, &failure(Some(after)));
    assert_eq!(verdict, Verdict::Throttle { after, suspect: true });
}

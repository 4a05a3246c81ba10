use rand::{SeedableRng, rngs::StdRng};

use super::*;
use fanfare_testkit::FakePublisher;

fn load(rate: Option<u32>, batch: u32, events_max: u64) -> Load {
    Load {
        batch,
        in_flight: 4,
        rate,
        warmup: Duration::from_secs(2),
        measured: Duration::from_millis(8500),
        events_max,
    }
}

#[test]
fn a_run_is_bounded_by_its_time_and_by_its_count() {
    let cases = [
        (load(None, 100, 1000), 10),
        (load(Some(1000), 1, u64::MAX), 10_500),
        (load(Some(1000), 100, u64::MAX), 105),
        (load(Some(1000), 100, 2000), 20),
        (load(Some(1), 100, u64::MAX), 1),
    ];
    for (load, requests) in cases {
        assert_eq!(load.requests(), requests, "{load:?}");
    }
}

/// Runs two producers against the fake; gives what it committed, and the outcome.
async fn run(fake: &FakePublisher, load: Load, ledger: Option<Arc<DeliveryLedger>>) -> LoadResult {
    fake.state().window.events = 1000;
    let client = fake.serve().await;
    let pool = Arc::new(EventPool::generate(&["t"], 12, 640, &mut StdRng::seed_from_u64(1)));
    drive(&[client.clone(), client], load, pool, ledger, &Signals::new()).await.unwrap()
}

fn committed(fake: &FakePublisher) -> usize {
    fake.state().logs.values().map(Vec::len).sum()
}

#[tokio::test]
async fn both_loops_send_every_event_once() {
    for (rate, batch) in [(None, 1), (None, 7), (Some(2000), 1), (Some(4000), 10)] {
        let fake = FakePublisher::default();
        let load = Load { warmup: Duration::ZERO, ..load(rate, batch, 210) };
        let outcome = run(&fake, load, None).await;
        let tally = &outcome.tally;
        assert_eq!((tally.committed, tally.measured, tally.unsent), (210, 210, 0), "{load:?}");
        assert_eq!((committed(&fake), tally.duplicates, tally.errors.len()), (210, 0, 0), "{load:?}");
        assert!(outcome.events_per_second() > 0.0);
    }
}

#[tokio::test]
async fn the_open_loop_counts_latency_from_when_an_event_was_due() {
    let fake = FakePublisher::default();
    let load = Load { warmup: Duration::ZERO, ..load(Some(100_000), 1, 400) };
    let started = Instant::now();
    let outcome = run(&fake, load, None).await;
    // All are due within 4 ms, but the fake answers nothing before it was quiet for 20 ms.
    let fields: serde_json::Value =
        serde_json::from_str(&crate::output::json_text(&outcome.tally.latencies.fields())).unwrap();
    let median = fields["p50Ms"].as_f64().unwrap();
    assert!(median >= 16.0 && median <= started.elapsed().as_secs_f64() * 1000.0, "{fields}");
}

#[tokio::test]
async fn what_could_not_be_sent_in_time_is_counted() {
    let fake = FakePublisher::default();
    let load =
        Load { warmup: Duration::ZERO, measured: Duration::from_millis(1), ..load(Some(50_000), 1, 50) };
    let outcome = run(&fake, load, None).await;
    let tally = outcome.tally;
    assert_eq!(tally.committed, committed(&fake) as u64);
    assert_eq!(tally.committed + tally.unsent, load.requests());
    assert!(tally.unsent > 0, "the run ends before the first answer opens the window");
}

#[tokio::test]
async fn refusals_are_counted_and_the_account_knows_them() {
    let fake = FakePublisher::default();
    let load = Load { warmup: Duration::ZERO, ..load(None, 5, 100) };
    let ledger = Arc::new(DeliveryLedger::new(100, Instant::now()));
    fake.state().refuse_every = Some(10);
    let outcome = run(&fake, load, Some(ledger.clone())).await;
    let refused: u64 = outcome.tally.errors.values().sum();
    assert!(outcome.tally.errors["OVERLOADED"] >= 1);
    assert_eq!(outcome.tally.committed, 100 - refused);
    assert_eq!(committed(&fake) as u64, outcome.tally.committed);
    assert_eq!(ledger.balance().missing, outcome.tally.committed, "none has arrived");
}

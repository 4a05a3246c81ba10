use super::{dead_letters::dead_letters, *};

const KEYS: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];

/// All numbers below `count` at least once, in order per key, repeats within one window.
fn check_redelivery(delivered: &[Delivered], count: usize, crashes: usize) {
    check_order(delivered);
    let mut each = sorted(delivered);
    each.dedup();
    assert_eq!(each, (0..count).collect::<Vec<_>>());
    let repeats = delivered.len() - count;
    assert!(repeats <= crashes * WINDOW, "{repeats} repeats");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_skips_no_event_and_repeats_at_most_a_window() {
    let mut world = World::new().await;
    let orders = world.subscribe("orders", &["order"]).await;
    for crash in 0..4 {
        world.publish("order", &KEYS, crash * 150..(crash + 1) * 150).await;
        world.delivered("orders", crash * 150 + 40).await;
        world = world.crash().await;
    }
    let stats = world.settled(&orders, 600).await;
    assert_eq!(stats.delivered, 600);
    check_redelivery(&world.sink("orders").delivered(), 600, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backlog_survives_a_crash_during_an_outage() {
    let world = World::new().await;
    let orders = world.subscribe("orders", &["order"]).await;
    world.sink("orders").down();
    world.publish("order", &KEYS, 0..200).await;
    world.stats_when(&orders, |stats| stats.matched == 200 && stats.state == State::SinkDown).await;
    let world = world.crash().await;
    world.publish("order", &KEYS, 200..250).await;
    world.sink("orders").up();
    assert_eq!(world.settled(&orders, 250).await.delivered, 250);
    check_redelivery(&world.sink("orders").delivered(), 250, 0);
}

/// Waits until an advance says that the sink of the subscription is not sent to.
async fn outage_is_replicated(world: &World, orders: &Subscription) {
    let replicated = async {
        let mut ticks = interval(Duration::from_millis(2));
        loop {
            ticks.tick().await;
            let records = world.events.iter().filter_map(|partition| partition.progress(orders.id)?.1);
            if records.filter_map(|record| record.outage).count() > 0 {
                return;
            }
        }
    };
    timeout(DEADLINE, replicated).await.expect("the outage is replicated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_in_an_outage_begins_with_one_probe() {
    let world = World::new().await;
    let orders = world.subscribe("orders", &["order"]).await;
    let sink = world.sink("orders");
    sink.down();
    world.publish("order", &KEYS, 0..200).await;
    world.stats_when(&orders, |stats| stats.matched == 200 && stats.state == State::SinkDown).await;
    outage_is_replicated(&world, &orders).await;
    sink.hang();
    let world = world.crash().await;
    let before = sink.attempts().started;
    timeout(DEADLINE, sink.attempts_when(|attempts| attempts.running > 0)).await.expect("the sink is probed");
    // The probe hangs: whatever comes, nothing else is sent.
    world.publish("order", &KEYS, 200..250).await;
    world.stats_when(&orders, |stats| stats.matched == 250).await;
    assert_eq!((sink.attempts().started - before, sink.attempts().running), (1, 1));
    sink.up();
    assert_eq!(world.settled(&orders, 250).await.delivered, 250);
    check_redelivery(&sink.delivered(), 250, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_goes_before_the_time_that_the_sink_named_be_it_after_a_restart() {
    let world = World::new().await;
    let orders = world.subscribe("orders", &["order"]).await;
    let sink = world.sink("orders");
    let named = Duration::from_secs(2);
    let why = Failure::new(Failure::THROTTLED, "slow down");
    sink.fail_next(1, Answer::Throttled { after: Some(named), why });
    let begun = Instant::now();
    world.publish("order", &KEYS, 0..1).await;
    timeout(DEADLINE, sink.attempts_when(|attempts| attempts.started == 1)).await.expect("one is sent");
    outage_is_replicated(&world, &orders).await;
    let world = world.crash().await;
    world.publish("order", &KEYS, 1..50).await;
    world.stats_when(&orders, |stats| stats.matched == 50).await;
    let early = begun.elapsed() < named;
    assert!(!early || sink.attempts().started == 1, "{:?}", sink.attempts());
    timeout(DEADLINE, sink.attempts_when(|attempts| attempts.started > 1))
        .await
        .expect("it is sent to again");
    assert!(begun.elapsed() >= named, "after {:?}", begun.elapsed());
    assert_eq!(world.settled(&orders, 50).await.delivered, 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_key_and_its_attempts_survive_a_crash() {
    let mut setup = Setup::default();
    setup.delivery.retry.attempts_max = None;
    setup.delivery.retry.initial_ms = 20;
    let world = World::with(setup).await;
    let orders = world.subscribe("orders", &["order"]).await;
    let poison = KeyHash::of("a");
    world.sink("orders").fail_key(poison, busy("no"));
    world.publish("order", &KEYS, 0..180).await;
    world.stats_when(&orders, |stats| (stats.delivered, stats.pending) == (160, 20)).await;
    let parked = async |world: &World| {
        let mut ticks = interval(Duration::from_millis(2));
        loop {
            ticks.tick().await;
            let records = world.events.iter().filter_map(|partition| partition.progress(orders.id)?.1);
            let parked: Vec<_> = records.flat_map(|record| record.parked).collect();
            if let [parked] = parked[..]
                && parked.pending == 20
            {
                return parked;
            }
        }
    };
    let before = timeout(DEADLINE, parked(&world)).await.expect("it is replicated as parked");
    assert_eq!(before.key, poison);
    let world = world.crash().await;
    let after = timeout(DEADLINE, parked(&world)).await.expect("it is still parked");
    assert_eq!(after.from, before.from);
    assert!(after.attempts >= before.attempts);
    world.sink("orders").heal_key(poison);
    assert_eq!(world.settled(&orders, 180).await.delivered, 180);
    check_redelivery(&world.sink("orders").delivered(), 180, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orderly_shutdown_repeats_no_event() {
    let world = World::new().await;
    let orders = world.subscribe("orders", &["order"]).await;
    world.publish("order", &KEYS, 0..400).await;
    world.delivered("orders", 100).await;
    let world = world.restart().await;
    world.settled(&orders, 400).await;
    check_redelivery(&world.sink("orders").delivered(), 400, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_with_a_dead_letter_from_before_a_crash_is_not_delivered_after_it() {
    let mut setup = Setup::default();
    // Outcomes are not replicated before the crash.
    setup.delivery.advance_interval_ms = 600_000;
    let mut world = World::with(setup).await;
    let orders = world.subscribe("orders", &["order"]).await;
    let poison = KeyHash::of("poison");
    world.sink("orders").fail_key(poison, rejected());
    world.publish("order", &["poison"], 0..2).await;
    world.stats_when(&orders, |stats| stats.dead_lettered == 1).await;
    world.sink("orders").heal_key(poison);
    world.stats_when(&orders, |stats| stats.delivered == 1).await;
    // The dedup window of the stream forgets the dead letter.
    world.machine.clock.0.fetch_add(10_000, Ordering::Relaxed);

    world.machine.setup.delivery.advance_interval_ms = 20;
    let world = world.crash().await;
    let after = world.settled(&orders, 2).await;
    assert_eq!((after.delivered, after.reasons), (1, BTreeMap::from([("rejected", 1)])));
    assert_eq!(dead_letters(&world, &orders).await.len(), 1);
    let delivered = numbers(&world.sink("orders").delivered());
    assert!(!delivered.contains(&0), "a dead letter is not delivered: {delivered:?}");
}

use fanfare_sinks::Abilities;

use super::*;

const KEYS: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_matched_event_is_delivered_once_and_in_order_per_key() {
    let world = World::new().await;
    let orders = world.subscribe("orders", &["order"]).await;
    let all = world.subscribe("all", &["order", "refund"]).await;
    world.create_type("other", None).await;
    let leaders = world.leaders();
    for start in (0..600).step_by(60) {
        world.publish("order", &KEYS, start..start + 40).await;
        world.publish("refund", &KEYS, start + 40..start + 50).await;
        world.publish("other", &KEYS, start + 50..start + 60).await;
    }
    let stats = world.settled(&orders, 400).await;
    assert_eq!((stats.delivered, stats.state), (400, State::Active));
    assert_eq!(world.settled(&all, 500).await.delivered, 500);
    // Before the deliveries are looked at: repeats have their cause in the message.
    assert!(!began_anew(&leaders), "deliveries of a partition began anew");
    let delivered = world.sink("orders").delivered();
    check_order(&delivered);
    assert_eq!(sorted(&delivered), (0..600).filter(|number| number % 60 < 40).collect::<Vec<_>>());
    let delivered = world.sink("all").delivered();
    check_order(&delivered);
    assert_eq!(sorted(&delivered), (0..600).filter(|number| number % 60 < 50).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_sink_delays_no_other_subscription() {
    let world = World::new().await;
    let stuck = world.subscribe("stuck", &["order"]).await;
    let free = world.subscribe("free", &["order"]).await;
    world.sink("stuck").hang();
    world.publish("order", &KEYS, 0..300).await;
    assert_eq!(world.settled(&free, 300).await.delivered, 300);
    let stats = world.stats(&stuck);
    assert_eq!((stats.matched, stats.pending), (300, 300));
    assert_eq!(world.sink("stuck").attempts().started, KEYS.len(), "one attempt per key at a time");
    world.sink("stuck").up();
    assert_eq!(world.settled(&stuck, 300).await.delivered, 300);
    check_order(&world.sink("stuck").delivered());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_gets_at_most_its_limit_of_concurrent_requests() {
    let world = World::new().await;
    let sink = world.create_sink("shared").await;
    world.create_type("order", None).await;
    let one = world.subscribe_to(&sink, &["order"], StartAt::Next).await;
    let other = world.subscribe_to(&sink, &["order"], StartAt::Next).await;
    let keys: Vec<String> = (0..100).map(|key| key.to_string()).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    world.sink("shared").hang();
    world.publish("order", &keys, 0..100).await;
    let attempts =
        timeout(DEADLINE, world.sink("shared").attempts_when(|attempts| attempts.running == 8)).await;
    assert_eq!(attempts.unwrap().started, 8);
    world.sink("shared").up();
    world.settled(&one, 100).await;
    world.settled(&other, 100).await;
    assert_eq!(world.sink("shared").attempts().running_max, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_keep_the_order_of_each_key_when_events_of_them_fail() {
    let world = World::new().await;
    let batched = world.subscribe("batched", &["order"]).await;
    let sink = world.sink("batched");
    sink.set_abilities(Abilities {
        batch_events_max: 5,
        batch_bytes_max: 1 << 20,
        event_bytes_max: 1 << 20,
        keeps_key_order_in_batch: true,
        atomic_batch: false,
    });
    sink.fail_next(9, busy("later"));
    world.publish("order", &KEYS[..3], 0..200).await;
    assert_eq!(world.settled(&batched, 200).await.delivered, 200);
    let delivered = sink.delivered();
    let mut each = numbers(&delivered);
    each.sort_unstable();
    each.dedup();
    assert_eq!(each, (0..200).collect::<Vec<_>>());
    assert!(sink.attempts().started < 100, "batches of up to five");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_from_the_earliest_event_reads_the_backlog_and_then_joins_the_fan_out() {
    let world = World::new().await;
    world.create_type("order", None).await;
    world.publish("order", &KEYS, 0..250).await;
    let sink = world.create_sink("late").await;
    let late = world.subscribe_to(&sink, &["order"], StartAt::Earliest).await;
    world.publish("order", &KEYS, 250..400).await;
    assert_eq!(world.settled(&late, 400).await.delivered, 400);
    world.publish("order", &KEYS, 400..420).await;
    assert_eq!(world.settled(&late, 420).await.delivered, 420);
    let delivered = world.sink("late").delivered();
    check_order(&delivered);
    assert_eq!(sorted(&delivered), (0..420).collect::<Vec<_>>());
}

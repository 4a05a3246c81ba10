use super::*;

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_holds_everything_spends_no_attempts_and_ends_with_a_probe() {
    let world = World::new().await;
    let held = world.subscribe("held", &["order"]).await;
    let sink = world.sink("held");
    sink.down();
    world.publish("order", &KEYS, 0..300).await;
    let stats = world.stats_when(&held, |stats| stats.matched == 300 && stats.state == State::SinkDown).await;
    assert_eq!((stats.pending, stats.parked_keys), (300, 0));
    assert!(stats.last_failure.contains("connect"), "{}", stats.last_failure);
    let probed = sink.attempts_when(|attempts| attempts.started >= KEYS.len() + 6);
    timeout(DEADLINE, probed).await.expect("it is probed again and again");
    sink.up();
    let stats = world.settled(&held, 300).await;
    assert_eq!((stats.delivered, stats.state, stats.last_failure.as_str()), (300, State::Active, ""));
    let delivered = sink.delivered();
    check_order(&delivered);
    assert_eq!(sorted(&delivered), (0..300).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_refuses_every_key_for_the_time_being_is_down_and_nothing_is_given_up() {
    let world = World::new().await;
    let held = world.subscribe("held", &["order"]).await;
    let sink = world.sink("held");
    for key in KEYS {
        sink.fail_key(KeyHash::of(key), busy("overloaded"));
    }
    world.publish("order", &KEYS, 0..100).await;
    world.stats_when(&held, |stats| stats.state == State::SinkDown).await;
    // Far more probes than an event has attempts.
    let probed = sink.attempts_when(|attempts| attempts.started >= 25);
    timeout(DEADLINE, probed).await.expect("it is probed again and again");
    for key in KEYS {
        sink.heal_key(KeyHash::of(key));
    }
    let stats = world.settled(&held, 100).await;
    assert_eq!((stats.delivered, stats.dead_lettered), (100, 0));
    check_order(&sink.delivered());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_is_down_delays_no_other_subscription() {
    let world = World::new().await;
    let down = world.subscribe("down", &["order"]).await;
    let up = world.subscribe("up", &["order"]).await;
    world.sink("down").down();
    for start in (0..500).step_by(50) {
        world.publish("order", &KEYS, start..start + 50).await;
    }
    assert_eq!(world.settled(&up, 500).await.delivered, 500);
    assert_eq!(world.stats(&down).pending, 500);
    let frontiers = world.events.iter().map(|partition| *partition.positions().borrow());
    let behind: u64 = frontiers.map(|positions| positions.high_watermark.since(positions.frontier)).sum();
    assert_eq!(behind, 0, "the frontier does not wait for anybody");
    world.sink("down").up();
    assert_eq!(world.settled(&down, 500).await.delivered, 500);
}

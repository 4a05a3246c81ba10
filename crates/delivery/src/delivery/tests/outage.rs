use super::*;

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_holds_all_events_counts_no_attempts_and_ends_with_a_probe() {
    let world = World::new().await;
    let held = world.subscribe("held", &["order"]).await;
    let sink = world.sink("held");
    sink.down();
    world.publish("order", &KEYS, 0..300).await;
    let stats = world.stats_when(&held, |stats| stats.matched == 300 && stats.state == State::SinkDown).await;
    assert_eq!(stats.pending, 300);
    assert!(stats.last_failure.contains("connect"), "{}", stats.last_failure);
    let loss = stats.times.first_loss.expect("something is pending");
    let since = stats.times.failing_since.expect("the sink is down");
    assert!(loss > since && stats.times.oldest_pending_age_ms.is_some(), "{stats:?}");
    world.stats_when(&held, |stats| stats.times.next_attempt.is_some_and(|next| next >= since)).await;
    let probed = sink.attempts_when(|attempts| attempts.started >= KEYS.len() + 6);
    timeout(DEADLINE, probed).await.expect("the sink is probed again and again");
    sink.up();
    let stats = world.settled(&held, 300).await;
    assert_eq!((stats.delivered, stats.state, stats.last_failure.as_str()), (300, State::Active, ""));
    assert_eq!(
        (stats.times.failing_since, stats.times.next_attempt, stats.times.first_loss),
        (None, None, None)
    );
    let delivered = sink.delivered();
    check_order(&delivered);
    assert_eq!(sorted(&delivered), (0..300).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_fails_every_key_is_down_and_no_event_is_given_up() {
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
    timeout(DEADLINE, probed).await.expect("the sink is probed again and again");
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
    assert_eq!(behind, 0, "the frontier waits for no subscription");
    world.sink("down").up();
    assert_eq!(world.settled(&down, 500).await.delivered, 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_of_one_sink_share_its_outage_and_all_go_on_when_a_probe_passes() {
    let world = World::new().await;
    world.create_type("order", None).await;
    let sink = world.create_sink("shared").await;
    let one = world.subscribe_to(&sink, &["order"], StartAt::Next).await;
    let other = world.subscribe_to(&sink, &["order"], StartAt::Next).await;
    let shared = world.sink("shared");
    shared.down();
    world.publish("order", &KEYS, 0..100).await;
    for subscription in [&one, &other] {
        world.stats_when(subscription, |stats| stats.matched == 100 && stats.state == State::SinkDown).await;
    }
    let started = shared.attempts_when(|attempts| attempts.started >= 20);
    timeout(DEADLINE, started).await.expect("the sink is probed again and again");
    shared.up();
    for subscription in [&one, &other] {
        let stats = world.settled(subscription, 100).await;
        assert_eq!((stats.delivered, stats.dead_lettered, stats.state), (100, 0, State::Active));
    }
}

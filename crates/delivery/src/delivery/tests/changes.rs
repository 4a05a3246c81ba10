use fanfare_partition::Outcome;

use fanfare_environment::Clock;

use super::*;

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_subscription_holds_its_matches_and_continues_where_it_stopped() {
    let world = World::new().await;
    let orders = world.subscribe("orders", &["order"]).await;
    world.publish("order", &KEYS, 0..20).await;
    world.settled(&orders, 20).await;
    world.catalog.pause_subscription(world.tenant(), orders.id).await.unwrap();
    world.delivery.reconciled(orders.account, orders.id).await.unwrap();
    let started = world.sink("orders").attempts().started;
    world.publish("order", &KEYS, 20..120).await;
    let stats = world.stats_when(&orders, |stats| stats.matched == 120).await;
    assert_eq!((stats.pending, stats.state), (100, State::Paused));
    assert_eq!(world.sink("orders").attempts().started, started);
    world.catalog.resume_subscription(world.tenant(), orders.id).await.unwrap();
    assert_eq!(world.settled(&orders, 120).await.delivered, 120);
    let delivered = world.sink("orders").delivered();
    check_order(&delivered);
    assert_eq!(sorted(&delivered), (0..120).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delete_aborts_running_attempts_and_counts_pending_events_as_cancelled() {
    let world = World::new().await;
    let orders = world.subscribe("orders", &["order"]).await;
    let sink = world.sink("orders");
    world.publish("order", &KEYS, 0..10).await;
    world.stats_when(&orders, |stats| stats.delivered == 10).await;
    sink.hang();
    world.publish("order", &KEYS, 10..110).await;
    timeout(DEADLINE, sink.attempts_when(|attempts| attempts.running == 5)).await.unwrap();
    world.stats_when(&orders, |stats| stats.matched == 110).await;
    world.catalog.delete_subscription(world.tenant(), orders.id).await.unwrap();
    world.delivery.reconciled(orders.account, orders.id).await.unwrap();
    let aborted = timeout(DEADLINE, sink.attempts_when(|attempts| attempts.running == 0)).await.unwrap();
    sink.up();
    world.publish("order", &KEYS, 110..120).await;
    let stats = world.settled(&orders, 110).await;
    assert_eq!((stats.delivered, stats.cancelled), (10, 100));
    assert_eq!(stats.reasons, BTreeMap::from([("deleted", 100)]));
    assert_eq!(sink.attempts().started, aborted.started, "nothing starts after the deletion is confirmed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_matched_before_a_repoint_go_to_the_new_sink() {
    let world = World::new().await;
    let orders = world.subscribe("old", &["order", "refund"]).await;
    let new = world.create_sink("new").await;
    world.sink("old").down();
    world.publish("order", &KEYS, 0..60).await;
    world.publish("refund", &KEYS, 60..120).await;
    world.stats_when(&orders, |stats| stats.matched == 120 && stats.state == State::SinkDown).await;
    let change = subscription(&new, &["order"]);
    world.catalog.update_subscription(world.tenant(), orders.id, change, None).await.unwrap();
    world.delivery.reconciled(orders.account, orders.id).await.unwrap();
    world.publish("refund", &KEYS, 120..140).await;
    world.publish("order", &KEYS, 140..150).await;
    let stats = world.settled(&orders, 130).await;
    assert_eq!(stats.delivered, 130);
    let expected: Vec<_> = (0..120).chain(140..150).collect();
    assert_eq!(sorted(&world.sink("new").delivered()), expected, "refunds matched before are delivered too");
    assert!(world.sink("old").delivered().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_sink_is_used_at_once() {
    let world = World::new().await;
    world.create_type("order", None).await;
    let sink = world.create_sink("wrong").await;
    let orders = world.subscribe_to(&sink, &["order"], StartAt::Next).await;
    world.sink("wrong").down();
    world.publish("order", &KEYS, 0..50).await;
    world.stats_when(&orders, |stats| stats.state == State::SinkDown).await;
    let change = SinkChange { sink: new_sink(webhook("right")), expected_revision: None };
    world.catalog.update_sink(world.tenant(), sink.id, change).await.unwrap();
    assert_eq!(world.settled(&orders, 50).await.delivered, 50);
    assert_eq!(sorted(&world.sink("right").delivered()), (0..50).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_a_sink_hold_for_all_its_subscriptions_and_change_without_a_restart() {
    let world = World::new().await;
    world.create_type("order", None).await;
    let settings = |concurrency_max, requests_per_second_max| DeliverySettings {
        concurrency_max: Some(concurrency_max),
        requests_per_second_max,
        ..DeliverySettings::default()
    };
    let limited = NewSink { delivery: settings(2, None), ..new_sink(webhook("limited")) };
    let sink = world.catalog.create_sink(world.tenant(), limited.clone()).await.unwrap();
    let one = world.subscribe_to(&sink, &["order"], StartAt::Next).await;
    let other = world.subscribe_to(&sink, &["order"], StartAt::Next).await;
    let receiver = world.sink("limited");
    receiver.hang();
    world.publish("order", &KEYS, 0..40).await;
    timeout(DEADLINE, receiver.attempts_when(|attempts| attempts.running == 2)).await.expect("two run");
    let update = async |delivery| {
        let change = SinkChange { sink: NewSink { delivery, ..limited.clone() }, expected_revision: None };
        world.catalog.update_sink(world.tenant(), sink.id, change).await.unwrap();
    };
    update(settings(5, None)).await;
    timeout(DEADLINE, receiver.attempts_when(|attempts| attempts.running == 5)).await.expect("five run");
    assert_eq!(receiver.attempts().running_max, 5);
    // The node's limit of 8 holds, too.
    update(settings(100, None)).await;
    receiver.up();
    for subscription in [&one, &other] {
        assert_eq!(world.settled(subscription, 40).await.delivered, 40);
    }
    assert!(receiver.attempts().running_max <= 8);

    update(settings(8, Some(20))).await;
    let before = receiver.attempts().started;
    world.publish("order", &KEYS, 40..50).await;
    for subscription in [&one, &other] {
        assert_eq!(world.settled(subscription, 50).await.delivered, 50);
    }
    assert_eq!(receiver.attempts().started - before, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_has_the_tries_that_its_sink_sets() {
    let world = World::new().await;
    world.create_type("order", None).await;
    let delivery = DeliverySettings { attempts_max: Some(2), ..DeliverySettings::default() };
    let sink = NewSink { delivery, ..new_sink(webhook("impatient")) };
    let sink = world.catalog.create_sink(world.tenant(), sink).await.unwrap();
    let orders = world.subscribe_to(&sink, &["order"], StartAt::Next).await;
    let receiver = world.sink("impatient");
    receiver.fail_key(KeyHash::of(KEYS[0]), busy("overloaded"));
    world.publish("order", &KEYS, 0..20).await;
    let letters = world.stats_when(&orders, |stats| stats.pending == 0).await;
    assert_eq!(letters.reasons.get("attempts_exhausted"), Some(&letters.dead_lettered));
    assert!(letters.dead_lettered > 0);
    let tries = receiver.attempts().started as u64;
    assert_eq!(tries, letters.delivered + 2 * letters.dead_lettered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_are_created_changed_and_deleted_while_another_one_is_busy() {
    let world = World::new().await;
    let busy = world.subscribe("busy", &["order"]).await;
    world.create_type("refund", None).await;
    let mut published = 0;
    let publish = async {
        loop {
            world.publish("order", &KEYS, published..published + 10).await;
            published += 10;
            world.stats_when(&busy, |stats| stats.delivered + 40 > published as u64).await;
        }
    };
    let change = async {
        for round in 0..5 {
            let sink = world.create_sink(&format!("other{round}")).await;
            let other = world.subscribe_to(&sink, &["order"], StartAt::Next).await;
            world.stats_when(&other, |stats| stats.delivered > 10).await;
            let updated = subscription(&sink, &["order", "refund"]);
            world.catalog.update_subscription(world.tenant(), other.id, updated, None).await.unwrap();
            world.delivery.reconciled(other.account, other.id).await.unwrap();
            world.catalog.delete_subscription(world.tenant(), other.id).await.unwrap();
            world.delivery.reconciled(other.account, other.id).await.unwrap();
            let counters = world.events.iter().filter_map(|partition| partition.counters(other.id));
            let delivered: u64 = counters
                .map(|counters| counters.settled.get(&Outcome::Delivered).copied().unwrap_or(0))
                .sum();
            let sent = world.sink(&format!("other{round}")).delivered().len() as u64;
            // An answer that was under way when it was deleted is not waited for.
            assert!((sent - KEYS.len() as u64..=sent).contains(&delivered), "{delivered} of {sent}");
        }
    };
    tokio::select! {
        () = publish => unreachable!("it never ends"),
        changed = timeout(DEADLINE, change) => changed.expect("changes take effect"),
    }
    world.stats_when(&busy, |stats| stats.pending == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_does_not_wait_for_attempts_of_a_deleted_subscription() {
    let world = World::new().await;
    let refused = world.subscribe("refused", &["refund"]).await;
    let deleted = world.subscribe("deleted", &["order"]).await;
    world.sink("deleted").hang();
    world.publish("order", &KEYS, 0..5).await;
    timeout(DEADLINE, world.sink("deleted").attempts_when(|attempts| attempts.running == 5)).await.unwrap();
    // A change that is refused, so that the next one, the deletion, is not done at once.
    let Subscription { id, account, start, .. } = *refused;
    let filter = [].into();
    let attach = fanfare_partition::Attach {
        subscription: id,
        account,
        epoch: u64::MAX,
        filter_revision: 1,
        filter,
        start,
    };
    world.home(&refused).attach(attach).await.unwrap();
    let home = world.home(&refused).id();
    let slot = world.delivery.slots.borrow()[&home].clone();
    let mut changed = slot.changed.subscribe();
    let before = *changed.borrow();
    world.catalog.pause_subscription(world.tenant(), refused.id).await.unwrap();
    // Seen in the catalog, refused.
    timeout(DEADLINE, changed.wait_for(|now| *now >= before + 2)).await.unwrap().unwrap();
    world.catalog.delete_subscription(world.tenant(), deleted.id).await.unwrap();
    timeout(DEADLINE, changed.wait_for(|now| *now >= before + 3)).await.unwrap().unwrap();
    let stopped = world.delivery.shutdown(DEADLINE * 2);
    timeout(DEADLINE, stopped).await.expect("it stops without the time that attempts have to end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_busy_subscriptions_do_not_delay_an_attachment() {
    const EVENTS: usize = 2_000;
    let mut setup = Setup::default();
    setup.delivery.window_events = 64;
    let world = World::with(setup).await;
    let names = ["one", "two", "three", "four", "five", "six"];
    let mut busy = Vec::new();
    for name in names {
        busy.push(world.subscribe(name, &["order"]).await);
        world.sink(name).down();
    }
    for start in (0..EVENTS).step_by(100) {
        world.publish("order", &KEYS, start..start + 100).await;
    }
    for subscription in &busy {
        world.stats_when(subscription, |stats| stats.matched == EVENTS as u64).await;
    }
    let late = world.create_sink("late").await;
    names.iter().for_each(|name| world.sink(name).up());
    for name in names {
        world.delivered(name, 10).await;
    }
    world.subscribe_to(&late, &["order"], StartAt::Next).await;
    let pending: u64 = busy.iter().map(|busy| world.stats(busy).pending).sum();
    assert!(
        pending > (names.len() * EVENTS / 2) as u64,
        "it was attached after most else: {pending} are left"
    );
    for subscription in &busy {
        world.settled(subscription, EVENTS as u64).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_time_in_a_damaged_part_of_the_log_delays_no_other_subscription() {
    let mut setup = Setup { cache_bytes: 16 << 10, ..Setup::default() };
    setup.partition.segment_bytes = 16 << 10;
    setup.partition.entry_bytes_max = 1 << 10;
    let world = World::with(setup).await;
    let orders = world.subscribe("orders", &["order"]).await;
    let started = Timestamp(world.machine.clock.unix_ms());
    for start in (0..1_000).step_by(10) {
        world.publish("order", &KEYS, start..start + 10).await;
        world.machine.clock.0.fetch_add(1, Ordering::Relaxed);
    }
    world.settled(&orders, 1_000).await;
    let home = world.home(&orders).clone();
    world.damage(&format!("events-{}", home.id().index));
    let start = Timestamp(started.0 + 10);
    assert!(home.offset_at(start).await.is_err(), "it is damaged there");

    let mut leading = world.delivery.slots.borrow()[&home.id()].leader.subscribe();
    assert!(leading.borrow_and_update().is_some());
    let sink = world.create_sink("past").await;
    let past = subscription(&sink, &["order"]);
    world.catalog.create_subscription(world.tenant(), past, StartAt::Time(start)).await.unwrap();
    let others = world.subscribe("others", &["order"]).await;
    world.publish("order", &KEYS, 1_000..1_010).await;
    assert_eq!(world.settled(&others, 10).await.delivered, 10);
    assert_eq!(world.settled(&orders, 1_010).await.delivered, 1_010);
    assert!(!leading.has_changed().unwrap(), "deliveries of the partition began anew");
}

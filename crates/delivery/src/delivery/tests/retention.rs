use fanfare_partition::AppendError;

use super::*;

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_past_retention_become_dead_letters_before_the_log_is_trimmed() {
    let world = World::with(Setup::of_small_segments()).await;
    let orders = world.subscribe("orders", &["order"]).await;
    world.sink("orders").down();
    for start in (0..400).step_by(10) {
        world.publish("order", &KEYS, start..start + 10).await;
    }
    world.stats_when(&orders, |stats| stats.matched == 400 && stats.state == State::SinkDown).await;
    world.machine.clock.0.fetch_add(120_000, Ordering::Relaxed);
    let stats = world.stats_when(&orders, |stats| stats.dead_lettered > 100).await;
    assert_eq!(stats.delivered, 0);
    let trimmed = async |partition: &Partition| {
        let mut positions = partition.positions();
        let trimmed = positions.wait_for(|positions| positions.log_start > Offset::ZERO).await.map(drop);
        trimmed.unwrap();
    };
    let home = world.catalog.view().account(orders.account).unwrap().account.shard.partitions[0];
    timeout(DEADLINE, trimmed(&world.events[usize::from(home)])).await.expect("the log is trimmed");
    world.sink("orders").up();
    let stats = world.settled(&orders, 400).await;
    assert_eq!(stats.delivered + stats.dead_lettered, 400);
    assert_eq!(stats.reasons, BTreeMap::from([("retention", stats.dead_lettered)]));
    let letters = world.delivery.list_dead_letters(orders.account, DeadLetterQuery::default()).await.unwrap();
    assert_eq!(letters.letters.len() as u64, stats.dead_lettered);
    check_order(&world.sink("orders").delivered());
    assert_eq!(world.stats(&orders).times.oldest_pending_age_ms, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_follow_the_retention_of_their_own_stream() {
    let world = World::with(Setup::of_small_segments()).await;
    let orders = world.subscribe("orders", &["order"]).await;
    let why = Failure::new(Failure::HTTP_STATUS, "bad request").with_status(400);
    for key in KEYS {
        world.sink("orders").fail_key(KeyHash::of(key), Answer::Rejected { why: why.clone() });
    }
    for start in (0..100).step_by(10) {
        world.publish("order", &KEYS, start..start + 10).await;
    }
    world.deliver_until_given_up(&orders, 100, 100).await;
    world.machine.clock.0.fetch_add(120_000, Ordering::Relaxed);
    let mut ticks = interval(Duration::from_millis(5));
    let trimmed = async {
        loop {
            ticks.tick().await;
            let page =
                world.delivery.list_dead_letters(orders.account, DeadLetterQuery::default()).await.unwrap();
            if page.letters.len() < 100 {
                return;
            }
        }
    };
    timeout(DEADLINE, trimmed).await.expect("old dead letters are trimmed");
    assert_eq!(world.stats(&orders).dead_lettered, 100, "the counter stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_is_trimmed_while_progress_of_new_events_is_not_replicated() {
    let mut setup = Setup::of_small_segments();
    // Progress is replicated at half a window only.
    setup.delivery.advance_interval_ms = 600_000;
    let world = World::with(setup).await;
    let orders = world.subscribe("orders", &["order"]).await;
    let home = world.catalog.view().account(orders.account).unwrap().account.shard.partitions[0];
    let partition = &world.events[usize::from(home)];
    let replicated = || partition.counters(orders.id).map_or(0, |counters| counters.settled.values().sum());
    let mut published = 0;
    let mut waiting = 0;
    while published < 400 || waiting == 0 {
        world.publish("order", &KEYS, published..published + 1).await;
        published += 1;
        let count = published as u64;
        world.stats_when(&orders, |stats| stats.delivered == count && count - replicated() < 8).await;
        waiting = count - replicated();
    }
    world.machine.clock.0.fetch_add(120_000, Ordering::Relaxed);
    let mut positions = partition.positions();
    let trimmed = positions.wait_for(|positions| positions.log_start > Offset::ZERO);
    timeout(DEADLINE, trimmed).await.expect("the log is trimmed").unwrap();
    assert_eq!(world.stats(&orders).dead_lettered, 0, "everything was delivered in time");
}

/// Appends an event of another account to the partition.
async fn flood(world: &World, partition: &Partition, number: usize) -> Result<(), AppendError> {
    let bytes = event("order", "flood", 100_000 + number, &format!("\"{}\"", "x".repeat(60)));
    let event = Event::parse(&bytes).unwrap();
    let shard = world.catalog.view().account(world.tenant().account()).unwrap().account.shard.clone();
    let mut batch = RecordBatchBuilder::new(AccountId::from_bytes([9; 16]), shard.epoch);
    batch.push(&bytes, event.id_hash(), event.key_hash());
    // The dedup window is short, and nothing within it is trimmed.
    world.machine.clock.0.fetch_add(20, Ordering::Relaxed);
    partition.append(batch.finish())?.committed().await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_one_account_is_refused_before_it_trims_the_undelivered_events_of_another() {
    let mut setup = Setup::of_small_segments();
    setup.partition.retention_ms = 100_000_000;
    setup.partition.retention_bytes = 64 << 10;
    setup.partition.quota = Some(Quota::Share { account_bytes_max: 32 << 10 });
    let world = World::with(setup).await;
    let orders = world.subscribe("orders", &["order"]).await;
    let partition = world.home(&orders);
    let log_start = || partition.positions().borrow().log_start;
    for number in 0..400 {
        flood(&world, partition, number).await.expect("nobody else needs the room");
    }
    timeout(DEADLINE, async {
        partition.positions().wait_for(|at| at.log_start > Offset::ZERO).await.map(drop)
    })
    .await
    .expect("the size trims the log")
    .unwrap();

    world.sink("orders").down();
    world.publish("order", &KEYS, 0..20).await;
    let mut numbers = 400..100_000;
    let refused = loop {
        let number = numbers.next().expect("the flood is refused in the end");
        if let Err(error) = flood(&world, partition, number).await {
            break error;
        }
    };
    assert!(matches!(refused, AppendError::OverQuota { .. }), "{refused}");
    world.publish("order", &KEYS, 20..40).await;
    let held = world.stats_when(&orders, |stats| stats.matched == 40).await;
    assert_eq!((held.pending, held.dead_lettered, held.expired), (40, 0, 0));

    let held_from = log_start();
    world.sink("orders").up();
    assert_eq!(world.settled(&orders, 40).await.delivered, 40);
    timeout(DEADLINE, async {
        partition.positions().wait_for(|at| at.log_start > held_from).await.map(drop)
    })
    .await
    .expect("the log is trimmed when nothing holds it back")
    .unwrap();
    let mut ticks = interval(Duration::from_millis(5));
    let taken = async {
        while flood(&world, partition, numbers.next().unwrap()).await.is_err() {
            ticks.tick().await;
        }
    };
    timeout(DEADLINE, taken).await.expect("the account may publish again");
}

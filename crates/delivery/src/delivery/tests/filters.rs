//! A change of types holds from the offset where it is attached, whatever is pending and whenever the node crashes.

use std::collections::BTreeSet;

use fanfare_partition::AccountFilter;

use super::*;

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

impl World {
    /// Changes the filter and waits until it is in effect. Gives its first offset.
    async fn change_filter(&self, subscription: &Subscription, types: &[&str]) -> Offset {
        let sink =
            self.catalog.view().account(subscription.account).unwrap().sinks[&subscription.sink].clone();
        let change = super::subscription(&sink, types);
        self.catalog.update_subscription(self.tenant(), subscription.id, change, None).await.unwrap();
        self.delivery.reconciled(subscription.account, subscription.id).await.unwrap();
        let attachment = self.home(subscription).attachment(subscription.id).unwrap();
        attachment.filters.last().unwrap().from
    }

    /// All events of the subscription's partition: offset, type, number.
    async fn published(&self, subscription: &Subscription) -> Vec<(Offset, String, usize)> {
        let home = self.home(subscription);
        let end = home.positions().borrow().high_watermark;
        let (mut published, mut next) = (Vec::new(), Offset::ZERO);
        while next < end {
            let chunk = home.read(next, AccountFilter::All, 1 << 20).await.unwrap();
            for event in chunk.batches.iter().flat_map(|batch| batch.events()) {
                let parsed = Event::parse(&event.bytes).unwrap();
                let number = parsed.id.parse().unwrap();
                published.push((event.offset, parsed.event_type.to_owned(), number));
            }
            next = chunk.next;
        }
        published
    }
}

/// Checks that exactly these numbers were delivered, in order per key, with at most a window of repeats per crash.
fn check_delivered(delivered: &[Delivered], expected: &[usize], crashes: usize) {
    check_order(delivered);
    let numbers = sorted(delivered);
    let repeats = numbers.len() - expected.len();
    assert!(repeats <= crashes * WINDOW, "{repeats} repeats");
    let numbers: BTreeSet<usize> = numbers.into_iter().collect();
    assert_eq!(numbers.into_iter().collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_matched_before_its_type_was_removed_is_delivered_after_two_crashes() {
    let world = World::new().await;
    let orders = world.subscribe("orders", &["order", "refund"]).await;
    world.sink("orders").down();
    world.publish("order", &KEYS, 0..90).await;
    world.publish("refund", &KEYS, 90..180).await;
    world.stats_when(&orders, |stats| stats.matched == 180 && stats.state == State::SinkDown).await;
    world.change_filter(&orders, &["order"]).await;
    world.publish("refund", &KEYS, 180..190).await;
    let world = world.crash().await;
    world.publish("order", &KEYS, 190..200).await;
    world.stats_when(&orders, |stats| stats.matched == 190 && stats.state == State::SinkDown).await;
    world.sink("orders").up();
    world.delivered("orders", 100).await;
    world.sink("orders").down();
    let world = world.crash().await;
    world.sink("orders").up();
    let stats = world.settled(&orders, 190).await;
    assert_eq!((stats.delivered, stats.reasons), (190, BTreeMap::new()));
    let expected: Vec<_> = (0..180).chain(190..200).collect();
    check_delivered(&world.sink("orders").delivered(), &expected, 1);
    assert_eq!(
        world.home(&orders).attachment(orders.id).unwrap().filters.len(),
        1,
        "the old filter is dropped"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_published_before_its_type_was_added_is_not_delivered_after_two_crashes() {
    let world = World::new().await;
    world.create_type("refund", None).await;
    let orders = world.subscribe("orders", &["order"]).await;
    world.sink("orders").down();
    world.publish("order", &KEYS, 0..90).await;
    world.publish("refund", &KEYS, 90..180).await;
    world.stats_when(&orders, |stats| stats.matched == 90 && stats.state == State::SinkDown).await;
    world.change_filter(&orders, &["order", "refund"]).await;
    world.publish("refund", &KEYS, 180..190).await;
    world.stats_when(&orders, |stats| stats.matched == 100).await;
    let world = world.crash().await;
    world.sink("orders").up();
    world.delivered("orders", 40).await;
    world.sink("orders").down();
    let world = world.crash().await;
    world.sink("orders").up();
    let stats = world.settled(&orders, 100).await;
    assert_eq!((stats.delivered, stats.reasons), (100, BTreeMap::new()));
    let expected: Vec<_> = (0..90).chain(180..190).collect();
    check_delivered(&world.sink("orders").delivered(), &expected, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_key_is_read_again_with_the_filters_of_its_events() {
    let mut setup = Setup::default();
    setup.delivery.retry.attempts_max = None;
    let world = World::with(setup).await;
    let orders = world.subscribe("orders", &["order"]).await;
    world.create_type("refund", None).await;
    let poison = KeyHash::of("a");
    world.sink("orders").fail_key(poison, busy("no"));
    world.publish("order", &KEYS, 0..50).await;
    world.publish("refund", &KEYS, 50..100).await;
    world.stats_when(&orders, |stats| (stats.delivered, stats.pending) == (40, 10)).await;
    world.change_filter(&orders, &["refund"]).await;
    world.publish("order", &KEYS, 100..150).await;
    world.publish("refund", &KEYS, 150..200).await;
    world.stats_when(&orders, |stats| (stats.delivered, stats.pending) == (80, 20)).await;
    let world = world.crash().await;
    world
        .stats_when(&orders, |stats| (stats.delivered, stats.pending, stats.parked_keys) == (80, 20, 1))
        .await;
    world.sink("orders").heal_key(poison);
    assert_eq!(world.settled(&orders, 100).await.delivered, 100);
    let expected: Vec<_> = (0..50).chain(150..200).collect();
    check_delivered(&world.sink("orders").delivered(), &expected, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_is_matched_by_the_filter_at_its_offset_while_filters_change() {
    const TYPES: [&[&str]; 4] = [&["order"], &["order", "refund"], &["refund"], &["order", "return"]];
    let mut world = World::new().await;
    let orders = world.subscribe("orders", &["order", "refund", "return"]).await;
    let mut filters = vec![(Offset::ZERO, ["order", "refund", "return"].as_slice())];
    let mut number = 0;
    for round in 0..12 {
        // The sink alternates, so that changes meet backlogs and windows of all sizes.
        if round % 3 == 0 {
            world.sink("orders").down()
        } else {
            world.sink("orders").up()
        }
        let mut publishing = true;
        let publish = async {
            while publishing {
                for event_type in ["order", "refund", "return"] {
                    world.publish(event_type, &KEYS, number..number + 5).await;
                    number += 5;
                }
                publishing = number % 60 != 0;
            }
        };
        let types = TYPES[round % TYPES.len()];
        let ((), from) = tokio::join!(publish, world.change_filter(&orders, types));
        filters.push((from, types));
        if round % 4 == 3 {
            world = world.crash().await;
        }
    }
    world.sink("orders").up();
    let published = world.published(&orders).await;
    let chosen = published.iter().filter(|(offset, event_type, _)| {
        let (_, types) = filters.iter().rev().find(|(from, _)| from <= offset).unwrap();
        types.contains(&event_type.as_str())
    });
    let mut expected: Vec<usize> = chosen.map(|(_, _, number)| *number).collect();
    expected.sort_unstable();
    let stats = world.settled(&orders, expected.len() as u64).await;
    assert_eq!((stats.delivered, stats.reasons), (expected.len() as u64, BTreeMap::new()));
    check_delivered(&world.sink("orders").delivered(), &expected, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_beyond_the_limit_takes_effect_when_the_backlog_has_passed_an_earlier_filter() {
    const TYPES: [&[&str]; 2] = [&["order", "refund"], &["order"]];
    let world = World::new().await;
    world.create_type("refund", None).await;
    let orders = world.subscribe("orders", &["order"]).await;
    world.sink("orders").down();
    for round in 0..15 {
        world.publish("order", &KEYS, round..round + 1).await;
        world.change_filter(&orders, TYPES[round % 2]).await;
    }
    world.publish("refund", &KEYS, 15..16).await;
    let filters_kept = || world.home(&orders).attachment(orders.id).unwrap().filters.len();
    assert_eq!(filters_kept(), 16);
    let (last, ()) = tokio::join!(world.change_filter(&orders, TYPES[1]), async {
        world.stats_when(&orders, |stats| stats.matched == 16).await;
        assert_eq!(filters_kept(), 16);
        let home = world.delivery.shard(orders.account)[0];
        let why = world.delivery.unreconciled(home, orders.account, orders.id);
        assert!(matches!(why, ReconcileError::Backlog { .. }), "{why}");
        // The refused change is tried again each second; others do not wait for it.
        let started = Instant::now();
        for name in ["first", "second", "third"] {
            world.subscribe(name, &["order"]).await;
        }
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        world.sink("orders").up();
    });
    assert!(last > Offset(15));
    world.publish("refund", &KEYS, 16..17).await;
    world.publish("order", &KEYS, 17..18).await;
    assert_eq!(world.settled(&orders, 17).await.delivered, 17);
    let expected: Vec<_> = (0..16).chain([17]).collect();
    check_delivered(&world.sink("orders").delivered(), &expected, 0);
}

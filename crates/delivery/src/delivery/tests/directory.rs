//! Partitions that come, go and move while deliveries run.

use std::{
    future::ready,
    sync::atomic::{AtomicBool, AtomicUsize},
};

use fanfare_cluster::{AppendForwarder, RemoteAppend};
use fanfare_model::BrokerId;
use fanfare_partition::{AppendError, Appended};
use futures_util::{FutureExt, future::BoxFuture};

use super::{dead_letters::dead_letters, *};

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// The way to a leader that is another broker; the partition behind it is the test's own.
#[derive(Default)]
struct Peer {
    partition: OnceLock<Partition>,
    refuses: AtomicBool,
    refused: AtomicUsize,
}

impl AppendForwarder for Peer {
    fn append(&self, append: RemoteAppend) -> BoxFuture<'static, Result<Appended, AppendError>> {
        let RemoteAppend { partition, batch, .. } = append;
        if self.refuses.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return ready(Err(AppendError::NotLeader { partition, leader: None })).boxed();
        }
        let leader = self.partition.get().expect("the test opened it").clone();
        async move { leader.append(batch)?.committed().await }.boxed()
    }
}

impl World {
    fn locate(&self, partition: PartitionId, location: Option<Location>) {
        self.locations.send_modify(|locations| {
            let locations = Arc::make_mut(locations);
            match location {
                Some(location) => drop(locations.insert(partition, location)),
                None => drop(locations.remove(&partition)),
            }
        });
    }

    /// Waits until a leader of delivery runs at the partition, or until none does.
    async fn led(&self, partition: PartitionId, expected: bool) {
        let mut slots = self.delivery.slots.clone();
        let led = async {
            loop {
                let slot = slots.borrow_and_update().get(&partition).cloned();
                let Some(slot) = slot else {
                    if !expected {
                        return;
                    }
                    slots.changed().await.unwrap();
                    continue;
                };
                let mut leader = slot.leader.subscribe();
                tokio::select! {
                    found = leader.wait_for(|leader| leader.is_some() == expected) => return drop(found.unwrap()),
                    changed = slots.changed() => changed.unwrap(),
                }
            }
        };
        timeout(DEADLINE, led).await.expect("deliveries follow the directory");
    }
}

fn remote() -> Option<Location> {
    Some(Location::Remote { leader: BrokerId(2), address: "10.0.0.2:7071".to_owned() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_end_where_a_partition_leaves_and_begin_where_it_comes() {
    let world = World::new().await;
    let orders = world.subscribe("orders", &["order"]).await;
    let home = world.home(&orders).clone();
    world.publish("order", &KEYS, 0..20).await;
    assert_eq!(world.settled(&orders, 20).await.delivered, 20);

    world.locate(home.id(), remote());
    world.led(home.id(), false).await;
    world.publish("order", &KEYS, 20..40).await;
    let elsewhere = RouteError::NotLocal { partition: home.id(), leader: BrokerId(2) };
    assert_eq!(world.delivery.stats(orders.account, orders.id).map(drop), Err(elsewhere.clone()));
    let unconfirmed = world.delivery.reconciled(orders.account, orders.id).await.unwrap_err();
    assert!(matches!(&unconfirmed, ReconcileError::NotLocal(error) if *error == elsewhere), "{unconfirmed}");
    assert_eq!(home.counters(orders.id).unwrap().matched, 20, "nothing is matched without a leader");

    world.locate(home.id(), Some(Location::Local(home.clone())));
    assert_eq!(world.settled(&orders, 40).await.delivered, 40);
    let delivered = world.sink("orders").delivered();
    check_order(&delivered);
    assert_eq!(sorted(&delivered), (0..40).collect::<Vec<_>>());

    world.locate(home.id(), None);
    world.led(home.id(), false).await;
    let gone = RouteError::NotFound { partition: home.id() };
    assert_eq!(world.delivery.stats(orders.account, orders.id).map(drop), Err(gone));
    world.locate(home.id(), Some(Location::Local(home.clone())));
    world.led(home.id(), true).await;
    world.delivery.reconciled(orders.account, orders.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_that_begins_anew_repeats_only_what_was_not_replicated_and_counts_it_once() {
    let mut setup = Setup::default();
    // Progress is replicated at half a window only.
    setup.delivery.advance_interval_ms = 600_000;
    let world = World::with(setup).await;
    let orders = world.subscribe("orders", &["order"]).await;
    let home = world.home(&orders).clone();
    world.publish("order", &KEYS, 0..5).await;
    world.stats_when(&orders, |stats| stats.delivered == 5).await;
    let leaders = world.leaders();

    world.locate(home.id(), remote());
    world.led(home.id(), false).await;
    // The slot is gone before its leader has ended.
    let ended = async {
        while !began_anew(&leaders) {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, ended).await.expect("the end of the leader is seen");
    let replicated = home.counters(orders.id).unwrap().settled.values().sum::<u64>();
    assert_eq!(replicated, 0, "progress of less than half a window waits");
    world.locate(home.id(), Some(Location::Local(home.clone())));
    world.delivered("orders", 10).await;
    let stats = world.stats_when(&orders, |stats| stats.pending == 0).await;
    assert_eq!((stats.matched, stats.delivered), (5, 5));
    let delivered = world.sink("orders").delivered();
    assert_eq!(sorted(&delivered), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
    check_order(&delivered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_of_a_subscription_waits_for_a_partition_that_opens_later() {
    let world = World::new().await;
    let first = world.subscribe("first", &["order"]).await;
    let home = world.home(&first).clone();
    world.locate(home.id(), None);
    world.led(home.id(), false).await;
    let sink = world.create_sink("second").await;
    let new = subscription(&sink, &["order"]);
    let second = world.catalog.create_subscription(world.tenant(), new, StartAt::Next).await.unwrap();
    let mut confirmed = Box::pin(world.delivery.reconciled(second.account, second.id));
    assert!((&mut confirmed).now_or_never().is_none(), "the partition is not open");
    world.locate(home.id(), Some(Location::Local(home.clone())));
    timeout(DEADLINE, confirmed).await.expect("it is confirmed in time").unwrap();
    assert!(home.attachment(second.id).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_go_to_a_remote_leader_and_the_event_is_held_while_there_is_none() {
    let peer = Arc::new(Peer::default());
    peer.refuses.store(true, Ordering::SeqCst);
    let world = World::with_forwarder(Setup::default(), peer.clone()).await;
    peer.partition.get_or_init(|| world.dead_letters.clone());
    let stream = world.dead_letters.id();
    world.locate(stream, remote());
    let orders = world.subscribe("orders", &["order"]).await;
    world.sink("orders").fail_key(KeyHash::of("poison"), rejected());
    world.publish("order", &["a", "poison"], 0..4).await;
    let mut ticks = interval(Duration::from_millis(2));
    let refused_twice = async {
        while peer.refused.load(Ordering::SeqCst) < 2 {
            ticks.tick().await;
        }
    };
    timeout(DEADLINE, refused_twice).await.expect("a refused dead letter is written again");
    let held = world.stats_when(&orders, |stats| stats.delivered == 2).await;
    assert_eq!((held.pending, held.dead_lettered, held.expired), (2, 0, 0));
    let listed = world.delivery.list_dead_letters(orders.account, DeadLetterQuery::default()).await;
    assert!(matches!(listed, Err(DeadLetterError::Route(RouteError::NotLocal { .. }))), "{listed:?}");

    peer.refuses.store(false, Ordering::SeqCst);
    assert_eq!(world.settled(&orders, 4).await.dead_lettered, 2);
    world.locate(stream, Some(Location::Local(world.dead_letters.clone())));
    assert_eq!(dead_letters(&world, &orders).await.len(), 2);
}

//! A leader whose catalog is older than what is attached in its partition waits for it.

use fanfare_partition::Attach;

use super::*;
use crate::filter::FilterRecord;

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

impl World {
    /// Attaches a revision of the subscription that this catalog does not know yet, by so many changes, and crashes.
    async fn crash_ahead_of_the_catalog(self, subscription: &Subscription, changes: u64) -> Self {
        let Subscription { id, account, epoch, start, .. } = *subscription;
        let attach = Attach {
            subscription: id,
            account,
            epoch,
            filter_revision: self.catalog.view().revision + changes,
            filter: FilterRecord::of(subscription).encode(),
            start,
        };
        self.home(subscription).attach(attach).await.unwrap();
        self.crash().await
    }

    async fn change_the_catalog(&self, changes: u64) {
        for _ in 0..changes {
            self.create_type(&format!("other{}", self.catalog.view().revision), None).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_skipped_while_the_catalog_is_older_than_the_attachments() {
    let world = World::new().await;
    let orders = world.subscribe("orders", &["order"]).await;
    let world = world.crash_ahead_of_the_catalog(&orders, 4).await;
    world.publish("order", &KEYS, 0..50).await;
    world.change_the_catalog(3).await;
    world.publish("order", &KEYS, 50..60).await;
    let before = *world.home(&orders).positions().borrow();
    assert_eq!((before.frontier, world.stats(&orders).matched), (Offset::ZERO, 0));
    world.change_the_catalog(4).await;
    assert_eq!(world.settled(&orders, 60).await.delivered, 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_expire_while_the_catalog_is_unknown_become_dead_letters() {
    let world = World::with(Setup::of_small_segments()).await;
    let orders = world.subscribe("orders", &["order"]).await;
    world.sink("orders").down();
    for start in (0..200).step_by(10) {
        world.publish("order", &KEYS, start..start + 10).await;
    }
    let home = world.home(&orders).clone();
    world.stats_when(&orders, |stats| stats.matched == 200 && stats.state == State::SinkDown).await;
    let mut positions = home.positions();
    timeout(DEADLINE, positions.wait_for(|positions| positions.frontier == Offset(200)))
        .await
        .unwrap()
        .unwrap();
    drop((positions, home));
    world.machine.clock.0.fetch_add(120_000, Ordering::Relaxed);
    let world = world.crash_ahead_of_the_catalog(&orders, 2).await;
    world.change_the_catalog(2).await;
    let stats = world.stats_when(&orders, |stats| stats.dead_lettered > 50).await;
    world.sink("orders").up();
    let settled = world.settled(&orders, 200).await;
    assert!(settled.dead_lettered >= stats.dead_lettered);
    assert_eq!(settled.delivered + settled.dead_lettered, 200);
    assert_eq!(settled.reasons, BTreeMap::from([("retention", settled.dead_lettered)]));
}

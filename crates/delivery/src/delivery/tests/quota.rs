//! The quota of dead letters: held events, room after a trim, restarts, and other accounts.

use fanfare_partition::AppendError;

use super::{
    dead_letters::{dead_letters, record},
    *,
};

const OTHER: AccountId = AccountId::from_bytes([9; 16]);
/// Sizes of the events with which a quota is filled, down to where the smallest dead letter finds no room.
const SIZES: [usize; 5] = [512 << 10, 32 << 10, 2 << 10, 128, 1];

/// A node whose sink `orders` rejects every event of the key `poison`.
async fn rejecting(setup: Setup) -> (World, Arc<Subscription>) {
    let world = World::with(setup).await;
    let orders = world.subscribe("orders", &["order"]).await;
    world.sink("orders").fail_key(KeyHash::of("poison"), rejected());
    (world, orders)
}

impl World {
    /// Appends a dead letter of `account` for an event of `size` bytes.
    async fn append_dead_letter(
        &self,
        of: &Subscription,
        account: AccountId,
        number: u64,
        size: usize,
    ) -> Result<(), AppendError> {
        let event = vec![0; size];
        let record = record(of, 1_000 + number, &event);
        self.delivery.context.dead_letters.append(account, KeyHash::of("a"), &record).await
    }

    /// Uses up the quota with dead letters of `account`; their number.
    async fn fill(&self, of: &Subscription, account: AccountId) -> u64 {
        let mut written = 0;
        for size in SIZES {
            loop {
                match self.append_dead_letter(of, account, written, size).await {
                    Ok(()) => written += 1,
                    Err(AppendError::OverQuota { .. }) => break,
                    Err(error) => panic!("{error}"),
                }
                assert!(written < 1_000, "there is no limit");
            }
        }
        written
    }

    async fn is_over_quota(&self, of: &Subscription, account: AccountId) -> bool {
        match self.append_dead_letter(of, account, 2_000, 1).await {
            Ok(()) => false,
            Err(AppendError::OverQuota { account: refused, .. }) => refused == account,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_over_quota_is_held_until_a_trim_makes_room() {
    let mut setup = Setup::default();
    // More than what a trim gives back at once.
    setup.limit_dead_letters(24 << 20, 1 << 30);
    setup.partition.entry_bytes_max = 1 << 20;
    let (world, orders) = rejecting(setup).await;
    let written = world.fill(&orders, orders.account).await;
    assert!(written > 40, "{written} dead letters, the first of 512 KiB, in 24 MiB");
    world.publish("order", &["a", "poison"], 0..2).await;
    let held = world.stats_when(&orders, |stats| stats.delivered == 1).await;
    assert_eq!((held.pending, held.dead_lettered, held.expired), (1, 0, 0));
    assert!(!world.is_over_quota(&orders, OTHER).await, "the quota is each account's own");

    world.machine.clock.0.fetch_add(120_000, Ordering::Relaxed);
    let settled = world.settled(&orders, 2).await;
    assert_eq!((settled.delivered, settled.dead_lettered), (1, 1));
    assert!(world.dead_letters.positions().borrow().log_start > Offset::ZERO, "old dead letters are trimmed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_over_quota_expires_with_its_reason_when_retention_overtakes_it() {
    let mut setup = Setup::of_small_segments();
    setup.limit_dead_letters(500, 1 << 30);
    let (world, orders) = rejecting(setup).await;
    for start in (0..200).step_by(10) {
        world.publish("order", &["poison"], start..start + 10).await;
    }
    let held = world.stats_when(&orders, |stats| stats.matched == 200 && stats.dead_lettered > 0).await;
    assert_eq!((held.dead_lettered + held.pending, held.expired), (200, 0));

    world.machine.clock.0.fetch_add(120_000, Ordering::Relaxed);
    let after = world.stats_when(&orders, |stats| stats.expired > 50).await;
    assert_eq!(after.reasons.get("dead_letter_budget"), Some(&after.expired));
    assert_eq!(dead_letters(&world, &orders).await.len() as u64, after.dead_lettered);
    let home = world.home(&orders).clone();
    let mut positions = home.positions();
    let trimmed = positions.wait_for(|positions| positions.log_start > Offset::ZERO);
    timeout(DEADLINE, trimmed).await.expect("held events do not keep the log").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_count_right_after_a_crash_and_after_a_restart() {
    let mut setup = Setup::default();
    setup.limit_dead_letters(64 << 10, 1 << 30);
    let (world, orders) = rejecting(setup).await;
    world.fill(&orders, orders.account).await;

    let world = world.crash().await;
    assert!(world.is_over_quota(&orders, orders.account).await);
    assert!(!world.is_over_quota(&orders, OTHER).await);
    let world = world.restart().await;
    assert!(world.is_over_quota(&orders, orders.account).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_with_a_dead_letter_from_before_a_crash_is_not_refused_over_the_quota() {
    let mut setup = Setup::default();
    // Room for two.
    setup.limit_dead_letters(500, 1 << 30);
    // Outcomes are not replicated before the crash.
    setup.delivery.advance_interval_ms = 600_000;
    let (mut world, orders) = rejecting(setup).await;
    world.publish("order", &["poison"], 0..5).await;
    world.stats_when(&orders, |stats| stats.dead_lettered == 2).await;
    assert_eq!(dead_letters(&world, &orders).await.len(), 2);
    // The dedup window of the stream forgets them.
    world.machine.clock.0.fetch_add(10_000, Ordering::Relaxed);

    world.machine.setup.delivery.advance_interval_ms = 20;
    let world = world.crash().await;
    let after = world.stats_when(&orders, |stats| stats.dead_lettered == 2).await;
    assert_eq!((after.pending, after.expired), (3, 0));
    assert_eq!(dead_letters(&world, &orders).await.len(), 2, "nothing is written twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_stream_keeps_its_dead_letters_and_takes_none_of_any_account() {
    let mut setup = Setup::default();
    setup.limit_dead_letters(1 << 30, 512 << 10);
    setup.partition.segment_bytes = 16 << 10;
    let (world, orders) = rejecting(setup).await;
    world.publish("order", &["poison"], 0..1).await;
    assert_eq!(world.settled(&orders, 1).await.dead_lettered, 1);

    assert!(world.fill(&orders, OTHER).await > 15);
    world.publish("order", &["poison", "a"], 1..3).await;
    let held = world.stats_when(&orders, |stats| stats.delivered == 1).await;
    assert_eq!((held.dead_lettered, held.pending), (1, 1));
    assert_eq!(world.dead_letters.decide_trim(None), None, "the size alone removes no dead letter");
    assert_eq!(dead_letters(&world, &orders).await.len(), 1);
}

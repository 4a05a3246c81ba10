//! Redrives and purges of dead letters.

use fanfare_model::RedriveId;
use fanfare_partition::{Redrive, RedriveKind, RedriveState};

use super::{dead_letters::dead_letters, *};
use crate::{DeadLetterFilter, NewRedrive};

const POISON: [&str; 2] = ["x", "y"];

/// A world whose sink rejected `count` events of the keys of [`POISON`], in turn.
async fn with_letters(count: usize) -> (World, Arc<Subscription>) {
    let world = World::new().await;
    let orders = world.subscribe("orders", &["order"]).await;
    for key in POISON {
        world.sink("orders").fail_key(KeyHash::of(key), rejected());
    }
    world.publish("order", &POISON, 0..count).await;
    world.deliver_until_given_up(&orders, count as u64, count as u64).await;
    assert_eq!(dead_letters(&world, &orders).await.len(), count);
    (world, orders)
}

impl World {
    async fn redrive(
        &self,
        of: &Subscription,
        number: u8,
        kind: RedriveKind,
        filter: DeadLetterFilter,
    ) -> Redrive {
        let id = RedriveId::from_bytes([number; 16]);
        let new = NewRedrive { id, subscription: of.id, kind, filter };
        self.delivery.start_redrive(of.account, new).await.unwrap()
    }

    async fn redrive_when(
        &self,
        of: &Subscription,
        number: u8,
        enough: impl Fn(&Redrive) -> bool,
    ) -> Redrive {
        let mut ticks = interval(Duration::from_millis(2));
        let waited = async {
            loop {
                ticks.tick().await;
                let redrives = self.delivery.redrives(of.account).await.unwrap();
                let id = RedriveId::from_bytes([number; 16]);
                let found = redrives.into_iter().find(|redrive| redrive.start.id == id).unwrap();
                if enough(&found) {
                    return found;
                }
            }
        };
        timeout(DEADLINE, waited).await.expect("the redrive goes on")
    }

    async fn done(&self, of: &Subscription, number: u8) -> Redrive {
        self.redrive_when(of, number, |redrive| redrive.state == RedriveState::Done).await
    }
}

/// The numbers of the poison events, without those whose delivery proved that the sink takes events.
fn poison(delivered: &[Delivered]) -> Vec<Delivered> {
    delivered.iter().filter(|delivered| number(delivered) < 10_000).cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redriven_letters_are_delivered_in_order_per_key_and_leave_the_list() {
    let (world, orders) = with_letters(20).await;
    world.sink("orders").heal_key(KeyHash::of("x"));
    let first = world.redrive(&orders, 1, RedriveKind::Deliver, DeadLetterFilter::default()).await;
    assert_eq!(first.state, RedriveState::Running);
    let done = world.done(&orders, 1).await;
    assert_eq!((done.withdrawn, done.stayed), (10, 10), "{done:?}");
    assert!(done.last_failure.contains("400"), "{done:?}");
    let left = dead_letters(&world, &orders).await;
    assert!(
        left.len() == 10
            && left.iter().all(|letter| Event::parse(&letter.event).unwrap().key_hash() == KeyHash::of("y"))
    );
    let delivered = poison(&world.sink("orders").delivered());
    check_order(&delivered);
    assert_eq!(numbers(&delivered), (0..20).step_by(2).collect::<Vec<_>>());

    world.sink("orders").heal_key(KeyHash::of("y"));
    world.redrive(&orders, 2, RedriveKind::Deliver, DeadLetterFilter::default()).await;
    assert_eq!(world.done(&orders, 2).await.withdrawn, 10);
    assert_eq!(dead_letters(&world, &orders).await, []);
    let withdrawals = world.delivery.withdrawals(orders.account, orders.id);
    assert_eq!((world.stats(&orders).dead_lettered, withdrawals.redriven, withdrawals.purged), (20, 20, 0));
    check_order(&poison(&world.sink("orders").delivered()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purge_of_chosen_letters_removes_these_and_no_other() {
    let (world, orders) = with_letters(6).await;
    let letters = dead_letters(&world, &orders).await;
    let number = |letter: &DeadLetter| u128::from_str_radix(&letter.id, 16).unwrap();
    let ids = [&letters[1], &letters[4]].into_iter().map(number).collect();
    world
        .redrive(&orders, 1, RedriveKind::Purge, DeadLetterFilter { ids, ..DeadLetterFilter::default() })
        .await;
    assert_eq!(world.done(&orders, 1).await.withdrawn, 2);
    let left = dead_letters(&world, &orders).await;
    let expected = [0, 2, 3, 5].map(|index| letters[index].clone());
    assert_eq!(left, expected);
    assert_eq!(world.delivery.dead_letter(orders.account, &letters[1].id).await.unwrap(), None);
    let reasons = [fanfare_partition::Reason::Retention].into();
    world
        .redrive(&orders, 2, RedriveKind::Purge, DeadLetterFilter { reasons, ..DeadLetterFilter::default() })
        .await;
    assert_eq!(world.done(&orders, 2).await.withdrawn, 0);

    let world = world.crash().await;
    assert_eq!(dead_letters(&world, &orders).await, expected, "a crash brings none back");
    world.redrive(&orders, 3, RedriveKind::Purge, DeadLetterFilter::default()).await;
    assert_eq!(world.done(&orders, 3).await.withdrawn, 4);
    assert_eq!(dead_letters(&world, &orders).await, []);
    let withdrawals = world.delivery.withdrawals(orders.account, orders.id);
    assert_eq!((withdrawals.redriven, withdrawals.purged), (0, 6));
    assert_eq!(world.stats_when(&orders, |stats| stats.pending == 0).await.dead_lettered, 6);
    assert_eq!(poison(&world.sink("orders").delivered()).len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redrive_waits_for_a_sink_that_is_down_and_goes_on_after_a_crash() {
    let (world, orders) = with_letters(10).await;
    world.sink("orders").down();
    world.redrive(&orders, 1, RedriveKind::Deliver, DeadLetterFilter::default()).await;
    world.stats_when(&orders, |stats| stats.state == State::SinkDown).await;
    assert_eq!(dead_letters(&world, &orders).await.len(), 10, "no letter is lost");
    let world = world.crash().await;
    let again = world.redrive(&orders, 1, RedriveKind::Deliver, DeadLetterFilter::default()).await;
    assert_eq!((again.state, again.withdrawn, again.stayed), (RedriveState::Running, 0, 0));
    for key in POISON {
        world.sink("orders").heal_key(KeyHash::of(key));
    }
    world.sink("orders").up();
    assert_eq!(world.done(&orders, 1).await.withdrawn, 10);
    assert_eq!(dead_letters(&world, &orders).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_redrive_loses_no_letter_and_another_may_begin() {
    let (world, orders) = with_letters(10).await;
    world.sink("orders").heal_key(KeyHash::of("x"));
    world.sink("orders").fail_key(KeyHash::of("y"), busy("later"));
    world.redrive(&orders, 1, RedriveKind::Deliver, DeadLetterFilter::default()).await;
    let refused = NewRedrive {
        id: RedriveId::from_bytes([2; 16]),
        subscription: orders.id,
        kind: RedriveKind::Purge,
        filter: DeadLetterFilter::default(),
    };
    assert!(world.delivery.start_redrive(orders.account, refused).await.is_err(), "one runs already");
    world.redrive_when(&orders, 1, |redrive| redrive.withdrawn == 5).await;
    let id = RedriveId::from_bytes([1; 16]);
    let cancelled = world.delivery.cancel_redrive(orders.account, id).await.unwrap();
    assert_eq!(cancelled.state, RedriveState::Cancelled);
    assert!(world.delivery.cancel_redrive(AccountId::from_bytes([9; 16]), id).await.is_err());
    assert_eq!(dead_letters(&world, &orders).await.len(), 5);
    world.sink("orders").heal_key(KeyHash::of("y"));
    world.redrive(&orders, 3, RedriveKind::Deliver, DeadLetterFilter::default()).await;
    assert_eq!(world.done(&orders, 3).await.withdrawn, 5);
    check_order(&poison(&world.sink("orders").delivered()));
}

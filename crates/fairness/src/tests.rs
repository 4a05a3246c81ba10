//! No owner takes all of a limit, and all of it comes back.

use tokio::task::yield_now;

use super::*;

fn take_all(limiter: &FairLimiter<u32>, owner: u32) -> Vec<FairPermit<u32>> {
    std::iter::from_fn(|| limiter.try_acquire(owner, 1)).collect()
}

#[test]
fn greedy_owners_leave_room_for_the_next() {
    let limiter = FairLimiter::new(64, 64);
    let first = take_all(&limiter, 1);
    assert_eq!(first.len(), 32);
    let second = take_all(&limiter, 2);
    assert_eq!(second.len(), 16);
    assert!(limiter.try_acquire(3, 1).is_some(), "an owner without anything gets one");
    drop((first, second));
    assert_eq!((limiter.used(), take_all(&limiter, 4).len()), (0, 32));
    assert!(limiter.0.lock().owners.is_empty(), "owners that hold nothing are forgotten");
}

#[test]
fn owner_never_gets_more_than_its_own_limit() {
    let limiter = FairLimiter::new(64, 5);
    assert_eq!(take_all(&limiter, 1).len(), 5);
}

#[test]
fn permit_grows_and_shrinks_within_the_share() {
    let limiter = FairLimiter::new(100, 100);
    let mut permit = limiter.try_acquire(1, 0).expect("nothing is always free");
    assert!(permit.try_grow(30) && permit.try_grow(35) && !permit.try_grow(10));
    permit.shrink(25);
    assert!(permit.try_grow(10));
    assert_eq!(limiter.used(), 50);
    drop(permit);
    assert_eq!(limiter.used(), 0);
}

#[tokio::test]
async fn owners_that_wait_take_turns() {
    let limiter = FairLimiter::new(2, 2);
    let mut held = take_all(&limiter, 1);
    held.extend(take_all(&limiter, 2));
    let (sender, mut granted) = tokio::sync::mpsc::channel(16);
    let mut waiting = tokio::task::JoinSet::new();
    for owner in [1, 1, 1, 3] {
        let (limiter, sender) = (limiter.clone(), sender.clone());
        waiting.spawn(async move {
            let permit = limiter.acquire(owner).await;
            sender.send((owner, permit)).await.expect("the test receives");
        });
        yield_now().await;
    }
    assert!(limiter.is_awaited(1) && !limiter.is_awaited(2));
    held.clear();
    let mut order = Vec::new();
    for _ in 0..4 {
        let (owner, permit) = granted.recv().await.expect("all are served");
        order.push(owner);
        drop(permit);
    }
    assert_eq!(order.iter().position(|owner| *owner == 3), Some(1), "the other owner is second: {order:?}");
    assert_eq!(limiter.used(), 0);
}

#[tokio::test]
async fn waiter_that_leaves_costs_nobody_a_permit() {
    let limiter = FairLimiter::new(2, 1);
    let held = limiter.try_acquire(1, 1).expect("the first");
    let mut leaving = Box::pin(limiter.acquire(1));
    assert!(futures_poll_once(leaving.as_mut()).await);
    drop(leaving);
    assert!(!limiter.is_awaited(1));
    drop(held);
    assert!(limiter.try_acquire(1, 1).is_some());
    assert!(limiter.0.lock().turns.is_empty());
}

/// True if the future is not ready.
async fn futures_poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
    tokio::select! {
        biased;
        _ = future => false,
        () = yield_now() => true,
    }
}

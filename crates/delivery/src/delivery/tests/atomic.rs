use fanfare_sinks::{Abilities, Sink as _};

use super::*;

const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// A subscription whose sink takes eight events together, or none of them.
async fn batched(world: &World) -> (Arc<Subscription>, Arc<MemorySink>) {
    let held = world.subscribe("held", &["order"]).await;
    let sink = world.sink("held");
    sink.set_abilities(Abilities { batch_events_max: 8, atomic_batch: true, ..sink.abilities() });
    (held, sink)
}

/// Publishes while the sink hangs, so that batches are full when it goes on.
async fn publish_together(world: &World, held: &Subscription, sink: &MemorySink) {
    sink.hang();
    world.publish("order", &KEYS, 0..1).await;
    let begun = sink.attempts_when(|attempts| attempts.running == 1);
    timeout(DEADLINE, begun).await.expect("the first is attempted");
    world.publish("order", &KEYS, 1..40).await;
    world.stats_when(held, |stats| stats.matched == 40).await;
    sink.up();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_events_at_fault_of_rejected_atomic_batches_become_dead_letters() {
    let world = World::new().await;
    let (held, sink) = batched(&world).await;
    let why = Failure::new(Failure::HTTP_STATUS, "not a b").with_status(400);
    sink.fail_key(KeyHash::of("b"), Answer::Rejected { why });
    publish_together(&world, &held, &sink).await;
    let stats = world.settled(&held, 40).await;
    assert_eq!((stats.delivered, stats.dead_lettered), (30, 10));
    let delivered = sink.delivered();
    let others: Vec<_> = (0..40).filter(|number| KEYS[number % KEYS.len()] != "b").collect();
    assert_eq!(sorted(&delivered), others, "each of the others once");
    check_order(&delivered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn atomic_batches_that_fail_for_a_while_are_delivered_once_and_in_order() {
    let world = World::new().await;
    let (held, sink) = batched(&world).await;
    sink.fail_next(9, busy("later"));
    publish_together(&world, &held, &sink).await;
    let stats = world.settled(&held, 40).await;
    assert_eq!((stats.delivered, stats.dead_lettered), (40, 0));
    let delivered = sink.delivered();
    assert_eq!(sorted(&delivered), (0..40).collect::<Vec<_>>(), "each once");
    check_order(&delivered);
}

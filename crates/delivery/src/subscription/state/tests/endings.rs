//! Events and subscriptions that come to an end otherwise than by a delivery.

use super::*;

#[test]
fn matched_events_that_the_log_lost_are_settled_with_their_reason() {
    let record = CursorRecord { read_to: Offset(2), window: vec![Offset(1)], parked: vec![], outage: None };
    let counters = Counters { matched: 4, settled: BTreeMap::from([(Outcome::Delivered, 1)]) };
    let mut world = World::new(vec![1; 4], 0);
    world.fan_out_offset = 4;
    let values = InputValues { now_ms: 0, fan_out_offset: Offset(4), random: 1 };
    world.machine = SubscriptionState::restore(options(), &attachment(None), counters, Some(record), values);
    let reads = |actions: Actions| {
        let reads = actions.work.into_iter().map(|action| match action {
            Action::Read(read) => read,
            action => panic!("{action:?}"),
        });
        reads.collect::<Vec<_>>()
    };
    assert_eq!(reads(world.tick()), [ReadAction::Reload(vec![Offset(1)])]);
    world.on(SubscriptionEvent::EventsReloaded(vec![ReloadedEvent { offset: Offset(1), event: None }]));
    assert_eq!(reads(world.tick()), [ReadAction::Backlog { from: Offset(2), end: Offset(4) }]);
    let events = vec![world.event(3)];
    world.on(SubscriptionEvent::BacklogRead { events, end: Offset(4) });
    let mut progress = None;
    world.run(|machine, inputs, _| progress = Some(machine.propose(inputs)));
    let progress = progress.unwrap();
    assert_eq!(progress.lost, 1);
    assert_eq!(progress.settled, BTreeMap::from([(Outcome::Cancelled(Reason::Unreadable), 2)]));
    assert_eq!(progress.record.unwrap().window, [Offset(3)]);
}

#[test]
fn detached_subscription_starts_nothing_and_still_replicates_its_progress() {
    let mut world = World::new(vec![1, 2], 0);
    world.fan_out(2);
    let item = world.attempt(SINGLE).remove(0);
    world.end(Work::Attempt(item), How::Well);
    world.advance();
    let actions = world.on(SubscriptionEvent::Detached);
    assert!(actions.run_worker, "the worker aborts its actions");
    assert!(world.tick().work.is_empty() && world.attempt(SINGLE).is_empty());
    world.apply();
    assert_eq!(world.machine.counters().settled, BTreeMap::from([(Outcome::Delivered, 1)]));
    assert_eq!(world.machine.window.settled_unreplicated(), 0);
}

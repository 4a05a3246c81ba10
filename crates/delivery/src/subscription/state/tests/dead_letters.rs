//! Dead letters that cannot be written: held events, and events that retention overtakes.

use fanfare_partition::ParkedKey;

use super::{
    batches::{dead_letters, end_reads, finish, handed_over, rejected, rejected_again, retry},
    *,
};

fn refuse(world: &mut World, why: DeadLetterFailure) {
    let [request] = <[DeadLetterRequest; 1]>::try_from(dead_letters(world)).expect("one dead letter");
    world.on(SubscriptionEvent::DeadLetterFailed { request, why });
}

/// Passes the time until the next try.
fn wait(world: &mut World) {
    assert!(dead_letters(world).is_empty(), "the dead letter waits before the next try");
    world.now_ms = world.tick().wake_at_ms.expect("the dead letter is tried again");
}

#[test]
fn retention_settles_without_a_dead_letter_when_the_stream_is_full_or_the_disk() {
    let table = [
        (DeadLetterFailure::DiskFull, Reason::Retention),
        (DeadLetterFailure::OverQuota, Reason::DeadLetterBudget),
    ];
    for (why, reason) in table {
        let mut world = handed_over(&[1, 2]);
        world.on(SubscriptionEvent::ExpireBelow(Offset(1)));
        refuse(&mut world, DeadLetterFailure::Unavailable);
        wait(&mut world);
        refuse(&mut world, why);
        assert_eq!(world.machine.low_water(), Some(Offset(1)));
        assert_eq!(world.machine.counters().settled, BTreeMap::from([(Outcome::Expired(reason), 1)]));
    }
}

#[test]
fn event_over_quota_is_held_with_its_key_until_there_is_room() {
    let mut world = handed_over(&[1, 1, 2]);
    let items = world.attempt(SINGLE);
    finish(&mut world, items, [rejected()], false);
    let items = world.attempt(SINGLE);
    assert_eq!(items[0].event.offset, Offset(2), "only the key of the held event waits");
    finish(&mut world, items, [Answer::Delivered], false);
    let items = rejected_again(&mut world);
    finish(&mut world, items, [rejected()], false);
    refuse(&mut world, DeadLetterFailure::OverQuota);
    for _ in 0..3 {
        wait(&mut world);
        refuse(&mut world, DeadLetterFailure::OverQuota);
        assert!(world.attempt(SINGLE).is_empty());
    }
    assert_eq!(world.machine.counters().settled, BTreeMap::from([(Outcome::Delivered, 1)]));
    wait(&mut world);
    for request in dead_letters(&mut world) {
        world.end_dead_letter(request, true);
    }
    assert_eq!(world.dead_lettered, BTreeSet::from([0]));
    world.begin_actions();
    end_reads(&mut world);
    world.begin_actions();
    assert_eq!(world.attempt(SINGLE)[0].event.offset, Offset(1));
}

#[test]
fn parked_event_over_quota_stays_parked_until_retention_overtakes_it() {
    let mut world = handed_over(&[1, 1]);
    // The first event fails; between the attempts its key is parked and read again.
    let request = 'attempts: loop {
        world.begin();
        for work in std::mem::take(&mut world.works) {
            match work {
                Work::Attempt(item) => world.end(Work::Attempt(item), How::Later),
                Work::Read(read) => world.end(Work::Read(read), How::Well),
                Work::DeadLetter(request) => break 'attempts request,
            }
        }
        world.now_ms += 60;
        assert!(world.now_ms < 60_000, "an event is given up after its last attempt");
    };
    assert!(request.item.parked);
    world.on(SubscriptionEvent::DeadLetterFailed { request, why: DeadLetterFailure::OverQuota });
    assert_eq!((world.machine.parked_keys(), world.machine.low_water()), (1, Some(Offset(0))));
    wait(&mut world);
    refuse(&mut world, DeadLetterFailure::OverQuota);
    assert!(world.attempt(SINGLE).is_empty(), "the event was given up and is not attempted again");

    world.on(SubscriptionEvent::ExpireBelow(Offset(1)));
    wait(&mut world);
    refuse(&mut world, DeadLetterFailure::OverQuota);
    let expired = BTreeMap::from([(Outcome::Expired(Reason::DeadLetterBudget), 1)]);
    assert_eq!(world.machine.counters().settled, expired);
    assert_eq!(world.machine.low_water(), Some(Offset(1)));
}

#[test]
fn expired_parked_key_whose_read_fails_is_read_again_after_a_pause() {
    let mut world = World::new(vec![1, 1], 0);
    let parked = ParkedKey { key: KeyHash(1), from: Offset(0), attempts: 1, retry_in_ms: 5_000, pending: 2 };
    let record = CursorRecord { read_to: Offset(2), window: vec![], parked: vec![parked], outage: None };
    let counters = Counters { matched: 2, ..Counters::default() };
    let values = InputValues { now_ms: 0, fan_out_offset: Offset(2), random: 1 };
    world.fan_out_offset = 2;
    world.machine = SubscriptionState::restore(options(), &attachment(None), counters, Some(record), values);
    world.on(SubscriptionEvent::ExpireBelow(Offset(2)));
    let reads = |actions: &Actions| {
        actions
            .work
            .iter()
            .filter(|action| matches!(action, Action::Read(ReadAction::ScanKeys { .. })))
            .count()
    };
    let mut actions = world.tick();
    assert_eq!(reads(&actions), 1, "an expired key is read before its retry is due");
    let Some(Action::Read(read)) = actions.work.pop() else { panic!("{actions:?}") };
    world.on(SubscriptionEvent::ReadFailed(read));
    world.now_ms = 999;
    let actions = world.tick();
    assert_eq!((reads(&actions), actions.wake_at_ms), (0, Some(1_000)));
    world.now_ms = 1_000;
    assert_eq!(reads(&world.tick()), 1);
}

#[test]
fn retention_does_not_wait_for_the_next_try_of_a_key_that_found_no_room() {
    let mut world = handed_over(&[1, 2, 3]);
    for offset in 0..3 {
        let items = world.attempt(SINGLE);
        assert_eq!(items[0].event.offset, Offset(offset));
        finish(&mut world, items, [retry()], false);
    }
    assert_eq!(world.machine.parked_keys(), 2, "the third key waits in the window");
    world.on(SubscriptionEvent::ExpireBelow(Offset(3)));
    let given_up = world.tick().work.into_iter().filter_map(|action| match action {
        Action::WriteDeadLetter(request) => Some(request.item.event.offset),
        _ => None,
    });
    assert_eq!(given_up.collect::<Vec<_>>(), [Offset(2)], "the parked keys are read first");
}

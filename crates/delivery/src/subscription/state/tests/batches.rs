//! Batches with several events of one key: order, dead letters and the counts.

use super::*;

const BATCH: Abilities = Abilities { batch_events_max: 4, atomic_batch: false, ..SINGLE };

fn why() -> Failure {
    Failure { class: "test", status: 400, message: String::new() }
}

pub(super) fn rejected() -> Answer {
    Answer::Rejected { why: why() }
}

pub(super) fn retry() -> Answer {
    Answer::Retry { after: None, why: why() }
}

fn offsets(items: &[AttemptItem]) -> Vec<u64> {
    items.iter().map(|item| item.event.offset.0).collect()
}

/// A world whose machine is live and was handed these events.
pub(super) fn handed_over(keys: &[u64]) -> World {
    let mut world = World::new(keys.to_vec(), 0);
    world.fan_out(keys.len() as u64);
    world
}

/// Like [`handed_over`], where the schema check of one event fails.
fn handed_over_with_invalid(keys: &[u64], invalid: u64) -> World {
    let mut world = World::new(keys.to_vec(), 0);
    world.fan_out_offset = keys.len() as u64;
    for offset in 0..world.fan_out_offset {
        let mut event = world.event(offset);
        if offset == invalid {
            event.schema = SchemaCheck::Failed("not valid".into());
        }
        world.on(SubscriptionEvent::Matched(event));
    }
    world
}

/// The dead letters to write, from the last attempt and from a tick.
pub(super) fn dead_letters(world: &mut World) -> Vec<DeadLetterRequest> {
    world.begin_actions();
    std::mem::take(&mut world.works)
        .into_iter()
        .map(|work| match work {
            Work::DeadLetter(request) => request,
            Work::Attempt(_) | Work::Read(_) => panic!("only dead letters are expected"),
        })
        .collect()
}

fn dead_letters_fail(world: &mut World, requests: Vec<DeadLetterRequest>) {
    for request in requests {
        world.end_dead_letter(request, false);
    }
    world.advance();
    world.apply();
}

pub(super) fn finish(
    world: &mut World,
    items: Vec<AttemptItem>,
    outcomes: impl IntoIterator<Item = Answer>,
    atomic: bool,
) {
    let results: Vec<_> =
        items.into_iter().zip(outcomes).map(|(item, outcome)| AttemptResult { item, outcome }).collect();
    for AttemptResult { item, outcome } in &results {
        if *outcome == Answer::Delivered {
            world.settled.insert(item.event.offset.0);
            world.delivered.push(item.event.offset.0);
            world.delivered_since_crash.insert(item.event.offset.0);
        }
    }
    world.on(SubscriptionEvent::AttemptFinished { results, atomic });
    world.breaker.end_attempt(world.probe);
}

/// The next attempt of a held event, after its backoff.
pub(super) fn rejected_again(world: &mut World) -> Vec<AttemptItem> {
    world.now_ms += 100;
    for _ in 0..2 {
        world.begin_actions();
        end_reads(world);
    }
    world.attempt(SINGLE)
}

/// Ends the running reads well.
pub(super) fn end_reads(world: &mut World) {
    for work in std::mem::take(&mut world.works) {
        match work {
            read @ Work::Read(_) => world.end(read, How::Well),
            other => world.works.push(other),
        }
    }
}

fn check_all_settled(mut world: World) -> World {
    world.heal();
    assert_eq!(world.settled.len(), world.log.len());
    world
}

#[test]
fn rejected_event_is_a_dead_letter_when_it_is_rejected_again_after_a_delivery_on_another_key() {
    let mut world = handed_over(&[1, 1, 2]);
    let items = world.attempt(SINGLE);
    finish(&mut world, items, [rejected()], false);
    assert!(dead_letters(&mut world).is_empty());
    let items = world.attempt(SINGLE);
    assert_eq!(offsets(&items), [2]);
    finish(&mut world, items, [Answer::Delivered], false);
    let items = rejected_again(&mut world);
    assert_eq!(offsets(&items), [0]);
    finish(&mut world, items, [rejected()], false);
    let requests = dead_letters(&mut world);
    let reasons: Vec<_> = requests.iter().map(|request| (request.reason, request.attempts)).collect();
    assert_eq!(reasons, [(Reason::Rejected, 2)]);
    dead_letters_fail(&mut world, requests);
    let world = check_all_settled(world);
    assert_eq!((world.dead_lettered, world.delivered), (BTreeSet::from([0]), vec![2, 1]));
}

#[test]
fn event_that_must_not_be_sent_is_given_up_before_later_events_of_its_key_are_sent() {
    let mut world = handed_over_with_invalid(&[1, 1, 2], 0);
    let items = world.attempt(BATCH);
    assert_eq!(offsets(&items), [2]);
    finish(&mut world, items, [Answer::Delivered], false);
    let requests = dead_letters(&mut world);
    assert_eq!(requests.len(), 1);
    assert_eq!((requests[0].reason, requests[0].detail.as_str()), (Reason::SchemaVersion, "not valid"));
    dead_letters_fail(&mut world, requests);
    let world = check_all_settled(world);
    assert_eq!((world.dead_lettered, world.delivered), (BTreeSet::from([0]), vec![2, 1]));
}

#[test]
fn event_that_must_not_be_sent_waits_for_earlier_events_of_its_key() {
    let mut world = handed_over_with_invalid(&[1, 1, 1], 1);
    let items = world.attempt(BATCH);
    assert_eq!(offsets(&items), [0]);
    assert!(dead_letters(&mut world).is_empty(), "the event is not given up before its turn");
    finish(&mut world, items, [retry()], false);
    world.advance();
    world.apply();
    assert_eq!(world.machine.parked_keys(), 1);
    assert_eq!(check_all_settled(world).delivered, [0, 1, 2], "the log has the event as valid");
}

#[test]
fn event_too_large_for_the_sink_is_given_up_without_an_attempt() {
    let mut world = handed_over(&[1, 2]);
    let small = Abilities { event_bytes_max: 4, ..BATCH };
    assert!(world.attempt(small).is_empty());
    let requests = dead_letters(&mut world);
    let reasons: Vec<_> = requests.iter().map(|request| (request.reason, request.attempts)).collect();
    assert_eq!(reasons, [(Reason::TooLarge, 0), (Reason::TooLarge, 0)]);
    assert_eq!(requests[0].detail, "the event has 5 bytes, the sink takes 4");
}

#[test]
fn refused_event_starts_no_probe() {
    let mut world = handed_over(&[1]);
    world.breaker.trip(0, |_| 0);
    let small = Abilities { event_bytes_max: 4, ..BATCH };
    assert!(world.attempt(small).is_empty());
    assert_eq!(world.breaker.allowed(0), crate::judgement::Allowed::OneProbe);
}

#[test]
fn only_the_event_at_fault_of_a_rejected_atomic_batch_becomes_a_dead_letter() {
    let abilities = Abilities { atomic_batch: true, ..BATCH };
    let mut world = handed_over(&[1, 2, 2, 3, 4, 5]);
    let at_fault = 1;
    let mut sent = Vec::new();
    loop {
        world.now_ms += 100;
        world.begin_actions();
        end_reads(&mut world);
        for request in dead_letters(&mut world) {
            world.end_dead_letter(request, true);
        }
        for _ in 0..2 {
            world.begin_actions();
            end_reads(&mut world);
        }
        let items = world.attempt(abilities);
        if items.is_empty() {
            break;
        }
        sent.push(offsets(&items));
        let rejects = offsets(&items).contains(&at_fault);
        let outcome = if rejects { rejected() } else { Answer::Delivered };
        let outcomes = vec![outcome; items.len()];
        finish(&mut world, items, outcomes, true);
    }
    assert_eq!(sent, [vec![0, 1, 2, 3], vec![0], vec![1], vec![3], vec![4, 5], vec![1], vec![2]]);
    assert_eq!(world.dead_lettered, BTreeSet::from([at_fault]));
    assert_eq!(world.settled.len(), 6);
}

#[test]
fn failed_atomic_batch_parks_no_key_before_each_event_was_tried_alone() {
    let abilities = Abilities { atomic_batch: true, ..BATCH };
    let mut world = handed_over(&[1, 2, 3]);
    let items = world.attempt(abilities);
    finish(&mut world, items, [retry(), retry(), retry()], true);
    assert_eq!((world.machine.parked_keys(), world.breaker.is_down()), (0, false));
    assert_eq!(offsets(&world.attempt(abilities)), [0]);
    assert_eq!(offsets(&world.attempt(abilities)), [1]);
}

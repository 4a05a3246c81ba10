//! What a batch with several events of one key may do to the account.

use super::*;

const BATCH: Abilities = Abilities { batch_events_max: 4, atomic_batch: false, ..SINGLE };

fn why() -> Failure {
    Failure { class: "test", status: 400, message: String::new() }
}

fn rejected() -> Answer {
    Answer::Rejected { why: why() }
}

fn retry() -> Answer {
    Answer::Retry { after: None, why: why() }
}

fn refused() -> Result<(), (Reason, String)> {
    Err((Reason::TooLarge, String::new()))
}

fn offsets(items: &[Item]) -> Vec<u64> {
    items.iter().map(|item| item.held.offset.0).collect()
}

/// A world whose flight follows and was handed these events.
fn handed_over(keys: &[u64]) -> World {
    let mut world = World::new(keys.to_vec(), 0);
    world.fan_out(keys.len() as u64);
    world
}

fn letters(world: &mut World) -> Vec<Letter> {
    let moment = world.moment();
    let mut letters = Vec::new();
    while let Some(errand) = world.flight.next_errand(moment) {
        let Errand::Letter(letter) = errand else { panic!("{errand:?}") };
        letters.push(letter);
    }
    letters
}

fn letters_fail(world: &mut World, letters: Vec<Letter>) {
    for letter in letters {
        let moment = world.moment();
        world.flight.letter_failed(letter, false, moment);
    }
    world.advance();
    world.apply();
}

fn finish(world: &mut World, answers: Vec<(Item, Answer)>) {
    let moment = world.moment();
    for (item, answer) in &answers {
        if *answer == Answer::Delivered {
            world.settled.insert(item.held.offset.0);
            world.delivered.push(item.held.offset.0);
        }
    }
    world.flight.finish(answers, moment);
}

fn check_all_settled(mut world: World) -> World {
    world.heal();
    assert_eq!(world.settled.len(), world.log.len());
    world
}

#[test]
fn two_rejections_of_one_key_in_one_batch_are_given_up_one_after_the_other() {
    let mut world = handed_over(&[1, 1, 1]);
    let items = world.flight.next_attempt(0, BATCH);
    assert_eq!(offsets(&items), [0, 1, 2]);
    finish(&mut world, items.into_iter().map(|item| (item, rejected())).collect());
    let letters = letters(&mut world);
    assert_eq!(letters.iter().map(|letter| letter.item.held.offset.0).collect::<Vec<_>>(), [0]);
    letters_fail(&mut world, letters);
    let world = check_all_settled(world);
    assert_eq!((world.lettered, world.delivered), (BTreeSet::from([0]), vec![1, 2]));
}

#[test]
fn a_letter_that_fails_does_not_bring_back_what_was_delivered_behind_its_event() {
    let mut world = handed_over(&[1, 1, 1]);
    let items = world.flight.next_attempt(0, BATCH);
    let answers = [rejected(), Answer::Delivered, rejected()];
    finish(&mut world, items.into_iter().zip(answers).collect());
    let letters = letters(&mut world);
    letters_fail(&mut world, letters);
    let world = check_all_settled(world);
    assert_eq!((world.lettered, world.delivered), (BTreeSet::from([0]), vec![1, 2]));
}

#[test]
fn behind_an_event_that_must_not_be_sent_nothing_of_its_key_is_sent() {
    let mut world = handed_over(&[1, 1, 2]);
    let items = world.flight.next_attempt(0, BATCH);
    assert_eq!(offsets(&items), [0, 1, 2]);
    let checked = items.into_iter().zip([refused(), Ok(()), Ok(())]).collect();
    let (taken, deliveries) = world.flight.send(checked);
    assert_eq!((offsets(&taken), deliveries.len()), (vec![2], 1));
    finish(&mut world, taken.into_iter().map(|item| (item, Answer::Delivered)).collect());
    let letters = letters(&mut world);
    letters_fail(&mut world, letters);
    let world = check_all_settled(world);
    assert_eq!((world.lettered, world.delivered), (BTreeSet::from([0]), vec![2, 1]));
}

#[test]
fn an_event_that_must_not_be_sent_waits_for_those_of_its_key_before_it() {
    let mut world = handed_over(&[1, 1, 1]);
    let items = world.flight.next_attempt(0, BATCH);
    let checked = items.into_iter().zip([Ok(()), refused(), Ok(())]).collect();
    let (taken, _) = world.flight.send(checked);
    assert_eq!(offsets(&taken), [0]);
    assert!(letters(&mut world).is_empty(), "it is not given up before its turn");
    finish(&mut world, taken.into_iter().map(|item| (item, retry())).collect());
    world.advance();
    world.apply();
    assert_eq!(world.flight.parked_keys(), 1);
    assert_eq!(check_all_settled(world).delivered, [0, 1, 2]);
}

#[test]
fn what_retention_overtakes_is_settled_without_a_letter_when_the_disk_is_full() {
    let mut world = handed_over(&[1, 2]);
    world.flight.expire(Offset(1));
    let [letter] = <[Letter; 1]>::try_from(letters(&mut world)).unwrap();
    let moment = world.moment();
    world.flight.letter_failed(letter, false, moment);
    assert!(letters(&mut world).is_empty(), "it waits before it tries again");
    world.now_ms = world.flight.deadline_ms(world.now_ms).expect("the letter is tried again");
    let [letter] = <[Letter; 1]>::try_from(letters(&mut world)).unwrap();
    let moment = world.moment();
    world.flight.letter_failed(letter, true, moment);
    assert_eq!(world.flight.low_water(), Some(Offset(1)));
    let expired = BTreeMap::from([(Outcome::Expired(Reason::Retention), 1)]);
    assert_eq!(world.flight.counters().settled, expired);
}

#[test]
fn of_an_atomic_batch_that_is_rejected_only_the_event_at_fault_becomes_a_dead_letter() {
    let abilities = Abilities { atomic_batch: true, ..BATCH };
    let mut world = handed_over(&[1, 2, 2, 3, 4, 5]);
    let at_fault = 1;
    let mut sent = Vec::new();
    loop {
        for letter in letters(&mut world) {
            let moment = world.moment();
            world.end_errand(Errand::Letter(letter), true, moment);
        }
        let items = world.flight.next_attempt(world.now_ms, abilities);
        if items.is_empty() {
            break;
        }
        sent.push(offsets(&items));
        let rejects = offsets(&items).contains(&at_fault);
        let answer = if rejects { rejected() } else { Answer::Delivered };
        let answers: Vec<_> = items.into_iter().map(|item| (item, answer.clone())).collect();
        if !rejects {
            world.settled.extend(answers.iter().map(|(item, _)| item.held.offset.0));
        }
        let moment = world.moment();
        world.flight.finish_atomic(answers, moment);
    }
    assert_eq!(sent, [vec![0, 1, 2, 3], vec![0], vec![1], vec![3], vec![4, 5], vec![2]]);
    assert_eq!(world.lettered, BTreeSet::from([at_fault]));
    assert_eq!(world.settled.len(), 6);
}

#[test]
fn a_sink_that_puts_off_a_whole_batch_parks_nothing_before_each_was_tried_alone() {
    let abilities = Abilities { atomic_batch: true, ..BATCH };
    let mut world = handed_over(&[1, 2, 3]);
    let items = world.flight.next_attempt(0, abilities);
    let moment = world.moment();
    world.flight.finish_atomic(items.into_iter().map(|item| (item, retry())).collect(), moment);
    assert_eq!((world.flight.parked_keys(), world.flight.is_down()), (0, false));
    assert_eq!(offsets(&world.flight.next_attempt(0, abilities)), [0]);
    assert_eq!(offsets(&world.flight.next_attempt(0, abilities)), [1]);
}

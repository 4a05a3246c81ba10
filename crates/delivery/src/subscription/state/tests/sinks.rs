//! Sinks that take some keys and fail others: who is held back, and for how long.

use proptest::prelude::*;

use super::*;

/// Answers for the events of each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Temper {
    Takes,
    Fails,
    Rejects,
    /// As a destination that is gone for this key.
    Down,
}

impl World {
    /// Runs until `done`, with a sink of these tempers. Returns the requests made.
    fn serve(&mut self, tempers: &[Temper], rounds_max: usize, done: impl Fn(&Self) -> bool) -> usize {
        let mut requests = 0;
        for _ in 0..rounds_max {
            if done(self) {
                return requests;
            }
            self.fan_out(3);
            self.begin();
            for work in std::mem::take(&mut self.works) {
                let how = match &work {
                    Work::Attempt(item) => {
                        requests += 1;
                        match tempers[usize::try_from(item.event.key.0).unwrap()] {
                            Temper::Takes => How::Well,
                            Temper::Fails => How::Later,
                            Temper::Rejects => How::Refused,
                            Temper::Down => How::Down,
                        }
                    }
                    Work::Read(_) | Work::DeadLetter(_) => How::Well,
                };
                self.end(work, how);
            }
            self.advance();
            self.apply();
            self.check();
            self.now_ms += 20;
        }
        panic!("not done after {rounds_max} rounds and {requests} requests: {:?}", self.machine.low_water());
    }

    fn patient(keys: Vec<u64>, parked_keys_max: usize) -> Self {
        let mut world = Self::new(keys, 0);
        let mut options = (*options()).clone();
        options.retry.attempts_max = None;
        options.parked_keys_max = parked_keys_max;
        world.options = Arc::new(options);
        world.crash();
        world
    }
}

fn temper() -> impl Strategy<Value = Temper> {
    prop_oneof![Just(Temper::Takes), Just(Temper::Fails), Just(Temper::Rejects), Just(Temper::Down)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn keys_that_the_sink_takes_are_delivered_whatever_the_others_do(
        tempers in prop::collection::vec(temper(), 2..8),
        taken in any::<prop::sample::Index>(),
        events in prop::collection::vec(any::<prop::sample::Index>(), 1..60),
    ) {
        let mut tempers = tempers;
        let keys = tempers.len();
        tempers[taken.index(keys)] = Temper::Takes;
        let log: Vec<u64> = events.iter().map(|event| event.index(keys) as u64).collect();
        let mut world = World::patient(log, keys);
        let is_taken = |world: &World, offset: u64| {
            tempers[usize::try_from(world.key(offset).0).unwrap()] == Temper::Takes
        };
        world.serve(&tempers, 2_000, |world| {
            let mut published = 0..world.log.len() as u64;
            published.all(|offset| !is_taken(world, offset) || world.settled.contains(&offset))
        });
        for offset in 0..world.log.len() as u64 {
            if is_taken(&world, offset) {
                prop_assert!(world.delivered.contains(&offset), "{offset} is not given up");
            }
        }
        let counters = world.machine.counters();
        let given_up = counters.settled.keys().filter(|outcome| **outcome != Outcome::Delivered);
        prop_assert!(given_up.clone().all(|outcome| *outcome == Outcome::DeadLettered(Reason::Rejected)));
        // The sink takes everything from here on.
        world.heal();
        prop_assert_eq!(world.settled.len(), world.log.len());
    }
}

#[test]
fn one_event_that_never_passes_keeps_no_healthy_sink_closed() {
    // The bad event is the first to meet an outage of all keys.
    let tempers = [Temper::Down, Temper::Takes, Temper::Takes, Temper::Takes];
    let mut world = World::patient((0..400).map(|event| event % 4).collect(), 4);
    world.breaker.trip(0, |_| 0);
    let requests = world.serve(&tempers, 2_000, |world| world.delivered.len() == 300);
    assert!(requests < 450, "{requests} requests for 300 events");
}

#[test]
fn sink_that_rejects_everything_loses_nothing() {
    let mut world = World::patient((0..60).map(|event| event % 5).collect(), 5);
    let rejects = [Temper::Rejects; 5];
    world.serve(&rejects, 1_001, |world| world.now_ms >= 20_000);
    assert_eq!((world.settled.len(), world.breaker.outage()), (0, Some(Outage::RejectsEverything)));
    world.heal();
    assert_eq!((world.delivered.len(), world.dead_lettered.len()), (60, 0));
}

#[test]
fn throttled_batch_stays_a_batch_and_counts_no_attempt() {
    let abilities = Abilities { batch_events_max: 4, atomic_batch: true, ..SINGLE };
    let mut world = batches::handed_over(&[1, 2, 2, 3]);
    let why = Failure { class: "test", status: 429, message: String::new() };
    for round in 0..5 {
        let items = world.attempt(abilities);
        assert_eq!(items.len(), 4, "round {round}");
        let after = Some(std::time::Duration::from_secs(1));
        let throttled = vec![Answer::Throttled { after, why: why.clone() }; 4];
        batches::finish(&mut world, items, throttled, true);
        assert_eq!(world.tick().wake_at_ms, Some(world.now_ms + 1_000));
        assert!(world.attempt(abilities).is_empty(), "nothing goes out before the time that the sink named");
        world.now_ms += 1_000;
        // A probe is one event.
        let probe = world.attempt(abilities);
        assert_eq!(probe.len(), 1);
        batches::finish(&mut world, probe, [Answer::Throttled { after, why: why.clone() }], true);
        world.now_ms += 1_000;
        world.breaker = CircuitBreaker::new(64);
    }
    assert_eq!(world.machine.parked_keys(), 0);
}

#[test]
fn partly_throttled_batch_keeps_its_deliveries_and_waits_with_the_rest() {
    let mut world = batches::handed_over(&[1, 2, 3, 4]);
    let items = world.attempt(Abilities { batch_events_max: 4, atomic_batch: false, ..SINGLE });
    let why = Failure { class: "throttled", status: 0, message: String::new() };
    let throttled = Answer::Throttled { after: None, why };
    let outcomes = [Answer::Delivered, throttled.clone(), throttled, Answer::Delivered];
    batches::finish(&mut world, items, outcomes, false);
    assert_eq!(world.delivered, [0, 3]);
    assert_eq!(world.breaker.outage(), Some(Outage::Throttled));
    let wake_at_ms = world.tick().wake_at_ms.expect("the rest is sent again");
    assert!(world.attempt(SINGLE).is_empty() && wake_at_ms > world.now_ms);
    world.now_ms = wake_at_ms;
    assert_eq!(world.attempt(SINGLE).len(), 1);
    assert_eq!(world.machine.parked_keys(), 0);
}

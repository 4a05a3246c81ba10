//! After any sequence of events each replicated record names exactly the unsettled events, and in the end every event is
//! settled once.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Publish {
        keys: [u8; 4],
    },
    FanOut {
        events: u64,
    },
    /// Starts everything that may start.
    Begin,
    /// Ends one of the running actions.
    End {
        which: usize,
        how: How,
    },
    Advance,
    Apply,
    Pass {
        millis: u64,
    },
    Pause,
    Resume,
    Expire {
        share: u64,
    },
    Crash,
}

impl World {
    fn step(&mut self, step: Step) {
        match step {
            Step::Publish { keys } => self.log.extend(keys.map(u64::from)),
            Step::FanOut { events } => self.fan_out(events),
            Step::Begin => self.begin(),
            Step::End { which, how } if !self.works.is_empty() => {
                let work = self.works.swap_remove(which % self.works.len());
                self.end(work, how);
            }
            Step::End { .. } => {}
            Step::Advance => self.advance(),
            Step::Apply => self.apply(),
            Step::Pass { millis } => self.now_ms += millis,
            Step::Pause => drop(self.on(SubscriptionEvent::PauseChanged { paused: true })),
            Step::Resume => drop(self.on(SubscriptionEvent::PauseChanged { paused: false })),
            Step::Expire { share } => {
                let below = Offset(self.applied.frontier * share / 4);
                self.on(SubscriptionEvent::ExpireBelow(below));
            }
            Step::Crash => self.crash(),
        }
        self.check();
    }
}

fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![5 => Just(How::Well), 2 => Just(How::Later), 1 => Just(How::Refused), 1 => Just(How::Down)];
    prop_oneof![
        4 => prop::array::uniform4(0u8..5).prop_map(|keys| Step::Publish { keys }),
        4 => (1u64..8).prop_map(|events| Step::FanOut { events }),
        8 => Just(Step::Begin),
        12 => (any::<usize>(), how).prop_map(|(which, how)| Step::End { which, how }),
        4 => Just(Step::Advance),
        4 => Just(Step::Apply),
        3 => (1u64..60).prop_map(|millis| Step::Pass { millis }),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => (0u64..=4).prop_map(|share| Step::Expire { share }),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn records_name_exactly_the_unsettled_events_and_every_event_ends_settled_once(
        before in prop::collection::vec(0u64..5, 0..40),
        steps in prop::collection::vec(step(), 0..250),
    ) {
        let fan_out_offset = before.len() as u64;
        let mut world = World::new(before, fan_out_offset);
        for step in steps {
            world.step(step);
        }
        world.heal();
        let published = world.log.len();
        prop_assert_eq!(world.settled.len(), published);
        let counters = world.machine.counters();
        prop_assert_eq!((counters.matched, counters.pending()), (published as u64, 0));
        let cancelled = counters.settled.iter().any(|(outcome, _)| matches!(outcome, Outcome::Cancelled(_)));
        prop_assert!(!cancelled, "nothing was deleted and no filter changed");
        prop_assert!(world.first_attempts_are_in_order());
        let mut seen = BTreeSet::new();
        let mut newest = BTreeMap::new();
        let mut repeats = 0;
        for &offset in &world.delivered {
            if !seen.insert(offset) {
                repeats += 1;
                continue;
            }
            if world.dead_lettered.contains(&offset) {
                continue;
            }
            let before = newest.insert(world.key(offset), offset);
            prop_assert!(before.is_none_or(|before| before < offset), "{:?} before {}", before, offset);
        }
        prop_assert!(repeats <= world.repeats_allowed);
    }
}

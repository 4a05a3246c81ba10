//! A flight against a model of the log: whatever happens, in whatever order, each replicated record names exactly
//! what is unsettled, and in the end every event is settled once.

mod batches;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fanfare_model::{AccountId, SubscriptionId};
use fanfare_sinks::{Abilities, Failure, Outcome as Answer};
use proptest::prelude::*;

use super::*;
use crate::RetryPolicy;

const WINDOW: usize = 6;
pub(crate) const SINGLE: Abilities = Abilities {
    batch_events_max: 1,
    batch_bytes_max: 1 << 20,
    event_bytes_max: 1 << 20,
    keeps_key_order_in_batch: true,
    atomic_batch: true,
};

#[derive(Clone, Copy, Debug)]
enum Step {
    Publish {
        keys: [u8; 4],
    },
    FanOut {
        events: u64,
    },
    /// Begins all that may be begun.
    Begin,
    /// Ends one of what is under way.
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

#[derive(Clone, Copy, Debug)]
enum How {
    Well,
    Later,
    Refused,
    Down,
}

enum Work {
    Attempt(Item),
    Errand(Errand),
}

struct World {
    options: Arc<DeliveryOptions>,
    flight: Flight,
    /// Key of each event; all match.
    log: Vec<u64>,
    front: u64,
    now_ms: u64,
    random: u64,
    works: Vec<Work>,
    settled: BTreeSet<u64>,
    delivered: Vec<u64>,
    /// Ever kept as a dead letter: after a crash it may be delivered all the same, out of order.
    lettered: BTreeSet<u64>,
    repeats_allowed: usize,
    /// What the partition's state machine has applied, and what is on its way to it.
    applied: Replicated,
    proposed: Option<Replicated>,
}

#[derive(Clone, Default)]
struct Replicated {
    frontier: u64,
    counters: Counters,
    record: Option<CursorRecord>,
}

fn options() -> Arc<DeliveryOptions> {
    let retry = RetryPolicy {
        initial_ms: 10,
        max_ms: 50,
        factor: 2.0,
        attempts_max: 3,
        probe_initial_ms: 10,
        probe_max_ms: 40,
    };
    Arc::new(DeliveryOptions {
        window_events: WINDOW,
        window_bytes: 1 << 20,
        advance_interval_ms: 50,
        sink_concurrency: 4,
        retry,
        parked_keys_max: 2,
        dead_letter_bytes_max: 1 << 30,
        fanout_chunk_bytes: 1 << 10,
    })
}

fn attachment(matched_to: Option<Offset>) -> Attachment {
    Attachment {
        subscription: SubscriptionId::from_bytes([1; 16]),
        account: AccountId::from_bytes([2; 16]),
        epoch: 1,
        from: Offset::ZERO,
        filters: [].into(),
        matched_to,
    }
}

/// With the fan-out, nothing pending.
pub(crate) fn following(moment: Moment) -> Flight {
    Flight::restore(options(), &attachment(None), Default::default(), moment)
}

impl World {
    fn new(log: Vec<u64>, front: u64) -> Self {
        let options = options();
        let moment = Moment { now_ms: 0, front: Offset(front), random: 1 };
        let catches_up = (front > 0).then_some(Offset::ZERO);
        let flight = Flight::restore(options.clone(), &attachment(catches_up), Default::default(), moment);
        Self {
            options,
            flight,
            log,
            front,
            now_ms: 0,
            random: 1,
            works: Vec::new(),
            settled: BTreeSet::new(),
            delivered: Vec::new(),
            lettered: BTreeSet::new(),
            repeats_allowed: 0,
            applied: Replicated { frontier: front, ..Replicated::default() },
            proposed: None,
        }
    }

    fn moment(&mut self) -> Moment {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Moment { now_ms: self.now_ms, front: Offset(self.front), random: self.random }
    }

    fn held(&self, offset: u64) -> Held {
        let key = self.key(offset);
        let append_time = Timestamp(offset);
        Held { offset: Offset(offset), key, append_time, bytes: Bytes::from_static(b"event"), pin: None }
    }

    fn key(&self, offset: u64) -> KeyHash {
        KeyHash(self.log[usize::try_from(offset).unwrap()])
    }

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
            Step::Pause => self.flight.set_paused(true),
            Step::Resume => self.flight.set_paused(false),
            Step::Expire { share } => self.flight.expire(Offset(self.applied.frontier * share / 4)),
            Step::Crash => self.crash(),
        }
    }

    fn fan_out(&mut self, events: u64) {
        let start = self.front;
        self.front = (start + events).min(self.log.len() as u64);
        let moment = self.moment();
        for offset in start..self.front {
            if self.flight.counts(Offset(offset)) {
                self.flight.follow(self.held(offset), moment);
            }
        }
    }

    fn begin(&mut self) {
        loop {
            let moment = self.moment();
            if let Some(errand) = self.flight.next_errand(moment) {
                self.works.push(Work::Errand(errand));
                continue;
            }
            let items = self.flight.next_attempt(self.now_ms, SINGLE);
            if items.is_empty() {
                return;
            }
            self.works.extend(items.into_iter().map(Work::Attempt));
        }
    }

    fn end(&mut self, work: Work, how: How) {
        let moment = self.moment();
        let why = Failure { class: "test", status: 503, message: String::new() };
        match work {
            Work::Attempt(item) => {
                let offset = item.held.offset.0;
                let answer = match how {
                    How::Well => Answer::Delivered,
                    How::Later => Answer::Retry { after: None, why },
                    How::Refused => Answer::Rejected { why },
                    How::Down => Answer::SinkDown { after: None, why },
                };
                if answer == Answer::Delivered {
                    self.delivered.push(offset);
                    assert!(self.settled.insert(offset), "{offset} is settled once");
                }
                self.flight.finish(vec![(item, answer)], moment);
            }
            Work::Errand(errand) => self.end_errand(errand, matches!(how, How::Well | How::Refused), moment),
        }
    }

    fn end_errand(&mut self, errand: Errand, well: bool, moment: Moment) {
        match errand {
            Errand::Letter(letter) if well => {
                let offset = letter.item.held.offset.0;
                assert!(self.settled.insert(offset), "a letter settles once");
                self.lettered.insert(offset);
                self.flight.lettered(&letter.item, letter.reason, moment.now_ms);
            }
            Errand::Letter(letter) => self.flight.letter_failed(letter, false, moment),
            errand if !well => self.flight.errand_failed(&errand, moment),
            Errand::Load(offsets) => {
                let found = offsets.into_iter().map(|offset| (offset, Some(self.held(offset.0))));
                self.flight.loaded(found.collect());
            }
            Errand::Read { from, upto } => {
                let end = upto.0.min(from.0 + 9);
                let found = (from.0..end).map(|offset| self.held(offset)).collect();
                self.flight.read(found, Offset(end), moment);
            }
            Errand::Scan { key, from, upto } => {
                let end = upto.0.min(from.0 + 5);
                let found = (from.0..end).map(|offset| self.held(offset)).filter(|held| held.key == key);
                self.flight.scanned(key, found.collect(), Offset(end), moment);
            }
        }
    }

    /// The record has to name what the model says is unsettled.
    fn advance(&mut self) {
        if self.proposed.is_some() {
            return;
        }
        let moment = self.moment();
        let progress = self.flight.propose(moment);
        let mut counters = self.applied.counters.clone();
        counters.matched += progress.matched;
        for (outcome, count) in progress.settled {
            *counters.settled.entry(outcome).or_default() += count;
        }
        let matched_to = progress.matched_to.map_or(self.front, |matched_to| matched_to.0);
        let unsettled: BTreeSet<u64> =
            (0..matched_to).filter(|offset| !self.settled.contains(offset)).collect();
        let named = progress.record.as_ref().map(|record| self.named(record, matched_to)).unwrap_or_default();
        assert_eq!(named, unsettled);
        assert_eq!(counters.pending(), unsettled.len() as u64);
        assert_eq!(counters.matched, matched_to);
        self.proposed = Some(Replicated { frontier: self.front, counters, record: progress.record });
    }

    fn named(&self, record: &CursorRecord, matched_to: u64) -> BTreeSet<u64> {
        assert!(record.window.len() <= WINDOW);
        let mut named: BTreeSet<u64> = record.window.iter().map(|offset| offset.0).collect();
        for parked in &record.parked {
            let of_key = (parked.from.0..record.read_to.0).filter(|offset| self.key(*offset) == parked.key);
            let of_key: Vec<u64> = of_key.collect();
            assert_eq!(of_key.len() as u64, parked.pending, "{parked:?}");
            named.extend(of_key);
        }
        named.extend(record.read_to.0..matched_to);
        named
    }

    fn apply(&mut self) {
        if let Some(proposed) = self.proposed.take() {
            self.applied = proposed;
            self.flight.applied();
        }
    }

    /// What was settled and not replicated is forgotten and may come again: at most a window of it.
    fn crash(&mut self) {
        self.proposed = None;
        self.works.clear();
        let matched = self.applied.counters.matched;
        let named =
            self.applied.record.as_ref().map(|record| self.named(record, matched)).unwrap_or_default();
        let settled: BTreeSet<u64> = (0..matched).filter(|offset| !named.contains(offset)).collect();
        let forgotten =
            self.settled.difference(&settled).filter(|offset| self.delivered.contains(offset)).count();
        assert!(forgotten <= WINDOW, "{forgotten} would be repeated");
        self.repeats_allowed += forgotten;
        self.settled = settled;
        self.front = self.applied.frontier;
        let catches_up = (matched < self.front).then_some(Offset(matched));
        let state = (self.applied.counters.clone(), self.applied.record.clone());
        let moment = self.moment();
        self.flight = Flight::restore(self.options.clone(), &attachment(catches_up), state, moment);
    }

    /// Everything works from here on: all that was published is settled.
    fn heal(&mut self) {
        self.flight.set_paused(false);
        let mut rounds = 0;
        while !(self.front == self.log.len() as u64 && self.flight.is_done()) {
            self.fan_out(3);
            self.begin();
            for work in std::mem::take(&mut self.works) {
                self.end(work, How::Well);
            }
            self.advance();
            self.apply();
            self.now_ms += 50;
            rounds += 1;
            assert!(rounds < 10_000, "it never ends: {:?}", self.flight.low_water());
        }
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
    fn every_record_names_exactly_what_is_unsettled_and_everything_ends_settled_once(
        before in prop::collection::vec(0u64..5, 0..40),
        steps in prop::collection::vec(step(), 0..250),
    ) {
        let front = before.len() as u64;
        let mut world = World::new(before, front);
        for step in steps {
            world.step(step);
        }
        world.heal();
        let published = world.log.len();
        prop_assert_eq!(world.settled.len(), published);
        let counters = world.flight.counters();
        prop_assert_eq!((counters.matched, counters.pending()), (published as u64, 0));
        let cancelled = counters.settled.iter().any(|(outcome, _)| matches!(outcome, Outcome::Cancelled(_)));
        prop_assert!(!cancelled, "nothing was deleted or chosen otherwise");
        let mut seen = BTreeSet::new();
        let mut newest = BTreeMap::new();
        let mut repeats = 0;
        for &offset in &world.delivered {
            if !seen.insert(offset) {
                repeats += 1;
                continue;
            }
            if world.lettered.contains(&offset) {
                continue;
            }
            let before = newest.insert(world.key(offset), offset);
            prop_assert!(before.is_none_or(|before| before < offset), "{:?} before {}", before, offset);
        }
        prop_assert!(repeats <= world.repeats_allowed);
    }
}

#[test]
fn what_was_matched_and_is_not_found_again_is_settled_with_its_reason() {
    let record = CursorRecord { read_to: Offset(2), window: vec![Offset(1)], parked: vec![] };
    let counters = Counters { matched: 4, settled: BTreeMap::from([(Outcome::Delivered, 1)]) };
    let moment = Moment { now_ms: 0, front: Offset(4), random: 1 };
    let state = (counters, Some(record));
    let mut flight = Flight::restore(options(), &attachment(None), state, moment);
    let load = flight.next_errand(moment);
    assert!(matches!(&load, Some(Errand::Load(offsets)) if *offsets == [Offset(1)]), "{load:?}");
    flight.loaded(vec![(Offset(1), None)]);
    let read = flight.next_errand(moment);
    assert!(matches!(read, Some(Errand::Read { from: Offset(2), upto: Offset(4) })), "{read:?}");
    let (key, append_time, bytes) = (KeyHash(1), Timestamp(3), Bytes::from_static(b"event"));
    flight.read(vec![Held { offset: Offset(3), key, append_time, bytes, pin: None }], Offset(4), moment);
    let progress = flight.propose(moment);
    assert_eq!(progress.settled, BTreeMap::from([(Outcome::Cancelled(Reason::Unreadable), 2)]));
    assert_eq!(progress.record.unwrap().window, [Offset(3)]);
}

//! The state machine against a model of the log: after any sequence of events each replicated record names exactly the
//! unsettled events, and in the end every event is settled once.

mod batches;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fanfare_model::AccountId;
use fanfare_sinks::{Abilities, Failure, Outcome as Answer};
use proptest::prelude::*;

use super::{
    super::{
        buffered_event::DeadLetterRequest,
        event::{Action, AttemptResult},
    },
    *,
};
use crate::{RetryPolicy, judgement::CircuitBreaker};

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

#[derive(Clone, Copy, Debug)]
enum How {
    Well,
    Later,
    Refused,
    Down,
}

/// A running action; an attempt for each event.
enum Work {
    Attempt(AttemptItem),
    Read(ReadAction),
    DeadLetter(DeadLetterRequest),
}

pub(super) struct World {
    options: Arc<DeliveryOptions>,
    machine: SubscriptionState,
    breaker: CircuitBreaker,
    /// Key of each event; all match.
    log: Vec<u64>,
    fan_out_offset: u64,
    now_ms: u64,
    random: u64,
    works: Vec<Work>,
    settled: BTreeSet<u64>,
    delivered: Vec<u64>,
    /// Settled as delivered since the last crash.
    delivered_since_crash: BTreeSet<u64>,
    /// First attempts, in order.
    attempted: Vec<u64>,
    /// Ever written as a dead letter: after a crash the event may be delivered all the same, out of order.
    dead_lettered: BTreeSet<u64>,
    repeats_allowed: usize,
    /// Applied by the partition's state machine, and on the way to it.
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

/// A live subscription with nothing pending, where the fan-out stands at `fan_out_offset`.
pub(crate) fn live(fan_out_offset: Offset) -> SubscriptionState {
    let values = InputValues { now_ms: 0, fan_out_offset, random: 1 };
    SubscriptionState::restore(options(), &attachment(None), Counters::default(), None, values)
}

impl World {
    fn new(log: Vec<u64>, fan_out_offset: u64) -> Self {
        let lags_from = (fan_out_offset > 0).then_some(Offset::ZERO);
        let values = InputValues { now_ms: 0, fan_out_offset: Offset(fan_out_offset), random: 1 };
        let attachment = attachment(lags_from);
        Self {
            options: options(),
            machine: SubscriptionState::restore(options(), &attachment, Counters::default(), None, values),
            breaker: CircuitBreaker::default(),
            log,
            fan_out_offset,
            now_ms: 0,
            random: 1,
            works: Vec::new(),
            settled: BTreeSet::new(),
            delivered: Vec::new(),
            delivered_since_crash: BTreeSet::new(),
            attempted: Vec::new(),
            dead_lettered: BTreeSet::new(),
            repeats_allowed: 0,
            applied: Replicated { frontier: fan_out_offset, ..Replicated::default() },
            proposed: None,
        }
    }

    /// Runs the machine with the inputs of now. Returns the actions.
    fn run(&mut self, change: impl FnOnce(&mut SubscriptionState, &mut Inputs<'_>, &mut Actions)) -> Actions {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut inputs = Inputs {
            now_ms: self.now_ms,
            fan_out_offset: Offset(self.fan_out_offset),
            random: self.random,
            breaker: &mut self.breaker,
        };
        let mut actions = Actions::default();
        change(&mut self.machine, &mut inputs, &mut actions);
        actions
    }

    fn on(&mut self, event: SubscriptionEvent) -> Actions {
        self.run(|machine, inputs, actions| machine.on(event, inputs, actions))
    }

    /// Starts an attempt with a permit, if there is an event for it.
    fn attempt(&mut self, abilities: Abilities) -> Vec<AttemptItem> {
        let mut items = Vec::new();
        for action in self.on(SubscriptionEvent::PermitGranted(abilities)).work {
            match action {
                Action::StartAttempt { items: started, .. } => items = started,
                Action::WriteDeadLetter(request) => self.works.push(Work::DeadLetter(request)),
                action => panic!("{action:?}"),
            }
        }
        for item in &items {
            let offset = item.event.offset.0;
            if !self.attempted.contains(&offset) {
                self.attempted.push(offset);
            }
        }
        items
    }

    fn event(&self, offset: u64) -> BufferedEvent {
        BufferedEvent {
            offset: Offset(offset),
            key: self.key(offset),
            append_time: Timestamp(offset),
            bytes: Bytes::from_static(b"event"),
            schema: SchemaCheck::Passed(None),
        }
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

    /// Events whose settlement is replicated.
    fn settled_durably(&self) -> BTreeSet<u64> {
        let matched = self.applied.counters.matched;
        let named =
            self.applied.record.as_ref().map(|record| self.named(record, matched)).unwrap_or_default();
        (0..matched).filter(|offset| !named.contains(offset)).collect()
    }

    /// Delivered events whose settlement is not replicated: a crash repeats them.
    fn repeated_by_a_crash(&self) -> usize {
        let durable = self.settled_durably();
        self.settled.difference(&durable).filter(|offset| self.delivered_since_crash.contains(offset)).count()
    }

    /// Promises that hold after every event.
    fn check(&self) {
        let counters = self.machine.counters();
        let settled: u64 = counters.settled.values().sum();
        assert_eq!(counters.matched, settled + counters.pending());
        assert_eq!(settled, self.settled.len() as u64);
        assert!(self.machine.window.unsettled_count() <= WINDOW);
        assert!(self.repeated_by_a_crash() <= WINDOW);
        let (low_water, fan_out_offset) = (self.machine.low_water(), Offset(self.fan_out_offset));
        assert!(low_water.is_none_or(|low_water| low_water <= fan_out_offset), "{low_water:?}");
        assert!(self.machine.position.read_to(fan_out_offset) <= fan_out_offset);
    }

    fn fan_out(&mut self, events: u64) {
        let start = self.fan_out_offset;
        self.fan_out_offset = (start + events).min(self.log.len() as u64);
        for offset in start..self.fan_out_offset {
            let event = if self.machine.takes(Offset(offset)) {
                SubscriptionEvent::Matched(self.event(offset))
            } else {
                SubscriptionEvent::MatchedBehind(Offset(offset))
            };
            self.on(event);
        }
    }

    /// The running actions that a tick starts.
    fn tick(&mut self) -> Actions {
        let actions = self.on(SubscriptionEvent::Tick);
        assert!(!actions.work.iter().any(|action| matches!(action, Action::StartAttempt { .. })));
        actions
    }

    fn begin_actions(&mut self) {
        for action in self.tick().work {
            match action {
                Action::Read(read) => self.works.push(Work::Read(read)),
                Action::WriteDeadLetter(request) => self.works.push(Work::DeadLetter(request)),
                action => panic!("{action:?}"),
            }
        }
        assert!(self.tick().work.is_empty(), "one tick starts everything");
    }

    fn begin(&mut self) {
        self.begin_actions();
        loop {
            let items = self.attempt(SINGLE);
            if items.is_empty() {
                return;
            }
            self.works.extend(items.into_iter().map(Work::Attempt));
        }
    }

    fn end(&mut self, work: Work, how: How) {
        let why = Failure { class: "test", status: 503, message: String::new() };
        match work {
            Work::Attempt(item) => {
                let offset = item.event.offset.0;
                let outcome = match how {
                    How::Well => Answer::Delivered,
                    How::Later => Answer::Retry { after: None, why },
                    How::Refused => Answer::Rejected { why },
                    How::Down => Answer::SinkDown { after: None, why },
                };
                if outcome == Answer::Delivered {
                    self.delivered.push(offset);
                    self.delivered_since_crash.insert(offset);
                    assert!(self.settled.insert(offset), "{offset} is settled once");
                }
                let results = vec![AttemptResult { item, outcome }];
                self.on(SubscriptionEvent::AttemptFinished { results, atomic: false });
            }
            Work::DeadLetter(request) => {
                self.end_dead_letter(request, matches!(how, How::Well | How::Refused))
            }
            Work::Read(read) => self.end_read(read, matches!(how, How::Well | How::Refused)),
        }
    }

    fn end_dead_letter(&mut self, request: DeadLetterRequest, well: bool) {
        let event = if well {
            let offset = request.item.event.offset.0;
            assert!(self.settled.insert(offset), "a dead letter settles once");
            self.dead_lettered.insert(offset);
            SubscriptionEvent::DeadLetterWritten(request)
        } else {
            SubscriptionEvent::DeadLetterFailed { request, disk_is_full: false }
        };
        self.on(event);
    }

    fn end_read(&mut self, read: ReadAction, well: bool) {
        let event = match read {
            read if !well => SubscriptionEvent::ReadFailed(read),
            ReadAction::Reload(offsets) => {
                let reloaded = offsets
                    .into_iter()
                    .map(|offset| ReloadedEvent { offset, event: Some(self.event(offset.0)) });
                SubscriptionEvent::EventsReloaded(reloaded.collect())
            }
            ReadAction::Backlog { from, end } => {
                let end = end.0.min(from.0 + 9);
                let events = (from.0..end).map(|offset| self.event(offset)).collect();
                SubscriptionEvent::BacklogRead { events, end: Offset(end) }
            }
            ReadAction::ScanKey { key, from, end } => {
                let end = end.0.min(from.0 + 5);
                let events = (from.0..end).map(|offset| self.event(offset)).filter(|event| event.key == key);
                SubscriptionEvent::KeyScanned { key, events: events.collect(), scanned_to: Offset(end) }
            }
        };
        self.on(event);
    }

    /// The record has to name the events that are unsettled in the model.
    fn advance(&mut self) {
        if self.proposed.is_some() {
            return;
        }
        let mut progress = None;
        self.run(|machine, inputs, _| progress = Some(machine.propose(inputs)));
        let progress = progress.expect("the machine proposes");
        assert_eq!(progress.lost, 0);
        let mut counters = self.applied.counters.clone();
        counters.matched += progress.matched;
        for (outcome, count) in progress.settled {
            *counters.settled.entry(outcome).or_default() += count;
        }
        let matched_to = progress.matched_to.map_or(self.fan_out_offset, |matched_to| matched_to.0);
        let unsettled: BTreeSet<u64> =
            (0..matched_to).filter(|offset| !self.settled.contains(offset)).collect();
        let named = progress.record.as_ref().map(|record| self.named(record, matched_to)).unwrap_or_default();
        assert_eq!(named, unsettled);
        assert_eq!(counters.pending(), unsettled.len() as u64);
        assert_eq!(counters.matched, matched_to);
        self.proposed = Some(Replicated { frontier: self.fan_out_offset, counters, record: progress.record });
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
            self.on(SubscriptionEvent::Advanced);
        }
    }

    /// Settlements that were not replicated are forgotten and may come again: at most a window of them.
    fn crash(&mut self) {
        self.proposed = None;
        self.works.clear();
        self.attempted.clear();
        self.breaker = CircuitBreaker::default();
        let matched = self.applied.counters.matched;
        let repeated = self.repeated_by_a_crash();
        assert!(repeated <= WINDOW, "{repeated} would be repeated");
        self.repeats_allowed += repeated;
        self.delivered_since_crash.clear();
        self.settled = self.settled_durably();
        self.fan_out_offset = self.applied.frontier;
        let lags_from = (matched < self.fan_out_offset).then_some(Offset(matched));
        let (counters, record) = (self.applied.counters.clone(), self.applied.record.clone());
        let options = self.options.clone();
        let fan_out_offset = Offset(self.fan_out_offset);
        let values = InputValues { now_ms: self.now_ms, fan_out_offset, random: self.random };
        let attachment = attachment(lags_from);
        self.machine = SubscriptionState::restore(options, &attachment, counters, record, values);
    }

    /// Since the last crash, the first attempts of each key are in the order of the log.
    fn first_attempts_are_in_order(&self) -> bool {
        let mut newest = BTreeMap::new();
        self.attempted
            .iter()
            .all(|&offset| newest.insert(self.key(offset), offset).is_none_or(|before| before < offset))
    }

    /// Everything works from here on: all published events are settled.
    fn heal(&mut self) {
        self.on(SubscriptionEvent::PauseChanged { paused: false });
        let mut rounds = 0;
        while !(self.fan_out_offset == self.log.len() as u64 && self.machine.is_done()) {
            self.fan_out(3);
            self.begin();
            for work in std::mem::take(&mut self.works) {
                self.end(work, How::Well);
            }
            self.advance();
            self.apply();
            self.check();
            self.now_ms += 50;
            rounds += 1;
            assert!(rounds < 10_000, "the world never heals: {:?}", self.machine.low_water());
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

#[test]
fn matched_events_that_the_log_lost_are_settled_with_their_reason() {
    let record = CursorRecord { read_to: Offset(2), window: vec![Offset(1)], parked: vec![] };
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

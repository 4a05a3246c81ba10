//! A world around one state machine: a log, a leader's steps, a sink, and what was replicated.

use super::*;

#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    Well,
    Later,
    Refused,
    Down,
}

/// A running action; an attempt for each event.
pub(super) enum Work {
    Attempt(AttemptItem),
    Read(ReadAction),
    DeadLetter(DeadLetterRequest),
}

pub(super) struct World {
    pub(super) options: Arc<DeliveryOptions>,
    pub(super) machine: SubscriptionState,
    pub(super) breaker: CircuitBreaker,
    /// Key of each event; all match.
    pub(super) log: Vec<u64>,
    pub(super) fan_out_offset: u64,
    pub(super) now_ms: u64,
    pub(super) random: u64,
    pub(super) works: Vec<Work>,
    /// The last probe.
    pub(super) probe: Option<u64>,
    pub(super) settled: BTreeSet<u64>,
    pub(super) delivered: Vec<u64>,
    /// Settled as delivered since the last crash.
    pub(super) delivered_since_crash: BTreeSet<u64>,
    /// First attempts, in order.
    pub(super) attempted: Vec<u64>,
    /// Ever written as a dead letter: after a crash the event may be delivered all the same, out of order.
    pub(super) dead_lettered: BTreeSet<u64>,
    pub(super) repeats_allowed: usize,
    /// Applied by the partition's state machine, and on the way to it.
    pub(super) applied: Replicated,
    pub(super) proposed: Option<Replicated>,
}

#[derive(Clone, Default)]
pub(super) struct Replicated {
    pub(super) frontier: u64,
    pub(super) counters: Counters,
    pub(super) record: Option<CursorRecord>,
}

impl World {
    pub(super) fn new(log: Vec<u64>, fan_out_offset: u64) -> Self {
        let lags_from = (fan_out_offset > 0).then_some(Offset::ZERO);
        let values = InputValues { now_ms: 0, fan_out_offset: Offset(fan_out_offset), random: 1 };
        let attachment = attachment(lags_from);
        Self {
            options: options(),
            machine: SubscriptionState::restore(options(), &attachment, Counters::default(), None, values),
            breaker: CircuitBreaker::new(64),
            log,
            fan_out_offset,
            now_ms: 0,
            random: 1,
            works: Vec::new(),
            probe: None,
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
    pub(super) fn run(
        &mut self,
        change: impl FnOnce(&mut SubscriptionState, &mut Inputs<'_>, &mut Actions),
    ) -> Actions {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut inputs = Inputs {
            now_ms: self.now_ms,
            fan_out_offset: Offset(self.fan_out_offset),
            random: self.random,
            breaker: &mut self.breaker,
            retry: &self.options.retry,
        };
        let mut actions = Actions::default();
        change(&mut self.machine, &mut inputs, &mut actions);
        actions
    }

    pub(super) fn on(&mut self, event: SubscriptionEvent) -> Actions {
        self.run(|machine, inputs, actions| machine.on(event, inputs, actions))
    }

    /// Starts an attempt with a permit, if there is an event for it.
    pub(super) fn attempt(&mut self, abilities: Abilities) -> Vec<AttemptItem> {
        let mut items = Vec::new();
        for action in self.on(SubscriptionEvent::PermitGranted(abilities)).work {
            match action {
                Action::StartAttempt { items: started, probe } => {
                    items = started;
                    self.probe = probe.or(self.probe);
                }
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

    pub(super) fn event(&self, offset: u64) -> BufferedEvent {
        super::super::super::buffered_event::tests::event(offset, self.key(offset).0)
    }

    pub(super) fn key(&self, offset: u64) -> KeyHash {
        KeyHash(self.log[usize::try_from(offset).unwrap()])
    }

    /// Events whose settlement is replicated.
    pub(super) fn settled_durably(&self) -> BTreeSet<u64> {
        let matched = self.applied.counters.matched;
        let named =
            self.applied.record.as_ref().map(|record| self.named(record, matched)).unwrap_or_default();
        (0..matched).filter(|offset| !named.contains(offset)).collect()
    }

    /// Delivered events whose settlement is not replicated: a crash repeats them.
    pub(super) fn repeated_by_a_crash(&self) -> usize {
        let durable = self.settled_durably();
        self.settled.difference(&durable).filter(|offset| self.delivered_since_crash.contains(offset)).count()
    }

    /// Promises that hold after every event.
    pub(super) fn check(&self) {
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

    pub(super) fn fan_out(&mut self, events: u64) {
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
    pub(super) fn tick(&mut self) -> Actions {
        let actions = self.on(SubscriptionEvent::Tick);
        assert!(!actions.work.iter().any(|action| matches!(action, Action::StartAttempt { .. })));
        actions
    }

    pub(super) fn begin_actions(&mut self) {
        for action in self.tick().work {
            match action {
                Action::Read(read) => self.works.push(Work::Read(read)),
                Action::WriteDeadLetter(request) => self.works.push(Work::DeadLetter(request)),
                action => panic!("{action:?}"),
            }
        }
        assert!(self.tick().work.is_empty(), "one tick starts everything");
    }

    pub(super) fn begin(&mut self) {
        self.begin_actions();
        loop {
            let items = self.attempt(SINGLE);
            if items.is_empty() {
                return;
            }
            self.works.extend(items.into_iter().map(Work::Attempt));
        }
    }

    pub(super) fn end(&mut self, work: Work, how: How) {
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
                self.breaker.end_attempt(self.probe);
            }
            Work::DeadLetter(request) => {
                self.end_dead_letter(request, matches!(how, How::Well | How::Refused))
            }
            Work::Read(read) => self.end_read(read, matches!(how, How::Well | How::Refused)),
        }
    }

    pub(super) fn end_dead_letter(&mut self, request: DeadLetterRequest, well: bool) {
        let event = if well {
            let offset = request.item.event.offset.0;
            assert!(self.settled.insert(offset), "a dead letter settles once");
            self.dead_lettered.insert(offset);
            SubscriptionEvent::DeadLetterWritten(request)
        } else {
            SubscriptionEvent::DeadLetterFailed { request, why: DeadLetterFailure::Unavailable }
        };
        self.on(event);
    }

    pub(super) fn end_read(&mut self, read: ReadAction, well: bool) {
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
            ReadAction::ScanKeys { keys, end, .. } => {
                let scanned = |scan: KeyScan| {
                    let KeyScan { key, from, first_only } = scan;
                    let end = end.0.min(from.0 + if first_only { 1 } else { 5 });
                    let events = (from.0..end).map(|offset| self.event(offset));
                    let events = events.filter(|event| event.key == key).collect();
                    ScannedKey { key, events, scanned_to: Offset(end), failed: false }
                };
                SubscriptionEvent::KeysScanned(keys.into_iter().map(scanned).collect())
            }
        };
        self.on(event);
    }

    /// The record has to name the events that are unsettled in the model.
    pub(super) fn advance(&mut self) {
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
        let record = progress.record.map(|change| self.changed_record(change));
        let named = record.as_ref().map(|record| self.named(record, matched_to)).unwrap_or_default();
        assert_eq!(named, unsettled);
        assert_eq!(counters.pending(), unsettled.len() as u64);
        assert_eq!(counters.matched, matched_to);
        self.proposed = Some(Replicated { frontier: self.fan_out_offset, counters, record });
    }

    /// The applied record with the change, as the partition's state machine makes it.
    fn changed_record(&self, change: RecordChange) -> CursorRecord {
        let before = self.applied.record.iter().flat_map(|record| &record.parked);
        let mut parked: BTreeMap<KeyHash, ParkedKey> = before.map(|parked| (parked.key, *parked)).collect();
        for key in change.released {
            assert!(parked.remove(&key).is_some(), "{key:?} is released and was not parked");
        }
        parked.extend(change.parked.into_iter().map(|parked| (parked.key, parked)));
        let parked = parked.into_values().collect();
        CursorRecord { read_to: change.read_to, window: change.window, parked, outage: change.outage }
    }

    pub(super) fn named(&self, record: &CursorRecord, matched_to: u64) -> BTreeSet<u64> {
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

    pub(super) fn apply(&mut self) {
        if let Some(proposed) = self.proposed.take() {
            self.applied = proposed;
            self.on(SubscriptionEvent::Advanced);
        }
    }

    /// Settlements that were not replicated are forgotten and may come again: at most a window of them.
    pub(super) fn crash(&mut self) {
        self.proposed = None;
        self.works.clear();
        self.attempted.clear();
        self.breaker = CircuitBreaker::new(64);
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
    pub(super) fn first_attempts_are_in_order(&self) -> bool {
        let mut newest = BTreeMap::new();
        self.attempted
            .iter()
            .all(|&offset| newest.insert(self.key(offset), offset).is_none_or(|before| before < offset))
    }

    /// Everything works from here on: all published events are settled.
    pub(super) fn heal(&mut self) {
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

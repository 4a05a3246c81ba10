//! Outages of every kind, share and number of keys, against a ledger that the receiver keeps: what the sink takes again
//! within the retention is lost by nobody.
//!
//! The state machine and the circuit breaker run with the node's default policy on a clock of their own.

use std::time::Duration;

use super::*;

const OUTAGE_MS: std::ops::Range<u64> = 2_000..32_000;
const PUBLISHED_UNTIL_MS: u64 = 34_000;
/// An outage that has ended leaves no event waiting for longer.
const DRAINED_MS: u64 = 15 * 60_000;
const ADVANCE_INTERVAL_MS: u64 = 50;
const FAN_OUT_INTERVAL_MS: u64 = 20;
const ANSWER_MS: u64 = 5;
const TIMEOUT_MS: u64 = 15_000;
const PARKED_KEYS_MAX: usize = 16_384;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Refused,
    Reset,
    Tls,
    Dns,
    ServerError,
    Throttled,
    Timeout,
}

const FAULTS: [Fault; 7] = [
    Fault::Refused,
    Fault::Reset,
    Fault::Tls,
    Fault::Dns,
    Fault::ServerError,
    Fault::Throttled,
    Fault::Timeout,
];

/// One cell of the matrix.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    fault: Fault,
    /// Of a thousand requests during the outage.
    failing: u64,
    keys: u64,
    events: u64,
}

/// The receiver's own account of what it has taken.
#[derive(Default)]
struct Receiver {
    requests: u64,
    accepted: BTreeSet<u64>,
    /// Newest event accepted for the first time, by key.
    newest: BTreeMap<u64, u64>,
}

impl Receiver {
    fn accept(&mut self, key: u64, offset: u64) {
        if self.accepted.insert(offset) {
            let before = self.newest.insert(key, offset);
            assert!(
                before.is_none_or(|before| before < offset),
                "{offset} of key {key} comes after {before:?}"
            );
        }
    }
}

struct Attempt {
    item: AttemptItem,
    probe: Option<u64>,
    answer: Answer,
}

/// A subscription, the log of its events, and the receiver.
struct Run {
    scenario: Scenario,
    options: Arc<DeliveryOptions>,
    machine: SubscriptionState,
    breaker: CircuitBreaker,
    receiver: Receiver,
    running: BTreeMap<(u64, u64), Attempt>,
    published: u64,
    now_ms: u64,
    random: u64,
}

impl Run {
    fn new(scenario: Scenario) -> Self {
        let retry = crate::judgement::tests::POLICY;
        let options = Arc::new(DeliveryOptions {
            window_events: 256,
            sink_concurrency: 64,
            parked_keys_max: PARKED_KEYS_MAX,
            retry,
            ..(*options()).clone()
        });
        let values = InputValues { now_ms: 0, fan_out_offset: Offset::ZERO, random: 1 };
        let (attached, counters) = (attachment(None), Counters::default());
        Self {
            scenario,
            machine: SubscriptionState::restore(options.clone(), &attached, counters, None, values),
            options,
            breaker: CircuitBreaker::new(64),
            receiver: Receiver::default(),
            running: BTreeMap::new(),
            published: 0,
            now_ms: 0,
            random: 7,
        }
    }

    fn draw(&mut self) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random.rotate_left(29)
    }

    fn run<R>(
        &mut self,
        actions: &mut Actions,
        change: impl FnOnce(&mut SubscriptionState, &mut Inputs<'_>, &mut Actions) -> R,
    ) -> R {
        let random = self.draw();
        let mut inputs = Inputs {
            now_ms: self.now_ms,
            fan_out_offset: Offset(self.published),
            random,
            breaker: &mut self.breaker,
            retry: &self.options.retry,
        };
        change(&mut self.machine, &mut inputs, actions)
    }

    fn on(&mut self, event: SubscriptionEvent) -> Actions {
        let mut actions = Actions::default();
        self.run(&mut actions, |machine, inputs, actions| machine.on(event, inputs, actions));
        actions
    }

    fn event(&self, offset: u64) -> BufferedEvent {
        BufferedEvent {
            offset: Offset(offset),
            key: KeyHash(offset % self.scenario.keys),
            append_time: Timestamp(offset),
            bytes: Bytes::from_static(b"event"),
            schema: SchemaCheck::Passed(None),
        }
    }

    fn publish(&mut self) {
        let due = self.scenario.events * self.now_ms.min(PUBLISHED_UNTIL_MS) / PUBLISHED_UNTIL_MS;
        let start = self.published;
        self.published = due;
        for offset in start..due {
            let event = match self.machine.takes(Offset(offset)) {
                true => SubscriptionEvent::Matched(self.event(offset)),
                false => SubscriptionEvent::MatchedBehind(Offset(offset)),
            };
            self.on(event);
        }
    }

    fn read(&mut self, read: ReadAction) {
        let event = match read {
            ReadAction::Reload(offsets) => {
                let reload = |offset: Offset| ReloadedEvent { offset, event: Some(self.event(offset.0)) };
                SubscriptionEvent::EventsReloaded(offsets.into_iter().map(reload).collect())
            }
            ReadAction::Backlog { from, end } => {
                let end = end.0.min(from.0 + 256);
                let events = (from.0..end).map(|offset| self.event(offset)).collect();
                SubscriptionEvent::BacklogRead { events, end: Offset(end) }
            }
            ReadAction::ScanKeys { keys, end, .. } => {
                let scans = keys.into_iter().map(|scan| self.scan(scan, end));
                SubscriptionEvent::KeysScanned(scans.collect())
            }
        };
        self.on(event);
    }

    fn scan(&self, KeyScan { key, from, first_only }: KeyScan, end: Offset) -> ScannedKey {
        let keys = self.scenario.keys;
        let first = from.0 + (key.0 + keys - from.0 % keys) % keys;
        let step = usize::try_from(keys).unwrap();
        let offsets = (first..end.0).step_by(step).take(if first_only { 1 } else { 64 });
        let events: Vec<_> = offsets.map(|offset| self.event(offset)).collect();
        let is_all = !first_only && events.len() < 64;
        let last = events.last().map_or(end, |last| last.offset.plus(1));
        ScannedKey { key, scanned_to: if is_all { end } else { last }, events, failed: false }
    }

    /// The receiver gets a request: the answer, and the time that it takes.
    fn request(&mut self, item: &AttemptItem) -> (Answer, u64) {
        self.receiver.requests += 1;
        let (fault, draw) = (self.scenario.fault, self.draw());
        let fails = OUTAGE_MS.contains(&self.now_ms) && draw % 1_000 < self.scenario.failing;
        // A request that is lost on its way back was taken all the same.
        let is_taken = !fails || matches!(fault, Fault::Reset | Fault::Timeout) && draw & (1 << 40) > 0;
        if is_taken {
            self.receiver.accept(item.event.key.0, item.event.offset.0);
        }
        if !fails {
            return (Answer::Delivered, ANSWER_MS);
        }
        let why = |class| Failure::new(class, "outage");
        let answer = match fault {
            Fault::Refused => Answer::SinkDown { after: None, why: why(Failure::CONNECT) },
            Fault::Tls => Answer::SinkDown { after: None, why: why(Failure::TLS) },
            Fault::Dns => Answer::SinkDown { after: None, why: why(Failure::DNS) },
            Fault::Reset => Answer::Retry { after: None, why: why(Failure::CONNECTION_LOST) },
            Fault::Timeout => Answer::Retry { after: None, why: why(Failure::TIMEOUT) },
            Fault::ServerError => {
                Answer::Retry { after: None, why: why(Failure::HTTP_STATUS).with_status(500) }
            }
            Fault::Throttled => Answer::Throttled {
                after: (draw & (1 << 41) > 0).then_some(Duration::from_secs(1)),
                why: why(Failure::HTTP_STATUS).with_status(429),
            },
        };
        (answer, if fault == Fault::Timeout { TIMEOUT_MS } else { ANSWER_MS })
    }

    /// Starts what can be started. Returns the time of the next tick.
    fn start(&mut self) -> Option<u64> {
        loop {
            let mut actions = self.on(SubscriptionEvent::Tick);
            if actions.work.is_empty() {
                self.start_attempts(&mut actions);
                return actions.wake_at_ms;
            }
            for action in actions.work {
                match action {
                    Action::Read(read) => self.read(read),
                    action => panic!("{:?}: {action:?}", self.scenario),
                }
            }
        }
    }

    fn start_attempts(&mut self, actions: &mut Actions) {
        while self.running.len() < 64
            && self.run(actions, |machine, inputs, actions| machine.wants_attempt(inputs, actions))
        {
            let work = self.on(SubscriptionEvent::PermitGranted(SINGLE)).work;
            if work.is_empty() {
                return;
            }
            for action in work {
                let Action::StartAttempt { items, probe } = action else {
                    panic!("{:?}: {action:?}", self.scenario)
                };
                let item = items.into_iter().next().expect("one event goes at a time");
                let (answer, takes_ms) = self.request(&item);
                let place = (self.now_ms + takes_ms, self.receiver.requests);
                self.running.insert(place, Attempt { item, probe, answer });
            }
        }
    }

    fn advance(&mut self) {
        let progress = self.run(&mut Actions::default(), |machine, inputs, _| machine.propose(inputs));
        progress.check(Offset(self.published));
        self.on(SubscriptionEvent::Advanced);
    }

    /// Runs until everything is settled. Returns requests per event.
    fn until_drained(mut self) -> f64 {
        let (mut next_advance_ms, mut next_fan_out_ms) = (0, 0);
        loop {
            if next_fan_out_ms <= self.now_ms {
                self.publish();
                next_fan_out_ms = self.now_ms + FAN_OUT_INTERVAL_MS;
            }
            while let Some(entry) = self.running.first_entry().filter(|entry| entry.key().0 <= self.now_ms) {
                let Attempt { item, probe, answer } = entry.remove();
                let results = vec![AttemptResult { item, outcome: answer }];
                self.on(SubscriptionEvent::AttemptFinished { results, atomic: true });
                self.breaker.end_attempt(probe);
            }
            let wake_at_ms = self.start();
            if next_advance_ms <= self.now_ms {
                self.advance();
                next_advance_ms = self.now_ms + ADVANCE_INTERVAL_MS;
            }
            if self.published == self.scenario.events && self.machine.counters().pending() == 0 {
                break;
            }
            assert!(self.now_ms < OUTAGE_MS.end + DRAINED_MS, "{:?} is not drained", self.scenario);
            let publishes = self.published < self.scenario.events;
            let next = [
                wake_at_ms,
                self.running.first_key_value().map(|(place, _)| place.0),
                publishes.then_some(next_fan_out_ms),
                Some(next_advance_ms),
            ];
            self.now_ms = next.into_iter().flatten().min().expect("an advance follows").max(self.now_ms + 1);
        }
        let settled = self.machine.counters().settled;
        let delivered = BTreeMap::from([(Outcome::Delivered, self.scenario.events)]);
        assert_eq!(settled, delivered, "{:?}", self.scenario);
        assert_eq!(self.receiver.accepted.len() as u64, self.scenario.events, "{:?}", self.scenario);
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        let ratio = self.receiver.requests as f64 / self.scenario.events as f64;
        assert!(ratio < 2.0, "{:?}: {ratio} requests per event", self.scenario);
        ratio
    }
}

#[test]
fn whatever_the_outage_all_events_arrive_in_order_when_it_ends() {
    for fault in FAULTS {
        for (keys, events) in [(1, 1_000), (2, 1_000), (10_000, 12_000)] {
            let ratios = [5, 100, 500, 900, 1_000].map(|failing| {
                let scenario = Scenario { fault, failing, keys, events };
                format!("{:.2}", Run::new(scenario).until_drained())
            });
            println!("{fault:?}, {keys} keys: requests per event {}", ratios.join(" "));
        }
    }
}

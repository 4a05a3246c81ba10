//! Any sequence of commands: a model that keeps every event of every subscription in a list agrees with the counters,
//! refused commands change nothing, and replicas agree byte for byte, however they came to the state.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::state::cursor_ledger::CursorLedger;

const SUBSCRIPTIONS: u8 = 4;

/// Numbers that a case takes its choices from (splitmix64).
#[derive(Clone)]
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    fn chance(&mut self, of_100: u64) -> bool {
        self.below(100) < of_100
    }
}

/// The expected ledger of a subscription.
#[derive(Clone, Default)]
struct Account {
    epoch: u64,
    from: u64,
    revision: u64,
    /// Every choice since it was attached, and from where on it held.
    filters: Vec<(u64, u8)>,
    matched_to: Option<u64>,
    read_to: Option<u64>,
    unsettled: BTreeSet<u64>,
    /// Key, first event and number of events of each parked key.
    parked: BTreeMap<u64, (u64, u64)>,
    matched: u64,
    settled: BTreeMap<Outcome, u64>,
    attached: bool,
}

#[derive(Clone)]
struct Model {
    choices: Choices,
    frontier: u64,
    log_start: u64,
    end: u64,
    accounts: Vec<Account>,
}

impl Account {
    /// A filter is a number; it chooses the events whose offsets it divides.
    fn filter_at(&self, offset: u64) -> u8 {
        let (_, filter) =
            self.filters.iter().rev().find(|(from, _)| *from <= offset).expect("it is attached");
        *filter
    }

    fn matches(&self, offset: u64) -> bool {
        offset.is_multiple_of(self.filter_at(offset).into())
    }

    fn settle(&mut self, outcome: Outcome, offset: u64) {
        assert!(self.unsettled.remove(&offset));
        *self.settled.entry(outcome).or_default() += 1;
    }

    fn cancel(&mut self, reason: Reason) {
        for offset in self.unsettled.clone() {
            self.settle(Outcome::Cancelled(reason), offset);
        }
        self.read_to = None;
        self.parked.clear();
    }

    /// The first offset that a trim must not pass: what was not read is not looked at one by one.
    fn floor(&self, frontier: u64) -> u64 {
        let read_to = self.read_to.unwrap_or(u64::MAX);
        let held = self.unsettled.range(..read_to).next().copied().unwrap_or(u64::MAX);
        let has_unread = self.unsettled.range(read_to..).next().is_some();
        let unread = if has_unread { read_to } else { u64::MAX };
        [self.matched_to.unwrap_or(frontier), frontier, held, unread]
            .into_iter()
            .min()
            .expect("it has elements")
    }
}

impl Model {
    fn new(seed: u64) -> Self {
        let accounts = vec![Account::default(); SUBSCRIPTIONS.into()];
        Self { choices: Choices(seed), frontier: 0, log_start: 0, end: 0, accounts }
    }

    fn attach(&mut self, number: u8) -> (Command, Result<(), Refusal>) {
        let (choices, end) = (&mut self.choices, self.end);
        let epoch = choices.within(1, 4);
        let (start, from) = match choices.below(3) {
            0 => (Start::Next, end),
            1 => (Start::Earliest, self.log_start),
            _ => {
                let offset = Offset(choices.within(0, end + 2));
                (Start::Time { time: Timestamp(0), offset }, offset.0.clamp(self.log_start, end))
            }
        };
        let filter_revision = choices.within(1, 12);
        let filter = u8::try_from(choices.within(2, 4)).unwrap();
        let command = Command::Attach {
            subscription: subscription(number),
            account: account(1),
            epoch,
            filter_revision,
            filter: Arc::from([filter]),
            start,
        };
        let account = &mut self.accounts[usize::from(number)];
        if account.epoch > epoch {
            return (command, Err(Refusal::Epoch));
        }
        if !account.attached || account.epoch < epoch {
            account.cancel(Reason::Repointed);
            let matched_to = (from < end).then_some(from);
            let (revision, filters) = (filter_revision, vec![(from, filter)]);
            *account =
                Account { epoch, from, revision, filters, matched_to, attached: true, ..account.clone() };
        } else if account.revision < filter_revision {
            account.revision = filter_revision;
            account.filters.push((end, filter));
        }
        (command, Ok(()))
    }

    fn detach(&mut self, number: u8) -> (Command, Result<(), Refusal>) {
        let epoch = self.choices.within(1, 4);
        let command = Command::Detach { subscription: subscription(number), epoch, reason: Reason::Deleted };
        let account = &mut self.accounts[usize::from(number)];
        if account.attached && account.epoch > epoch {
            return (command, Err(Refusal::Epoch));
        }
        if account.attached {
            account.cancel(Reason::Deleted);
            account.attached = false;
            account.epoch = epoch;
        }
        (command, Ok(()))
    }

    fn trim(&mut self) -> (Command, Result<(), Refusal>) {
        let to = self.choices.within(self.log_start, self.end);
        let position = Position { term: TERM, leader: 1, index: 0 };
        let floors = self
            .accounts
            .iter()
            .filter(|account| account.attached)
            .map(|account| account.floor(self.frontier));
        let floor = floors.min().unwrap_or(u64::MAX);
        let result = if to > self.log_start && floor < to { Err(Refusal::Unsettled) } else { Ok(()) };
        if result.is_ok() {
            self.log_start = to;
            self.frontier = self.frontier.max(to);
        }
        (Command::Trim { term: TERM, to: Offset(to), position }, result)
    }

    /// An advance that a correct leader could send: some subscriptions counted, read, settled and parked a bit further.
    fn advance(&mut self) -> Advance {
        let frontier = self.choices.within(self.frontier, self.end);
        let mut cursors = Vec::new();
        for number in 0..SUBSCRIPTIONS {
            let mut account = self.accounts[usize::from(number)].clone();
            if !account.attached {
                continue;
            }
            let cursor = self.step(number, &mut account, frontier);
            let has_news = cursor.matched > 0 || account.matched_to.is_some() || self.choices.chance(60);
            if has_news {
                cursors.push(cursor);
                self.accounts[usize::from(number)] = account;
            }
        }
        self.frontier = frontier;
        Advance { frontier: Offset(frontier), cursors }
    }

    fn step(&mut self, number: u8, account: &mut Account, frontier: u64) -> CursorAdvance {
        let choices = &mut self.choices;
        let counted_from = account.matched_to.unwrap_or_else(|| self.frontier.max(account.from));
        let (to, matched_to) = match account.matched_to {
            None => (frontier.max(counted_from), None),
            Some(from) if from > frontier || choices.chance(20) => (from, None),
            Some(from) => {
                let to = if choices.chance(40) { frontier } else { choices.within(from, frontier) };
                account.matched_to = (to < frontier).then_some(to);
                (to, Some(Offset(to)))
            }
        };
        let matched: Vec<u64> = (counted_from..to).filter(|&offset| account.matches(offset)).collect();
        account.matched += matched.len() as u64;
        account.unsettled.extend(&matched);
        let read_to = choices.within(account.read_to.unwrap_or(counted_from), to);
        let mut settled = BTreeMap::new();
        for offset in account.unsettled.range(..read_to).copied().collect::<Vec<_>>() {
            if choices.chance(50) {
                let outcomes = [
                    Outcome::Delivered,
                    Outcome::DeadLettered(Reason::Rejected),
                    Outcome::Expired(Reason::Retention),
                ];
                let outcome = outcomes[usize::try_from(choices.below(3)).unwrap()];
                account.settle(outcome, offset);
                *settled.entry(outcome).or_default() += 1;
            }
        }
        let record = park(choices, account, read_to).filter(|_| !account.unsettled.is_empty());
        if record.is_none() {
            account.parked.clear();
        }
        account.read_to = record.as_ref().map(|record| record.read_to.0);
        let (subscription, epoch, matched) = (subscription(number), account.epoch, matched.len() as u64);
        CursorAdvance { subscription, epoch, matched, matched_to, settled, record }
    }

    /// An advance with one number or position changed.
    fn damage(&mut self, advance: &mut Advance) {
        let choices = &mut self.choices;
        let by = choices.within(1, 3);
        let change = |value: &mut u64, up: bool| {
            *value = if up { value.wrapping_add(by) } else { value.wrapping_sub(by) }
        };
        let up = choices.chance(50);
        let at = usize::try_from(choices.below(advance.cursors.len() as u64)).unwrap();
        let Some(cursor) = advance.cursors.get_mut(at) else { return change(&mut advance.frontier.0, up) };
        let record = cursor.record.get_or_insert_default();
        match choices.below(10) {
            0 => change(&mut cursor.matched, up),
            1 => change(cursor.settled.entry(Outcome::Delivered).or_default(), up),
            2 => cursor.record = None,
            3 => change(&mut record.read_to.0, up),
            4 => drop(record.window.pop()),
            5 => record.window.push(Offset(by)),
            6 => record.parked.iter_mut().for_each(|parked| change(&mut parked.pending, up)),
            7 => cursor.matched_to = Some(Offset(by)),
            8 => record.released.push(KeyHash(by)),
            _ => cursor.epoch += 1,
        }
    }
}

/// Parks some keys of the account's events below `read_to`, and tells the change against the keys parked before.
fn park(choices: &mut Choices, account: &mut Account, read_to: u64) -> Option<RecordChange> {
    let parks: Vec<bool> = (0..5).map(|_| choices.chance(30)).collect();
    let held = account.unsettled.range(..read_to).copied();
    let (held, window): (Vec<u64>, Vec<u64>) =
        held.partition(|offset| parks[usize::try_from(offset % 5).unwrap()]);
    let mut parked: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for offset in held {
        parked.entry(offset % 5).or_insert((offset, 0)).1 += 1;
    }
    let before = std::mem::replace(&mut account.parked, parked.clone());
    let changed = parked.iter().filter(|(key, now)| before.get(key) != Some(now) || choices.chance(20));
    let changed: Vec<_> = changed.map(|(&key, &(from, pending))| (key, from, pending)).collect();
    let released: Vec<u64> = before.keys().filter(|key| !parked.contains_key(key)).copied().collect();
    releasing(&released, record(read_to, &window, &changed))
}

fn refusal(reply: Reply) -> Result<(), Refusal> {
    match reply {
        Reply::Attached(result) => result.map(|_| ()),
        Reply::Detached(result) | Reply::Advanced(result) => result,
        Reply::Trimmed(result) => result.map(|_| ()),
        Reply::Appended | Reply::Replayed => Ok(()),
        Reply::Redrive(_) | Reply::RedriveAdvanced(_) => unreachable!("the model starts no redrive"),
    }
}

/// Asserts the invariants that hold for any commands.
fn assert_adds_up(state: &PartitionState) {
    for attached in state.ledgers.values() {
        let pending = attached.counters.pending();
        let matched_to = attached.attachment.matched_to.unwrap_or(state.frontier);
        let held = attached.cursor.as_ref().map_or(0, CursorLedger::named_events);
        let unread = attached.cursor.as_ref().map_or(0, |cursor| matched_to.since(cursor.read_to()));
        assert!(held <= pending && pending <= held + unread, "{attached:?} at {:?}", state.frontier);
        assert!(attached.unsettled_from(state.frontier) >= state.log_start, "{attached:?} was trimmed");
    }
}

/// Whatever is still to be matched or settled finds the choice that held when it was published, and no other is kept.
fn assert_choices(attachment: &Attachment, account: &Account, model: &Model) {
    assert_eq!(attachment.filter_revision(), account.revision);
    let floor = account.floor(model.frontier);
    assert!(account.unsettled.iter().all(|&offset| floor <= offset));
    for offset in floor.max(account.from)..=model.end {
        let filter = attachment.filters.iter().rev().find(|filter| filter.from.0 <= offset);
        assert_eq!(
            filter.map(|filter| &filter.filter[..]),
            Some(&[account.filter_at(offset)][..]),
            "{attachment:?}"
        );
    }
    assert!(attachment.filters[1..].iter().all(|filter| floor < filter.from.0), "{attachment:?} at {floor}");
}

fn assert_like(state: &PartitionState, model: &Model) {
    let positions = state.positions();
    let found = (positions.log_start.0, positions.frontier.0, positions.high_watermark.0);
    assert_eq!(found, (model.log_start, model.frontier, model.end));
    for (account, number) in model.accounts.iter().zip(0..) {
        let attachment = state.attachment(subscription(number));
        assert_eq!(attachment.is_some(), account.attached);
        if let Some(attachment) = attachment {
            let expected = (account.epoch, Offset(account.from), account.matched_to.map(Offset));
            assert_eq!((attachment.epoch, attachment.from, attachment.matched_to), expected);
            assert_choices(&attachment, account, model);
        }
        let Some(counters) = state.counters(subscription(number)) else { continue };
        let record = state.progress(subscription(number)).and_then(|(_, record)| record).unwrap_or_default();
        let parked = record.parked.iter().map(|parked| (parked.key.0, (parked.from.0, parked.pending)));
        assert_eq!(parked.collect::<BTreeMap<_, _>>(), account.parked);
        let settled: u64 = account.settled.values().sum();
        assert_eq!(account.matched, settled + account.unsettled.len() as u64);
        assert_eq!((counters.matched, &counters.settled), (account.matched, &account.settled));
    }
}

struct Trace {
    state: PartitionState,
    log: Vec<Frame>,
    /// After how many frames, and the state then.
    checkpoints: Vec<(usize, Vec<u8>)>,
}

/// The next frame, and what should become of it, as far as that is known.
fn next_frame(model: &mut Model, script: &mut Script, step: u8) -> (Frame, Option<Result<(), Refusal>>) {
    let number = u8::try_from(model.choices.below(SUBSCRIPTIONS.into())).unwrap();
    let (command, expected) = match step {
        0..30 => {
            let events: Vec<String> =
                (0..=model.choices.below(6)).map(|i| (model.end + i).to_string()).collect();
            model.end += events.len() as u64;
            let events: Vec<&str> = events.iter().map(String::as_str).collect();
            return (script.entry(&[batch(1, &events)]), Some(Ok(())));
        }
        30..45 => model.attach(number),
        45..50 => model.detach(number),
        50..60 => model.trim(),
        60..90 => (Command::Advance { term: TERM, advance: model.advance() }, Ok(())),
        90.. => {
            let mut advance = model.clone().advance();
            model.damage(&mut advance);
            return (script.command(&Command::Advance { term: TERM, advance }), None);
        }
    };
    (script.command(&command), Some(expected))
}

fn run(seed: u64, steps: &[u8]) -> Trace {
    let mut model = Model::new(seed);
    let mut script = Script::new();
    let mut run =
        Trace { state: PartitionState::new(Stream::Events), log: Vec::new(), checkpoints: Vec::new() };
    for &step in steps {
        let (frame, expected) = next_frame(&mut model, &mut script, step);
        let before = run.state.checkpoint();
        let result = refusal(run.state.apply(&frame, ApplyMode::Live).unwrap());
        assert_adds_up(&run.state);
        if let Some(expected) = expected {
            assert_eq!(result, expected, "{frame:?}");
            assert_like(&run.state, &model);
        } else if result.is_ok() {
            // The change made another correct advance, which the model does not know: go on from before it.
            run.state = PartitionState::restored(&before, Stream::Events).unwrap();
            run.log.iter().for_each(|frame| run.state.observe(&frame.header));
            script.next_index -= 1;
            continue;
        }
        run.log.push(frame);
        run.checkpoints.push((run.log.len(), run.state.checkpoint()));
    }
    run
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_ledger_adds_up_and_replicas_agree(seed: u64, steps in prop::collection::vec(0_u8..100, 1..80)) {
        let run = run(seed, &steps);
        let last = run.state.checkpoint();
        let mut replica = PartitionState::new(Stream::Events);
        for frame in &run.log {
            replica.apply(frame, ApplyMode::Live).unwrap();
        }
        prop_assert_eq!(&replica.checkpoint(), &last);
        // A replica that restores a checkpoint replays the log up to it for what is derived, and goes on from there.
        let cuts = run.checkpoints.iter().step_by(7);
        for (count, bytes) in cuts {
            let mut replica = PartitionState::restored(bytes, Stream::Events).unwrap();
            replica.reset_derived(Offset::ZERO, 0);
            for (frame, at) in run.log.iter().zip(0..) {
                let mode = if at < *count { ApplyMode::Replay } else { ApplyMode::Live };
                replica.apply(frame, mode).unwrap();
            }
            prop_assert_eq!(&replica.checkpoint(), &last);
            prop_assert_eq!(replica.positions(), run.state.positions());
        }
    }
}

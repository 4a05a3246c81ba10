//! The rules one by one; what holds for any sequence of commands is in [`model`].

mod fillers;
mod filters;
mod model;
mod retained_bytes;
mod undecodable;

use fanfare_log::Payload;
use fanfare_model::{AccountId, KeyHash};

use super::*;
use crate::{
    CursorAdvance, Outcome, ParkedKey, RecordBatch, RecordChange, batch::tests::batch, command,
    entry::EntryBuilder,
};

const TERM: u64 = 4;

fn subscription(number: u8) -> SubscriptionId {
    SubscriptionId::from_bytes([number; 16])
}

fn account(number: u8) -> AccountId {
    AccountId::from_bytes([number; 16])
}

/// Makes the frames of a log.
#[derive(Clone)]
struct Script {
    next_index: u64,
    next_offset: u64,
    time: u64,
}

impl Script {
    fn new() -> Self {
        Self { next_index: 1, next_offset: 0, time: 1_000 }
    }

    fn entry(&mut self, batches: &[RecordBatch]) -> Frame {
        let mut entry = EntryBuilder::default();
        batches.iter().for_each(|batch| entry.push(batch.clone()));
        let built = entry.finish();
        self.frame(entry::KIND, built.count, built.payload)
    }

    fn command(&mut self, command: &Command) -> Frame {
        self.frame(command::KIND, 0, Payload::new(vec![command.encode().into()]))
    }

    fn frame(&mut self, kind: u8, count: u32, payload: Payload) -> Frame {
        let position = Position { term: TERM, leader: 1, index: self.next_index };
        let payload_bytes = u32::try_from(payload.len()).unwrap();
        let header = FrameHeader {
            kind,
            position,
            base_offset: self.next_offset,
            count,
            time_ms: self.time,
            payload_bytes,
        };
        self.next_index += 1;
        self.next_offset += u64::from(count);
        self.time += 10;
        Frame { header, payload }
    }
}

impl PartitionState {
    /// Applies a frame as the machine does, which decodes its entry first.
    fn apply(&mut self, frame: &Frame, mode: ApplyMode) -> Result<Reply, ApplyError> {
        let entry = crate::machine::entry_of(frame)?;
        self.apply_decoded(frame, entry.as_ref(), mode)
    }
}

/// A state and the log it applies.
struct Bench {
    state: PartitionState,
    script: Script,
}

impl Bench {
    fn new() -> Self {
        Self { state: PartitionState::new(Stream::Events), script: Script::new() }
    }

    /// `count` events, an entry each.
    fn append(&mut self, count: u64) {
        for _ in 0..count {
            let event = self.script.next_offset.to_string();
            let frame = self.script.entry(&[batch(1, &[&event])]);
            assert_eq!(self.state.apply(&frame, ApplyMode::Live), Ok(Reply::Appended));
        }
    }

    fn apply(&mut self, command: &Command) -> Reply {
        let frame = self.script.command(command);
        self.state.apply(&frame, ApplyMode::Live).expect("the command is known")
    }

    fn attach(
        &mut self,
        number: u8,
        epoch: u64,
        filter_revision: u64,
        start: Start,
    ) -> Result<Attachment, Refusal> {
        let filter = filter_revision.to_string();
        self.attach_filter(number, (epoch, filter_revision), filter.as_bytes(), start)
    }

    fn attach_filter(
        &mut self,
        number: u8,
        (epoch, filter_revision): (u64, u64),
        filter: &[u8],
        start: Start,
    ) -> Result<Attachment, Refusal> {
        let (subscription, account, filter) = (subscription(number), account(1), filter.into());
        match self.apply(&Command::Attach { subscription, account, epoch, filter_revision, filter, start }) {
            Reply::Attached(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn advance(&mut self, frontier: u64, cursors: Vec<CursorAdvance>) -> Result<(), Refusal> {
        let advance = Advance { frontier: Offset(frontier), cursors };
        let before = self.state.checkpoint();
        match self.apply(&Command::Advance { term: TERM, advance }) {
            Reply::Advanced(Ok(())) => Ok(()),
            Reply::Advanced(refused) => {
                let time = self.state.derived.last_time;
                let mut unchanged = PartitionState::restored(&before, Stream::Events).unwrap();
                unchanged.derived.last_time = time;
                assert_eq!(
                    self.state.checkpoint(),
                    unchanged.checkpoint(),
                    "a refused advance changed something"
                );
                refused
            }
            other => panic!("{other:?}"),
        }
    }

    fn trim(&mut self, to: u64) -> Result<Offset, Refusal> {
        let position = Position { term: TERM, leader: 1, index: to };
        match self.apply(&Command::Trim { term: TERM, to: Offset(to), position }) {
            Reply::Trimmed(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn counters(&self, number: u8) -> (u64, u64, Vec<(Outcome, u64)>) {
        let counters = self.state.counters(subscription(number)).unwrap();
        (counters.matched, counters.pending(), counters.settled.into_iter().collect())
    }
}

/// From where, of which revision, what.
fn filters(attachment: &Attachment) -> Vec<(u64, u64, &str)> {
    let filters = attachment.filters.iter();
    filters
        .map(|filter| (filter.from.0, filter.revision, std::str::from_utf8(&filter.filter).unwrap()))
        .collect()
}

fn cursor(matched: u64, delivered: u64, record: Option<RecordChange>) -> CursorAdvance {
    let settled = BTreeMap::from([(Outcome::Delivered, delivered)]);
    CursorAdvance { subscription: subscription(1), epoch: 1, matched, matched_to: None, settled, record }
}

/// A record that parks these keys: key, from, pending.
fn record(read_to: u64, window: &[u64], parked: &[(u64, u64, u64)]) -> Option<RecordChange> {
    let parked = parked.iter().map(|&(key, from, pending)| ParkedKey {
        key: KeyHash(key),
        from: Offset(from),
        attempts: 1,
        retry_in_ms: 0,
        pending,
    });
    let window = window.iter().copied().map(Offset).collect();
    let parked = parked.collect();
    Some(RecordChange { read_to: Offset(read_to), window, parked, ..RecordChange::default() })
}

fn releasing(keys: &[u64], record: Option<RecordChange>) -> Option<RecordChange> {
    record.map(|record| RecordChange { released: keys.iter().copied().map(KeyHash).collect(), ..record })
}

/// The whole record that is kept.
fn kept(bench: &Bench) -> Option<RecordChange> {
    let CursorRecord { read_to, window, parked, outage } = bench.state.progress(subscription(1))?.1?;
    Some(RecordChange { read_to, window, parked, released: Vec::new(), outage })
}

#[test]
fn attachment_begins_at_its_start_within_the_retained_log() {
    let time = |offset| Start::Time { time: Timestamp(0), offset: Offset(offset) };
    let cases = [
        (Start::Next, 10, None),
        (Start::Earliest, 4, Some(4)),
        (time(2), 4, Some(4)),
        (time(7), 7, Some(7)),
        (time(10), 10, None),
        (time(99), 10, None),
    ];
    for (start, from, matched_to) in cases {
        let mut bench = Bench::new();
        bench.append(10);
        assert_eq!(bench.trim(4), Ok(Offset(4)));
        let attachment = bench.attach(1, 1, 1, start).unwrap();
        assert_eq!(
            (attachment.from, attachment.matched_to),
            (Offset(from), matched_to.map(Offset)),
            "{start:?}"
        );
    }
}

#[test]
fn repeated_attach_repoints_or_changes_the_filter_or_is_refused() {
    let mut bench = Bench::new();
    bench.attach(1, 2, 5, Start::Next).unwrap();
    bench.append(3);
    let mut settled = cursor(3, 1, record(3, &[1, 2], &[]));
    settled.epoch = 2;
    bench.advance(3, vec![settled]).unwrap();
    assert_eq!(bench.attach(1, 1, 9, Start::Next), Err(Refusal::Epoch));
    assert_eq!(bench.attach(1, 2, 5, Start::Earliest).unwrap().from, Offset(0));
    let changed = bench.attach(1, 2, 6, Start::Earliest).unwrap();
    assert_eq!((changed.from, filters(&changed)), (Offset(0), vec![(0, 5, "5"), (3, 6, "6")]));
    assert_eq!(kept(&bench), record(3, &[1, 2], &[]));
    let anew = bench.attach(1, 3, 6, Start::Next).unwrap();
    assert_eq!((anew.from, filters(&anew)), (Offset(3), vec![(3, 6, "6")]));
    let outcomes = vec![(Outcome::Delivered, 1), (Outcome::Cancelled(Reason::Repointed), 2)];
    assert_eq!(bench.counters(1), (3, 0, outcomes));
    assert_eq!(kept(&bench), None);
}

#[test]
fn detach_cancels_pending_events_and_keeps_the_counters() {
    let mut bench = Bench::new();
    bench.attach(1, 1, 1, Start::Next).unwrap();
    bench.append(3);
    bench.advance(3, vec![cursor(3, 1, record(1, &[], &[]))]).unwrap();
    let detach = |epoch, reason| Command::Detach { subscription: subscription(1), epoch, reason };
    assert_eq!(bench.apply(&detach(0, Reason::Deleted)), Reply::Detached(Err(Refusal::Epoch)));
    for _ in 0..2 {
        assert_eq!(bench.apply(&detach(1, Reason::Deleted)), Reply::Detached(Ok(())));
        let outcomes = vec![(Outcome::Delivered, 1), (Outcome::Cancelled(Reason::Deleted), 2)];
        assert_eq!(bench.counters(1), (3, 0, outcomes));
        assert_eq!(bench.state.attachment(subscription(1)), None);
    }
    assert_eq!(bench.attach(1, 0, 1, Start::Next), Err(Refusal::Epoch));
    bench.attach(1, 2, 1, Start::Next).unwrap();
    assert_eq!(bench.counters(1).0, 3, "a subscription's counters go on");
    for number in 2..=255 {
        for epoch in 1..=5 {
            let id = SubscriptionId::from_bytes(
                [[number, epoch], [epoch, number]].concat().repeat(4).try_into().unwrap(),
            );
            let start = Start::Next;
            bench.apply(&Command::Attach {
                subscription: id,
                account: account(1),
                epoch: 1,
                filter_revision: 1,
                filter: Arc::default(),
                start,
            });
            bench.apply(&Command::Detach { subscription: id, epoch: 1, reason: Reason::Deleted });
        }
    }
    assert_eq!(bench.state.detached.len(), DETACHED_MAX);
}

/// A subscription with 10 events matched, 4 settled: 3 and 5 in the window, key 7 parked from 4 with 2, and 2 unread.
fn unsettled() -> Bench {
    let mut bench = Bench::new();
    bench.attach(1, 1, 1, Start::Next).unwrap();
    bench.append(20);
    bench.advance(10, vec![cursor(10, 4, record(8, &[3, 5], &[(7, 4, 2)]))]).unwrap();
    assert_eq!(bench.counters(1), (10, 6, vec![(Outcome::Delivered, 4)]));
    bench
}

/// The record of [`unsettled`].
fn same() -> Option<RecordChange> {
    record(8, &[3, 5], &[(7, 4, 2)])
}

#[test]
fn advance_is_applied_if_its_numbers_add_up() {
    let cases = [
        ("nothing new", 10, vec![cursor(0, 0, same())]),
        ("left out", 15, vec![]),
        ("more matched, unread", 15, vec![cursor(5, 0, same())]),
        ("all settled", 10, vec![cursor(0, 6, None)]),
        ("window settled", 10, vec![cursor(0, 2, record(8, &[], &[(7, 4, 2)]))]),
        ("read to the end", 10, vec![cursor(0, 0, record(10, &[3, 5, 8, 9], &[(7, 4, 2)]))]),
        ("nothing changed among the keys", 10, vec![cursor(0, 0, record(8, &[3, 5], &[]))]),
        ("unparked", 10, vec![cursor(0, 1, releasing(&[7], record(8, &[3, 5, 6], &[])))]),
        ("the key passed one", 10, vec![cursor(0, 1, record(8, &[3, 5], &[(7, 6, 1)]))]),
        ("another key", 10, vec![cursor(0, 1, record(8, &[5], &[(6, 3, 1), (7, 6, 1)]))]),
        ("one for another", 10, vec![cursor(0, 2, releasing(&[7], record(8, &[5], &[(6, 3, 1)])))]),
    ];
    for (name, frontier, cursors) in cases {
        assert_eq!(unsettled().advance(frontier, cursors), Ok(()), "{name}");
    }
}

#[test]
fn advance_with_wrong_numbers_is_refused() {
    let cases = [
        ("more matched than there are", 15, cursor(6, 0, same())),
        ("matched without a move", 10, cursor(1, 0, same())),
        ("more settled than pending", 10, cursor(0, 7, None)),
        ("no record, but pending", 10, cursor(0, 5, None)),
        ("settled, but still listed", 10, cursor(0, 6, same())),
        ("lost at the end", 10, cursor(0, 0, record(10, &[3, 5, 8], &[(7, 4, 2)]))),
        ("lost before the end", 10, cursor(0, 0, record(9, &[3, 5], &[(7, 4, 2)]))),
        ("more listed than pending", 10, cursor(0, 4, same())),
        ("an empty parked key", 10, cursor(0, 2, record(8, &[3, 5], &[(7, 4, 0)]))),
        ("more parked than offsets", 10, cursor(0, 1, record(8, &[], &[(7, 6, 3)]))),
        ("counts overflow", 10, cursor(u64::MAX, u64::MAX, same())),
        ("an unknown key released", 10, cursor(0, 0, releasing(&[6], record(8, &[3, 5], &[])))),
        ("released and parked", 10, cursor(0, 0, releasing(&[7], same()))),
        ("released with its events", 10, cursor(0, 0, releasing(&[7], record(8, &[3, 5], &[])))),
    ];
    for (name, frontier, cursor) in cases {
        assert_eq!(unsettled().advance(frontier, vec![cursor]), Err(Refusal::Accounting), "{name}");
    }
    let twice = vec![cursor(0, 0, same()), cursor(0, 0, same())];
    assert_eq!(unsettled().advance(10, twice), Err(Refusal::Accounting));
}

#[test]
fn advance_that_moves_back_or_past_the_end_is_refused() {
    let cases = [
        ("read_to back", cursor(0, 0, record(7, &[3, 5], &[(7, 4, 2)]))),
        ("read_to past the frontier", cursor(0, 0, record(11, &[3, 5], &[(7, 4, 2)]))),
        ("window out of order", cursor(0, 0, record(8, &[5, 3], &[(7, 4, 2)]))),
        ("window twice", cursor(0, 0, record(8, &[5, 5], &[(7, 4, 2)]))),
        ("window unread", cursor(0, 0, record(8, &[3, 8], &[(7, 4, 2)]))),
        ("window settled before", cursor(0, 0, record(8, &[2, 5], &[(7, 4, 2)]))),
        ("parked settled before", cursor(0, 0, record(8, &[3, 5], &[(7, 2, 2)]))),
        ("one key parked twice", cursor(0, 0, record(8, &[3, 5], &[(7, 4, 1), (7, 5, 1)]))),
        ("released twice", cursor(0, 2, releasing(&[7, 7], record(8, &[3, 5], &[])))),
        ("not catching up", CursorAdvance { matched_to: Some(Offset(10)), ..cursor(0, 0, same()) }),
    ];
    for (name, cursor) in cases {
        assert_eq!(unsettled().advance(10, vec![cursor]), Err(Refusal::Position), "{name}");
    }
    for (name, frontier) in [("frontier back", 9), ("frontier past the end", 21)] {
        assert_eq!(unsettled().advance(frontier, vec![]), Err(Refusal::Position), "{name}");
    }
    let other_epoch = CursorAdvance { epoch: 2, ..cursor(0, 0, same()) };
    let not_attached = CursorAdvance { subscription: subscription(9), ..cursor(0, 0, None) };
    for cursor in [other_epoch, not_attached] {
        assert_eq!(unsettled().advance(10, vec![cursor]), Err(Refusal::Epoch));
    }
}

#[test]
fn command_of_another_term_changes_nothing() {
    let mut bench = unsettled();
    let advance = Advance { frontier: Offset(15), cursors: vec![] };
    assert_eq!(
        bench.apply(&Command::Advance { term: TERM - 1, advance }),
        Reply::Advanced(Err(Refusal::Term))
    );
    let position = Position { term: TERM, leader: 1, index: 1 };
    let trim = Command::Trim { term: TERM + 1, to: Offset(1), position };
    assert_eq!(bench.apply(&trim), Reply::Trimmed(Err(Refusal::Term)));
    assert_eq!(bench.state.positions().frontier, Offset(10));
}

#[test]
fn record_may_keep_an_old_read_position_once_all_is_settled() {
    let mut bench = Bench::new();
    bench.attach(1, 1, 1, Start::Next).unwrap();
    bench.append(20);
    bench.advance(10, vec![]).unwrap();
    bench.advance(15, vec![cursor(5, 0, record(3, &[], &[]))]).unwrap();
    assert_eq!(kept(&bench), record(10, &[], &[]));
    assert_eq!(bench.trim(10), Ok(Offset(10)));
}

#[test]
fn catching_up_counts_for_itself_and_joins_at_the_frontier() {
    let own = |matched, matched_to: u64, delivered, record| CursorAdvance {
        matched_to: Some(Offset(matched_to)),
        ..cursor(matched, delivered, record)
    };
    let bench = || {
        let mut bench = Bench::new();
        bench.append(20);
        bench.advance(10, vec![]).unwrap();
        assert_eq!(bench.attach(1, 1, 1, Start::Earliest).unwrap().matched_to, Some(Offset(0)));
        bench.advance(12, vec![own(5, 6, 3, record(6, &[2, 5], &[]))]).unwrap();
        bench
    };
    let cases = [
        ("the frontier alone", 15, vec![], Ok(Some(6))),
        ("settles only", 12, vec![cursor(0, 1, record(6, &[5], &[]))], Ok(Some(6))),
        ("further", 12, vec![own(4, 11, 0, record(6, &[2, 5], &[]))], Ok(Some(11))),
        ("joins", 15, vec![own(9, 15, 0, record(6, &[2, 5], &[]))], Ok(None)),
        ("joins with nothing pending", 12, vec![own(0, 12, 2, None)], Ok(None)),
        ("counts without moving", 12, vec![cursor(1, 0, record(6, &[2, 5], &[]))], Err(Refusal::Accounting)),
        ("past the frontier", 12, vec![own(1, 13, 0, record(6, &[2, 5], &[]))], Err(Refusal::Position)),
        ("back", 12, vec![own(0, 5, 0, record(6, &[2, 5], &[]))], Err(Refusal::Position)),
        (
            "reads past what it counted",
            12,
            vec![own(0, 6, 0, record(7, &[2, 5], &[]))],
            Err(Refusal::Position),
        ),
        ("more than there are", 12, vec![own(6, 11, 0, record(6, &[2, 5], &[]))], Err(Refusal::Accounting)),
    ];
    for (name, frontier, cursors, expected) in cases {
        let mut bench = bench();
        let result = bench.advance(frontier, cursors);
        let matched_to = bench.state.attachment(subscription(1)).unwrap().matched_to;
        assert_eq!(result.map(|()| matched_to), expected.map(|to: Option<u64>| to.map(Offset)), "{name}");
    }
}

#[test]
fn inflight_advance_never_skips_a_subscription_that_starts_in_the_past() {
    let mut bench = Bench::new();
    bench.append(10);
    // The frontier stands at 0, as does the log's start; the fan-out has read to 10 without knowing the subscription.
    bench.attach(1, 1, 1, Start::Earliest).unwrap();
    bench.advance(10, vec![]).unwrap();
    assert_eq!(bench.state.attachment(subscription(1)).unwrap().matched_to, Some(Offset(0)));
    assert_eq!(bench.trim(1), Err(Refusal::Unsettled));
}

#[test]
fn trim_stops_at_the_first_unsettled_offset() {
    let cases: [(&str, Option<RecordChange>, u64, u64); 5] = [
        ("nothing pending: the frontier", None, 10, 10),
        ("the window", record(10, &[3, 9], &[]), 8, 3),
        ("a parked key", record(10, &[5], &[(7, 4, 2)]), 7, 4),
        ("unread", record(6, &[], &[]), 8, 6),
        ("read to the end", record(10, &[8], &[]), 9, 8),
    ];
    for (name, record, settled, floor) in cases {
        let mut bench = Bench::new();
        bench.attach(1, 1, 1, Start::Next).unwrap();
        bench.append(20);
        bench.advance(10, vec![cursor(10, settled, record)]).unwrap();
        assert_eq!(bench.trim(floor + 1), Err(Refusal::Unsettled), "{name}");
        assert_eq!(bench.trim(floor), Ok(Offset(floor)), "{name}");
        let anchor = bench.state.anchor().unwrap();
        assert_eq!((anchor.next_offset, anchor.position.index), (floor, floor), "{name}");
        assert_eq!(bench.trim(floor - 1), Err(Refusal::Position), "{name}");
        assert_eq!(bench.trim(21), Err(Refusal::Position), "{name}");
    }
}

#[test]
fn without_attachments_a_trim_takes_the_frontier_along() {
    let mut bench = Bench::new();
    bench.append(10);
    assert_eq!(bench.trim(7), Ok(Offset(7)));
    let positions = Positions { log_start: Offset(7), high_watermark: Offset(10), frontier: Offset(7) };
    assert_eq!(bench.state.positions(), positions);
}

#[test]
fn replayed_command_changes_derived_state_only() {
    let mut bench = unsettled();
    let before = bench.state.checkpoint();
    bench.script.time = 0;
    let commands = [
        Command::Detach { subscription: subscription(1), epoch: 1, reason: Reason::Deleted },
        Command::Advance { term: TERM, advance: Advance { frontier: Offset(15), cursors: vec![] } },
    ];
    for command in commands {
        let frame = bench.script.command(&command);
        assert_eq!(bench.state.apply(&frame, ApplyMode::Replay), Ok(Reply::Replayed));
    }
    assert_eq!(bench.state.checkpoint(), before);
    let frame = bench.script.entry(&[batch(1, &["new"])]);
    assert_eq!(bench.state.apply(&frame, ApplyMode::Replay), Ok(Reply::Appended));
    assert_eq!(bench.state.positions().high_watermark, Offset(21));
}

#[test]
fn checkpoint_equals_the_golden_file_and_damage_never_panics() {
    let mut bench = unsettled();
    assert_eq!(filters(&bench.attach(1, 1, 2, Start::Next).unwrap()), [(0, 1, "1"), (20, 2, "2")]);
    bench.attach(2, 3, 4, Start::Earliest).unwrap();
    bench.attach(3, 1, 1, Start::Next).unwrap();
    bench.apply(&Command::Detach { subscription: subscription(3), epoch: 1, reason: Reason::Deleted });
    bench.apply(&Command::Detach { subscription: subscription(2), epoch: 3, reason: Reason::Deleted });
    bench.trim(2).unwrap();
    bench.attach(2, 4, 4, Start::Earliest).unwrap();
    let bytes = bench.state.checkpoint();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, include_str!("checkpoint.hex").split_whitespace().collect::<String>());
    assert_eq!(PartitionState::restored(&bytes, Stream::Events).unwrap().checkpoint(), bytes);
    for end in 0..bytes.len() {
        assert!(PartitionState::restored(&bytes[..end], Stream::Events).is_err(), "cut at {end}");
    }
    for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << bit;
        if let Ok(state) = PartitionState::restored(&flipped, Stream::Events) {
            assert_ne!(state.checkpoint(), bytes, "flipped at {at}");
        }
    }
}

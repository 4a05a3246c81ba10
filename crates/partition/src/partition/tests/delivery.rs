//! Attaching, advancing, detaching, trimming.

use std::collections::BTreeMap;

use super::*;
use crate::{CursorAdvance, Outcome, ParkedKey, RecordChange};

fn subscription(number: u8) -> SubscriptionId {
    SubscriptionId::from_bytes([number; 16])
}

fn attach(number: u8, epoch: u64, start: StartAt) -> Attach {
    let (subscription, account, filter) = (subscription(number), account_id(1), b"all".as_slice().into());
    Attach { subscription, account, epoch, filter_revision: 1, filter, start }
}

fn cursor(number: u8, matched: u64, delivered: u64, record: Option<RecordChange>) -> CursorAdvance {
    CursorAdvance {
        subscription: subscription(number),
        epoch: 1,
        matched,
        matched_to: None,
        settled: BTreeMap::from([(Outcome::Delivered, delivered)]),
        record,
    }
}

fn refusal(result: Result<impl std::fmt::Debug, CommandError>) -> Refusal {
    match result {
        Err(CommandError::Refused(refusal)) => refusal,
        other => panic!("it was not refused: {other:?}"),
    }
}

impl Node {
    async fn advance(&self, frontier: u64, cursors: Vec<CursorAdvance>) -> Result<(), CommandError> {
        self.partition.advance(self.term(), Advance { frontier: Offset(frontier), cursors }).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivery_state_is_the_same_after_a_crash() {
    let node = Node::new().await;
    node.append(batch(1, &["a", "b"])).await;
    let attached = node.partition.attach(attach(1, 1, StartAt::Next)).await.unwrap();
    assert_eq!((attached.from, attached.matched_to), (Offset(2), None));
    let attached = node.partition.attach(attach(2, 1, StartAt::Earliest)).await.unwrap();
    assert_eq!((attached.from, attached.matched_to), (Offset(0), Some(Offset(0))));
    node.append(batch(1, &["c:1", "d:1", "c:2"])).await;
    let key = fanfare_model::KeyHash::of("c");
    let parked = ParkedKey { key, from: Offset(2), attempts: 3, retry_in_ms: 500, pending: 2 };
    let (read_to, window, parked) = (Offset(5), vec![Offset(3)], vec![parked]);
    let record = CursorRecord { read_to, window: window.clone(), parked: parked.clone(), outage: None };
    let change = RecordChange { read_to, window, parked, ..RecordChange::default() };
    node.advance(5, vec![cursor(1, 3, 0, Some(change))]).await.unwrap();
    let state = node.partition.delivery_state();
    let node = node.crash().await;
    assert_eq!(node.partition.delivery_state(), state);
    assert_eq!(state.frontier, Offset(5));
    let (counters, kept) = node.partition.progress(subscription(1)).unwrap();
    assert_eq!((counters.matched, counters.pending(), kept), (3, 3, Some(record)));
    node.advance(5, vec![cursor(1, 0, 3, None)]).await.unwrap();
    node.partition.detach(subscription(2), 1, Reason::Deleted).await.unwrap();
    let node = node.restart().await;
    let state = node.partition.delivery_state();
    assert_eq!(state.attachments.len(), 1);
    assert_eq!(state.attachments[0].1, None);
    assert_eq!(node.partition.attachment(subscription(2)), None);
    assert_eq!(node.partition.counters(subscription(2)).unwrap(), Counters::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn advance_of_another_term_or_with_wrong_numbers_changes_nothing() {
    let node = Node::new().await;
    node.partition.attach(attach(1, 1, StartAt::Next)).await.unwrap();
    node.append(batch(1, &["a", "b"])).await;
    let old = node.term();
    let node = node.crash().await;
    assert!(node.term() > old, "a restart begins a term");
    let stale = node.partition.advance(old, Advance { frontier: Offset(2), cursors: vec![] }).await;
    assert!(matches!(stale, Err(CommandError::NotLeader { .. })), "{stale:?}");
    assert_eq!(refusal(node.advance(3, vec![]).await), Refusal::Position);
    assert_eq!(refusal(node.advance(2, vec![cursor(1, 2, 1, None)]).await), Refusal::Accounting);
    assert_eq!(refusal(node.advance(2, vec![cursor(2, 0, 0, None)]).await), Refusal::Epoch);
    assert_eq!(node.partition.delivery_state().frontier, Offset(0));
    node.advance(2, vec![cursor(1, 2, 2, None)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscription_that_starts_in_the_past_counts_alone_until_it_joins() {
    let node = Node::new().await;
    node.append(batch(1, &["a", "b", "c", "d"])).await;
    node.pass(50);
    node.append(batch(1, &["e", "f"])).await;
    node.advance(6, vec![]).await.unwrap();
    let time = StartAt::Time(Timestamp(1_000_001));
    assert_eq!(node.partition.attach(attach(1, 1, time)).await.unwrap().from, Offset(4));
    node.partition.attach(attach(2, 1, StartAt::Earliest)).await.unwrap();
    let reading = |matched_to, matched, delivered, record| CursorAdvance {
        matched_to: Some(Offset(matched_to)),
        ..cursor(2, matched, delivered, record)
    };
    let record = RecordChange { read_to: Offset(3), window: vec![Offset(2)], ..RecordChange::default() };
    node.advance(6, vec![reading(3, 3, 2, Some(record))]).await.unwrap();
    assert_eq!(node.partition.attachment(subscription(2)).unwrap().matched_to, Some(Offset(3)));
    let node = node.crash().await;
    node.append(batch(1, &["g"])).await;
    node.advance(7, vec![reading(7, 4, 5, None)]).await.unwrap();
    assert_eq!(node.partition.attachment(subscription(2)).unwrap().matched_to, None);
    assert_eq!(node.partition.counters(subscription(2)).unwrap().matched, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_by_time_is_clamped_to_the_retained_log() {
    let node = Node::new().await;
    let mut times = Vec::new();
    for events in [["a", "b"], ["c", "d"], ["e", "f"]] {
        times.push(node.clock.now());
        node.append(batch(1, &events)).await;
        node.pass(50);
    }
    node.advance(6, vec![]).await.unwrap();
    assert_eq!(node.partition.trim(node.term(), Offset(2)).await.unwrap(), Offset(2));
    let cases = [
        (Timestamp(0), 2, Some(2)),
        (times[0], 2, Some(2)),
        (times[1], 2, Some(2)),
        (Timestamp(times[1].0 + 1), 4, Some(4)),
        (times[2], 4, Some(4)),
        (node.clock.now(), 6, None),
        (Timestamp(u64::MAX), 6, None),
    ];
    for ((time, from, matched_to), number) in cases.into_iter().zip(1..) {
        let attached = node.partition.attach(attach(number, 1, StartAt::Time(time))).await.unwrap();
        let found = (attached.from, attached.filters[0].from, attached.matched_to);
        assert_eq!(found, (Offset(from), Offset(from), matched_to.map(Offset)), "{time:?}");
    }
    let attached = node.partition.attach(attach(9, 1, StartAt::Earliest)).await.unwrap();
    assert_eq!((attached.from, attached.matched_to), (Offset(2), Some(Offset(2))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attach_at_an_unreadable_time_is_refused_as_data_loss() {
    let node = Node::new().await;
    for event in 0..500 {
        node.append(batch(1, &[&format!("{event}:{}", "x".repeat(4_000))])).await;
        node.pass(1);
    }
    let segment = first_segment(&node.fs);
    for at in (10_000..900_000).step_by(1_000) {
        node.fs.flip(&segment, at, 1);
    }
    let time = StartAt::Time(Timestamp(1_000_100));
    let refused = node.partition.attach(attach(1, 1, time)).await.unwrap_err();
    assert!(matches!(refused, CommandError::Unreadable(ReadError::DataLoss { .. })), "{refused}");
    assert_eq!(node.partition.attachment(subscription(1)), None);
    assert_eq!(node.partition.attach(attach(1, 1, StartAt::Next)).await.unwrap().from, Offset(500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trim_waits_for_unsettled_events_and_survives_a_crash() {
    let small = || PartitionOptions { segment_bytes: 16 << 10, ..options() };
    let mut node = Node::open(MemoryFileSystem::default(), small(), 1_000_000).await;
    node.partition.attach(attach(1, 1, StartAt::Next)).await.unwrap();
    for event in 0..40 {
        node.append(batch(1, &[&format!("{event:04}{}", "x".repeat(2_000))])).await;
    }
    assert_eq!(node.partition.decide_trim(None), None);
    node.pass(60_001);
    let target = node.partition.decide_trim(None).expect("whole segments are old");
    assert!(target > Offset(20) && target < Offset(40), "{target}");
    assert_eq!(refusal(node.partition.trim(node.term(), target).await), Refusal::Unsettled);
    node.advance(40, vec![cursor(1, 40, 40, None)]).await.unwrap();
    assert_eq!(refusal(node.partition.trim(node.term(), Offset(41)).await), Refusal::Position);
    assert_eq!(node.partition.trim(node.term(), target).await.unwrap(), target);
    assert_eq!(node.partition.decide_trim(None), None);
    for _ in 0..2 {
        let below = node.partition.read(Offset(target.0 - 1), AccountFilter::All, 1).await.unwrap_err();
        assert!(matches!(below, ReadError::OutOfRange { log_start, .. } if log_start == target), "{below}");
        let kept = node.events(target.0, None, 1 << 20).await;
        assert_eq!(
            kept.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(),
            (target.0..40).collect::<Vec<_>>()
        );
        assert!(kept.iter().all(|(offset, text)| text.starts_with(&format!("{offset:04}"))));
        assert_eq!(node.partition.offset_at(Timestamp(0)).await.unwrap(), target);
        node = node.crash_with(small()).await;
    }
    assert_eq!(node.append(batch(1, &["next"])).await.base, Offset(40));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trim_ends_at_the_end_of_an_entry() {
    let node = Node::new().await;
    node.append(batch(1, &["a", "b"])).await;
    node.append(batch(1, &["c", "d", "e"])).await;
    node.append(batch(1, &["f"])).await;
    assert_eq!(node.partition.trim(node.term(), Offset(1)).await.unwrap(), Offset(0));
    assert_eq!(node.partition.trim(node.term(), Offset(4)).await.unwrap(), Offset(2));
    assert_eq!(node.partition.trim(node.term(), Offset(1)).await.unwrap(), Offset(2));
    assert_eq!(node.partition.trim(node.term(), Offset(5)).await.unwrap(), Offset(5));
    assert_eq!(node.events(5, None, 100).await, numbered(5, &["f"]));
    assert_eq!(node.positions().frontier, Offset(5));
}

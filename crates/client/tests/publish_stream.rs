//! Publishing along a stream against a fake node that refuses, cuts and breaks connections on request.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::{collections::BTreeMap, time::Duration};

use fanfare_client::{Acknowledgement, EventBuilder, PublishStream};
use fanfare_proto::cloudevents::v1::CloudEvent;
use fanfare_testkit::{FakePublisher, refusal};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Events `0..count` over three partitions.
fn event(number: u64) -> CloudEvent {
    EventBuilder::new("t").id(number.to_string()).partition_key((number % 3).to_string()).build()
}

async fn open(fake: &FakePublisher) -> PublishStream {
    fake.serve().await.publish_stream().await.unwrap()
}

async fn publish(fake: &FakePublisher, count: u64, batch: u64) -> BTreeMap<u64, Acknowledgement> {
    let mut stream = open(fake).await;
    let mut acknowledged = BTreeMap::new();
    for first in (0..count).step_by(usize::try_from(batch).unwrap()) {
        let events = (first..count.min(first + batch)).map(event).collect();
        assert_eq!(stream.send(events).await.unwrap().start, first);
    }
    while let Some(one) = stream.next().await.unwrap() {
        assert!(acknowledged.insert(one.ordinal, one).is_none(), "acknowledged twice");
    }
    assert_eq!(stream.outstanding(), 0);
    acknowledged
}

fn fake(window_events: u32) -> FakePublisher {
    let fake = FakePublisher::default();
    fake.state().window.events = window_events;
    fake
}

/// Each partition holds what was not given up, once, in the order it was given; results name the places.
fn check(fake: &FakePublisher, acknowledged: &BTreeMap<u64, Acknowledgement>, count: u64, given_up: &[u64]) {
    assert_eq!(fake.state().early_resumes, 0, "it begins again only when all is answered");
    assert_eq!(acknowledged.keys().copied().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
    for partition in 0..3 {
        let kept = (0..count).filter(|number| number % 3 == partition && !given_up.contains(number));
        let kept: Vec<_> = kept.map(|number| number.to_string()).collect();
        assert_eq!(fake.state().logs[&u32::try_from(partition).unwrap()], kept);
    }
    for (number, acknowledgement) in acknowledged {
        match &acknowledgement.outcome {
            Ok(stored) => {
                let log = &fake.state().logs[&stored.partition];
                assert_eq!(log[usize::try_from(stored.offset).unwrap()], number.to_string());
            }
            Err(_) => assert!(given_up.contains(number), "{number} was given up"),
        }
    }
}

#[tokio::test]
async fn unhindered_events_are_committed_in_order() {
    for batch in [1, 3, 7] {
        let fake = fake(64);
        let acknowledged = publish(&fake, 50, batch).await;
        check(&fake, &acknowledged, 50, &[]);
        assert!(acknowledged.values().all(|one| one.outcome.as_ref().is_ok_and(|stored| !stored.duplicate)));
    }
}

#[tokio::test]
async fn retryable_refusal_is_resent_before_later_events() {
    for batch in [1, 5] {
        let fake = fake(32);
        fake.state().refuse =
            [("0", 1), ("4", 3), ("7", 1), ("20", 2)].map(|(id, n)| (id.to_owned(), n)).into();
        let acknowledged = publish(&fake, 40, batch).await;
        check(&fake, &acknowledged, 40, &[]);
        assert!(fake.state().refuse.values().all(|&left| left == 0));
    }
}

/// Ids acknowledged as committed before.
fn duplicates(acknowledged: &BTreeMap<u64, Acknowledgement>) -> Vec<u64> {
    let known = |one: &Acknowledgement| one.outcome.as_ref().is_ok_and(|stored| stored.duplicate);
    acknowledged.iter().filter(|(_, one)| known(one)).map(|(number, _)| *number).collect()
}

#[tokio::test]
async fn every_retryable_refusal_is_resent_and_stored_once() {
    let kinds = [
        (Code::ResourceExhausted, "OVERLOADED"),
        (Code::Unavailable, "NO_LEADER"),
        (Code::Unavailable, "SHARD_MOVED"),
        (Code::Unavailable, "DISK_FULL"),
        (Code::Unavailable, "DRAINING"),
        (Code::DeadlineExceeded, "OUTCOME_UNKNOWN"),
    ];
    for (code, reason) in kinds {
        let fake = fake(32);
        let is_unknown = reason == "OUTCOME_UNKNOWN";
        {
            let mut state = fake.state();
            state.refusal = refusal(code, reason, Some(1));
            state.refusal_commits = is_unknown;
            state.refuse = [("3", 1), ("4", 1), ("10", 1)].map(|(id, n)| (id.to_owned(), n)).into();
        }
        let acknowledged = publish(&fake, 30, 4).await;
        check(&fake, &acknowledged, 30, &[]);
        let known: &[u64] = if is_unknown { &[3, 4, 10] } else { &[] };
        assert_eq!(duplicates(&acknowledged), known, "{reason}");
    }
}

#[tokio::test]
async fn final_refusal_skips_its_event_alone() {
    let kinds = [
        (Code::InvalidArgument, "SCHEMA_VIOLATION"),
        (Code::AlreadyExists, "EVENT_CONFLICT"),
        (Code::Unavailable, "PARTITION_STOPPED"),
    ];
    for (code, reason) in kinds {
        let fake = fake(32);
        {
            let mut state = fake.state();
            state.refusal = refusal(code, reason, None);
            state.refuse = [("5", 1), ("6", 1)].map(|(id, n)| (id.to_owned(), n)).into();
        }
        let acknowledged = publish(&fake, 20, 4).await;
        check(&fake, &acknowledged, 20, &[5, 6]);
        assert_eq!(acknowledged[&5].outcome.as_ref().unwrap_err().reason, reason);
    }
    let fake = fake(32);
    fake.state().poison = ["5".to_owned()].into();
    fake.state().refuse = [("2".to_owned(), 1)].into();
    let acknowledged = publish(&fake, 20, 4).await;
    check(&fake, &acknowledged, 20, &[5]);
}

#[tokio::test]
async fn cut_stream_is_reopened_and_stores_nothing_twice() {
    let mut overloaded = ErrorDetails::new();
    overloaded.set_retry_info(Some(Duration::from_millis(1)));
    let ends = [
        Status::unavailable("cut"),
        Status::deadline_exceeded("late"),
        Status::with_error_details(Code::ResourceExhausted, "no room", overloaded),
    ];
    for end in ends {
        let fake = fake(16);
        fake.state().cuts = 2;
        fake.state().cut_with = end;
        let acknowledged = publish(&fake, 30, 2).await;
        check(&fake, &acknowledged, 30, &[]);
        assert_eq!(fake.state().streams, 3);
        assert!(duplicates(&acknowledged).len() >= 2, "what the cuts hid was committed before");
    }
}

#[tokio::test]
async fn broken_connection_is_reopened_and_stores_nothing_twice() {
    let fake = fake(16);
    fake.state().breaks = 3;
    let acknowledged = publish(&fake, 60, 2).await;
    check(&fake, &acknowledged, 60, &[]);
    assert_eq!(fake.state().streams, 4);
    assert!(duplicates(&acknowledged).len() >= 2, "what was not answered had been committed");
}

#[tokio::test]
async fn final_status_ends_the_stream_with_its_reason() {
    for end in [Status::unauthenticated("no such key"), Status::invalid_argument("not a request")] {
        let fake = fake(16);
        fake.state().cuts = 1;
        fake.state().cut_with = end.clone();
        let mut stream = open(&fake).await;
        stream.send(vec![event(0)]).await.unwrap();
        assert_eq!(stream.next().await.unwrap_err().code(), end.code());
        assert_eq!(fake.state().streams, 1);
    }
}

#[tokio::test]
async fn resends_stay_below_the_request_limits() {
    let fake = fake(5_000);
    // All others are sent before it is answered; a third of them waits behind it.
    fake.state().refuse = [("501".to_owned(), 1)].into();
    let acknowledged = publish(&fake, 4_000, 500).await;
    check(&fake, &acknowledged, 4_000, &[]);
    assert!(fake.state().request_events_max <= 1_000);
}

#[tokio::test]
async fn acknowledgements_can_be_polled_without_waiting() {
    let fake = fake(4);
    let mut stream = open(&fake).await;
    let mut ordinals = Vec::new();
    for number in 0..40 {
        stream.send(vec![event(number)]).await.unwrap();
        ordinals
            .extend(std::iter::from_fn(|| stream.try_next()).map(|acknowledgement| acknowledgement.ordinal));
        assert!(number + 1 - ordinals.len() as u64 <= 4, "no more than is unanswered is left");
    }
    while let Some(settled) = stream.next().await.unwrap() {
        ordinals.push(settled.ordinal);
    }
    assert_eq!(ordinals, (0..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn byte_window_is_respected() {
    let fake = fake(1_000);
    fake.state().window.bytes = 10_000;
    let mut stream = open(&fake).await;
    for number in 0..50 {
        let data = format!("\"{}\"", "x".repeat(1_000));
        let event = EventBuilder::new("t").id(number.to_string()).partition_key("0").json(&data);
        stream.send(vec![event.unwrap().build()]).await.unwrap();
    }
    while stream.next().await.unwrap().is_some() {}
    let (events, bytes) = fake.state().unanswered_max;
    assert!((5..10).contains(&events) && bytes <= 10_000, "{events} events of {bytes} bytes");
}

#[tokio::test]
async fn announced_event_window_is_respected() {
    let fake = fake(10);
    let acknowledged = publish(&fake, 60, 3).await;
    check(&fake, &acknowledged, 60, &[]);
    assert_eq!(fake.state().unanswered_max.0, 9, "three requests of three fit into ten events");
}

use super::*;
use crate::client::{EventBuilder, fake_publisher::FakePublisher};

/// Events `0..count` over three partitions.
fn event(number: u64) -> CloudEvent {
    EventBuilder::new("t").id(number.to_string()).partition_key((number % 3).to_string()).build()
}

async fn publish(fake: &FakePublisher, count: u64, batch: u64) -> BTreeMap<u64, Settled> {
    let client = fake.serve().await;
    let mut stream = client.publish_stream().await.unwrap();
    let mut settled = BTreeMap::new();
    for first in (0..count).step_by(usize::try_from(batch).unwrap()) {
        let events = (first..count.min(first + batch)).map(event).collect();
        assert_eq!(stream.send(events).await.unwrap().start, first);
    }
    while let Some(one) = stream.next().await.unwrap() {
        assert!(settled.insert(one.ordinal, one).is_none(), "settled twice");
    }
    assert_eq!(stream.outstanding(), 0);
    settled
}

fn fake(window_events: u32) -> FakePublisher {
    let fake = FakePublisher::default();
    fake.state().window_events = window_events;
    fake
}

/// Each partition holds what was not given up, once, in the order it was given; results name the places.
fn check(fake: &FakePublisher, settled: &BTreeMap<u64, Settled>, count: u64, given_up: &[u64]) {
    assert_eq!(settled.keys().copied().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
    for partition in 0..3 {
        let kept = (0..count).filter(|number| number % 3 == partition && !given_up.contains(number));
        let kept: Vec<_> = kept.map(|number| number.to_string()).collect();
        assert_eq!(fake.state().logs[&u32::try_from(partition).unwrap()], kept);
    }
    for (number, settled) in settled {
        match &settled.outcome {
            Ok(stored) => {
                let log = &fake.state().logs[&stored.partition];
                assert_eq!(log[usize::try_from(stored.offset).unwrap()], number.to_string());
            }
            Err(_) => assert!(given_up.contains(number), "{number} was given up"),
        }
    }
}

#[tokio::test]
async fn what_nothing_hinders_is_committed_in_order() {
    for batch in [1, 3, 7] {
        let fake = fake(64);
        let settled = publish(&fake, 50, batch).await;
        check(&fake, &settled, 50, &[]);
        assert!(settled.values().all(|one| one.outcome.as_ref().is_ok_and(|stored| !stored.duplicate)));
    }
}

#[tokio::test]
async fn a_retryable_refusal_is_resent_before_what_was_held_back_behind_it() {
    for batch in [1, 5] {
        let fake = fake(32);
        fake.state().refuse =
            [("0", 1), ("4", 3), ("7", 1), ("20", 2)].map(|(id, n)| (id.to_owned(), n)).into();
        let settled = publish(&fake, 40, batch).await;
        check(&fake, &settled, 40, &[]);
        assert!(fake.state().refuse.values().all(|&left| left == 0));
    }
}

#[tokio::test]
async fn a_final_refusal_skips_its_event_alone() {
    let fake = fake(32);
    fake.state().poison = ["5".to_owned(), "6".to_owned()].into();
    fake.state().refuse = [("2".to_owned(), 1)].into();
    let settled = publish(&fake, 20, 4).await;
    check(&fake, &settled, 20, &[5, 6]);
    assert_eq!(settled[&5].outcome.as_ref().unwrap_err().reason, "SCHEMA_VIOLATION");
}

#[tokio::test]
async fn a_cut_stream_is_opened_again_and_nothing_is_stored_twice() {
    let fake = fake(16);
    fake.state().cuts = 2;
    let settled = publish(&fake, 30, 2).await;
    check(&fake, &settled, 30, &[]);
    assert_eq!(fake.state().streams, 3);
    let duplicates = settled.values().filter(|one| one.outcome.as_ref().is_ok_and(|stored| stored.duplicate));
    assert!(duplicates.count() >= 2, "what the cuts hid was committed before");
}

#[tokio::test]
async fn the_window_of_the_first_answer_is_used_and_kept() {
    let fake = fake(10);
    let settled = publish(&fake, 60, 3).await;
    check(&fake, &settled, 60, &[]);
    assert_eq!(fake.state().unanswered_max, 9, "three requests of three fit into ten events");
}

use fanfare_ingest::{AppendError, BatchSize, PublishSession, Refusal};
use fanfare_proto::v1::{PublishStreamRequest, PublishStreamResponse, PublishWindow};
use futures_util::StreamExt;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::*;

/// One client's stream.
struct Stream {
    requests: mpsc::Sender<PublishStreamRequest>,
    responses: Streaming<PublishStreamResponse>,
    sequence: u64,
}

impl Stream {
    async fn open(caller: &Caller) -> Self {
        let (requests, outgoing) = mpsc::channel(1000);
        let mut publisher = caller.publisher.clone();
        let opened = publisher.publish_stream(ReceiverStream::new(outgoing));
        let responses = timeout(DEADLINE, opened).await.expect("it opens in time").unwrap().into_inner();
        Self { requests, responses, sequence: 0 }
    }

    async fn send(&mut self, events: Vec<CloudEvent>) {
        self.send_as(false, events).await;
    }

    async fn send_as(&mut self, resume: bool, events: Vec<CloudEvent>) {
        self.sequence += 1;
        let request = PublishStreamRequest { sequence: self.sequence, resume, events };
        self.requests.send(request).await.expect("the stream is open");
    }

    async fn next(&mut self) -> Result<PublishStreamResponse, Status> {
        timeout(DEADLINE, self.responses.next()).await.expect("it answers in time").expect("it goes on")
    }

    /// Outcomes of the next request's events: an offset or a reason each.
    async fn outcomes(&mut self) -> Vec<Result<u64, String>> {
        let response = self.next().await.unwrap();
        if response.results.is_empty() {
            return (0..response.count.into()).map(|nth| Ok(response.first_offset + nth)).collect();
        }
        let outcome = |result: fanfare_proto::v1::PublishResult| match result.error {
            None => Ok(result.offset),
            Some(error) => Err(error.reason),
        };
        response.results.into_iter().map(outcome).collect()
    }
}

fn refused(reason: &str) -> Result<u64, String> {
    Err(reason.to_owned())
}

#[tokio::test]
async fn requests_are_answered_in_order_and_runs_in_short() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let mut stream = Stream::open(&caller).await;
    let sizes: Vec<usize> = (0..300).map(|nth| nth % 4).collect();
    let mut id = 0;
    for size in &sizes {
        let events = (0..*size).map(|_| {
            id += 1;
            event(&id.to_string())
        });
        let events = events.collect();
        stream.send(events).await;
    }
    let mut offset = 0;
    for (sequence, size) in (1..).zip(&sizes) {
        let response = stream.next().await.unwrap();
        let count = u32::try_from(*size).unwrap();
        assert_eq!((response.sequence, response.count, response.results.len()), (sequence, count, 0));
        let window = PublishWindow { events: 1000, bytes: 1 << 20 };
        assert_eq!(response.window, (sequence == 1).then_some(window));
        if count > 0 {
            assert_eq!((response.partition, response.first_offset), (caller.partition.into(), offset));
        }
        offset += u64::from(count);
    }
    let Stream { requests, mut responses, .. } = stream;
    drop(requests);
    assert!(timeout(DEADLINE, responses.next()).await.unwrap().is_none(), "it ends when the client is done");
}

#[tokio::test]
async fn a_final_refusal_skips_only_its_event() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let mut stream = Stream::open(&caller).await;
    let unknown = CloudEvent { r#type: "none".to_owned(), ..event("b") };
    stream.send(vec![event("a"), unknown, event("c"), event("a")]).await;
    stream.send(vec![event("d")]).await;
    assert_eq!(stream.outcomes().await, [Ok(0), refused("EVENT_TYPE_UNKNOWN"), Ok(1), Ok(0)]);
    assert_eq!(stream.outcomes().await, [Ok(2)]);
}

#[tokio::test]
async fn a_retryable_refusal_holds_its_partition_until_the_resume() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let mut stream = Stream::open(&caller).await;
    stream.send(vec![event("a")]).await;
    assert_eq!(stream.outcomes().await, [Ok(0)]);

    let all = usize::try_from(LIMITS.inflight_bytes_max).unwrap();
    let full = node.ingest.admit(all).unwrap();
    stream.send(vec![event("b"), event("c")]).await;
    assert_eq!(stream.outcomes().await, [refused("OVERLOADED"), refused("ABORTED_BEHIND")]);
    drop(full);
    stream.send(vec![event("d"), CloudEvent { r#type: "none".to_owned(), ..event("e") }]).await;
    assert_eq!(stream.outcomes().await, [refused("ABORTED_BEHIND"), refused("EVENT_TYPE_UNKNOWN")]);

    stream.send_as(true, vec![event("b"), event("c"), event("d")]).await;
    stream.send(vec![event("f")]).await;
    assert_eq!(stream.outcomes().await, [Ok(1), Ok(2), Ok(3)]);
    assert_eq!(stream.outcomes().await, [Ok(4)]);
}

#[tokio::test]
async fn a_partition_without_a_leader_holds_its_stream_and_no_other() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let homeless = super::publish::homeless(&node).await;
    let mut held = Stream::open(&homeless).await;
    held.send(vec![event("a"), event("b")]).await;
    assert_eq!(held.outcomes().await, [refused("NO_LEADER"), refused("ABORTED_BEHIND")]);
    held.send(vec![event("c")]).await;
    assert_eq!(held.outcomes().await, [refused("ABORTED_BEHIND")]);
    held.send_as(true, vec![event("a")]).await;
    assert_eq!(held.outcomes().await, [refused("NO_LEADER")], "a resume tries again");
    let mut other = Stream::open(&caller).await;
    other.send(vec![event("a")]).await;
    assert_eq!(other.outcomes().await, [Ok(0)]);
}

/// Publishes the event `probe` alone until it fares as told.
async fn probe(caller: &Caller, outcome: Result<(), &str>) {
    let probed = async {
        loop {
            let reason =
                super::publish::publish(caller, event("probe")).await.map_err(|status| told(&status).1);
            if reason.as_ref().map(|_| ()).map_err(String::as_str) == outcome {
                return;
            }
        }
    };
    timeout(DEADLINE, probed).await.expect("the disk is looked at");
}

#[tokio::test]
async fn a_full_disk_holds_its_stream_until_the_resume_even_with_room_again() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let mut stream = Stream::open(&caller).await;
    node.fs.leave_free(100_000);
    probe(&caller, Err("DISK_FULL")).await;
    stream.send(vec![event("a"), event("b")]).await;
    assert_eq!(stream.outcomes().await, [refused("DISK_FULL"), refused("ABORTED_BEHIND")]);
    node.fs.leave_free(100_000_000);
    probe(&caller, Ok(())).await;
    stream.send(vec![event("c")]).await;
    assert_eq!(stream.outcomes().await, [refused("ABORTED_BEHIND")]);
    stream.send_as(true, vec![event("a"), event("b")]).await;
    stream.send(vec![event("c")]).await;
    assert_eq!(stream.outcomes().await, [Ok(1), Ok(2)]);
    assert_eq!(stream.outcomes().await, [Ok(3)]);
}

#[tokio::test]
async fn a_refusal_holds_back_later_batches_before_it_is_answered() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let mut session = PublishSession::new(node.ingest.clone(), caller.tenant);
    let mut append = async |id: &str| {
        let bytes = event(id).encode_to_vec();
        let mut batch = session.start_batch(BatchSize { events: 1, bytes: 0 }).unwrap();
        session.add(&mut batch, std::iter::once(&bytes[..])).await;
        session.append(batch)
    };
    let before = append("a").await;
    probe(&caller, Ok(())).await;
    node.fs.leave_free(100_000);
    probe(&caller, Err("DISK_FULL")).await;
    let refused = append("b").await;
    // It is decided after the one before it.
    probe(&caller, Err("DISK_FULL")).await;
    node.fs.leave_free(100_000_000);
    probe(&caller, Ok(())).await;
    let later = append("c").await;
    let outcomes = [
        node.ingest.outcome(before).await.event(0),
        node.ingest.outcome(refused).await.event(0),
        node.ingest.outcome(later).await.event(0),
    ];
    let [Ok(_), Err(Refusal::Append(AppendError::DiskFull { .. })), Err(Refusal::Behind)] = outcomes else {
        panic!("{outcomes:?}")
    };
}

#[tokio::test]
async fn a_client_that_ignores_its_window_is_read_no_faster_and_loses_nothing() {
    let limits = IngestLimits { stream_window_events: 2, stream_window_bytes: 300, ..LIMITS };
    let node = Node::with(limits).await;
    let caller = node.caller("acme").await;
    let mut stream = Stream::open(&caller).await;
    for nth in 0..100 {
        stream.send((0..3).map(|part| event(&format!("{nth}-{part}"))).collect()).await;
    }
    for nth in 0..100 {
        let offset = nth * 3;
        assert_eq!(stream.outcomes().await, [Ok(offset), Ok(offset + 1), Ok(offset + 2)]);
    }
}

#[tokio::test]
async fn a_too_large_request_ends_the_stream_after_earlier_answers() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let mut stream = Stream::open(&caller).await;
    stream.send(vec![event("a")]).await;
    stream.send((0..100).map(|nth| json(event(&nth.to_string()), &"x".repeat(9000))).collect()).await;
    assert_eq!(stream.outcomes().await, [Ok(0)], "what came before is answered");
    let end = stream.next().await.unwrap_err();
    assert_eq!(told(&end), (Code::InvalidArgument, "REQUEST_TOO_LARGE".to_owned(), false));
}

#[tokio::test]
async fn a_stopping_node_answers_taken_requests_and_ends_the_stream() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let mut stream = Stream::open(&caller).await;
    stream.send(vec![event("a")]).await;
    assert_eq!(stream.outcomes().await, [Ok(0)]);
    node.stop.cancel();
    let end = stream.next().await.unwrap_err();
    assert_eq!(told(&end), (Code::Unavailable, "DRAINING".to_owned(), true));
}

#[tokio::test]
async fn a_client_that_disconnects_leaves_no_task_and_no_permit() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let before = node.tasks.len();
    let mut stream = Stream::open(&caller).await;
    for nth in 0..50 {
        stream.send(vec![event(&nth.to_string())]).await;
    }
    stream.next().await.unwrap();
    drop(stream);
    timeout(DEADLINE, async {
        while node.tasks.len() > before {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("its tasks end");
    let all = usize::try_from(LIMITS.inflight_bytes_max).unwrap();
    assert!(node.ingest.admit(all).is_ok(), "its shares are back");
}

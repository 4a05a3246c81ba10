//! The answering half: waits for the outcomes of batches in order and turns them into responses.

use std::time::Duration;

use fanfare_ingest::{BatchOutcome, Committed, Ingest};
use fanfare_proto::v1::{PublishStreamResponse, PublishWindow};
use tokio::sync::{OwnedSemaphorePermit, mpsc, mpsc::error::SendTimeoutError, oneshot};
use tonic::Status;

use super::{PendingRequest, StreamBatch, StreamItem};
use crate::{
    grpc::publish_response::result,
    problem::{Condition, Problem},
};

/// A client that reads no answer for so long is gone: the memory that its stream holds serves others.
const ANSWERS_TAKEN_WITHIN: Duration = Duration::from_secs(30);

pub(super) type Responses = Vec<PublishStreamResponse>;

pub(super) struct ResponseWriter {
    ingest: Ingest,
    responses: mpsc::Sender<Responses>,
    /// Ends the stream, behind the responses that were handed over.
    failure: oneshot::Sender<Status>,
    taken_within: Duration,
    /// Sent with the first response.
    window: Option<PublishWindow>,
}

impl ResponseWriter {
    pub(super) fn new(
        ingest: Ingest,
        responses: mpsc::Sender<Responses>,
        failure: oneshot::Sender<Status>,
    ) -> Self {
        let limits = ingest.limits();
        let window =
            PublishWindow { events: limits.stream_window_events, bytes: limits.stream_window_bytes.into() };
        Self { ingest, responses, failure, taken_within: ANSWERS_TAKEN_WITHIN, window: Some(window) }
    }

    pub(super) async fn run(mut self, mut items: mpsc::Receiver<StreamItem>) {
        while let Some(item) = items.recv().await {
            let batch = match item {
                StreamItem::Batch(batch) => batch,
                StreamItem::End(Ok(())) => return,
                StreamItem::End(Err(status)) => return self.fail(status),
            };
            // The permits are held until the connection has room for the answer.
            let (responses, _permits) = self.answer(batch).await;
            match self.responses.send_timeout(responses, self.taken_within).await {
                Ok(()) => {}
                Err(SendTimeoutError::Closed(_)) => return,
                Err(SendTimeoutError::Timeout(_)) => return self.fail(answers_not_taken()),
            }
        }
    }

    fn fail(self, status: Status) {
        // A closed channel means that the client is gone: there is nobody to tell.
        drop(self.failure.send(status));
    }

    async fn answer(&mut self, batch: StreamBatch) -> (Responses, Vec<OwnedSemaphorePermit>) {
        let StreamBatch { requests, inflight, permits } = batch;
        let outcome = self.ingest.outcome(inflight).await;
        let mut first = 0;
        let mut responses = Vec::with_capacity(requests.len());
        for request in requests {
            let mut response = response(&request, &outcome, first);
            response.window = self.window.take();
            first += request.events;
            responses.push(response);
        }
        assert_eq!(first, outcome.len(), "invariant violation: the requests of a batch have its events");
        (responses, permits)
    }
}

fn answers_not_taken() -> Status {
    let message = "no answers were read for too long: what became of the events behind the last answer is unknown; \
                   open a new stream and send them again, with the same ids";
    Problem::new(Condition::AnswersNotTaken, message).into()
}

/// The response to a request whose first event is number `first` of the batch.
fn response(request: &PendingRequest, outcome: &BatchOutcome, first: usize) -> PublishStreamResponse {
    let events = first..first + request.events;
    let count = u32::try_from(request.events).expect("a request has few events");
    let empty =
        PublishStreamResponse { sequence: request.sequence, count, ..PublishStreamResponse::default() };
    if let Some((partition, first_offset)) = consecutive_run(outcome, events.clone()) {
        return PublishStreamResponse { partition: partition.into(), first_offset, ..empty };
    }
    let results = events.map(|index| result(&outcome.event_in_order(index))).collect();
    PublishStreamResponse { results, ..empty }
}

/// Partition and first offset if all events were newly committed there at consecutive offsets.
fn consecutive_run(outcome: &BatchOutcome, events: std::ops::Range<usize>) -> Option<(u16, u64)> {
    let mut start = None;
    for (nth, index) in (0..).zip(events) {
        let Ok(Committed { partition, offset, duplicate: false }) = outcome.event(index) else {
            return None;
        };
        match start {
            None => start = Some((partition, offset.0)),
            Some((same, first)) if same == partition && first + nth == offset.0 => {}
            Some(_) => return None,
        }
    }
    start
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fanfare_ingest::InflightBatch;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::{grpc::publish_stream::RESPONSES_MAX, tests::Node};

    #[tokio::test]
    async fn a_client_that_reads_no_answers_loses_its_stream_and_its_memory() {
        let node = Node::new().await;
        let (responses_in, _never_read) = mpsc::channel(RESPONSES_MAX);
        let (failure_in, failure) = oneshot::channel();
        let (items_in, items) = mpsc::channel(2 * RESPONSES_MAX);
        let memory = Arc::new(Semaphore::new(2 * RESPONSES_MAX));
        for sequence in 0..2 * RESPONSES_MAX as u64 {
            let requests = vec![PendingRequest { sequence, events: 0 }];
            let permits = vec![memory.clone().try_acquire_owned().unwrap()];
            let batch = StreamBatch { requests, inflight: InflightBatch::default(), permits };
            assert!(items_in.try_send(StreamItem::Batch(batch)).is_ok());
        }
        let writer = ResponseWriter::new(node.ingest.clone(), responses_in, failure_in);
        ResponseWriter { taken_within: Duration::from_millis(10), ..writer }.run(items).await;
        assert!(items_in.is_closed(), "the request reader sees it");
        let status = failure.await.expect("a client that wakes up learns that outcomes are missing");
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(memory.available_permits(), 2 * RESPONSES_MAX);
    }
}

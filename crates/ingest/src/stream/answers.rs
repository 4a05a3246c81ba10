//! The answering half: settles rounds in order and turns them into responses.

use std::time::Duration;

use fanfare_proto::v1::{PublishStreamResponse, PublishWindow};
use tokio::sync::{mpsc, mpsc::error::SendTimeoutError, oneshot};
use tonic::Status;

use super::{Asked, Round, Step};
use crate::{
    ingest::{Committed, Ingest},
    publisher::result,
    round::Settled,
    status::answers_not_taken,
};

/// A client that reads no answers for so long has gone: what its stream holds of the node serves others.
const ANSWERS_TAKEN_WITHIN: Duration = Duration::from_secs(30);

pub(super) type Responses = Vec<PublishStreamResponse>;

pub(super) struct Answers {
    ingest: Ingest,
    responses: mpsc::Sender<Responses>,
    /// Ends the stream, behind the responses that were handed over.
    failure: oneshot::Sender<Status>,
    taken_within: Duration,
    /// Told with the first response.
    window: Option<PublishWindow>,
}

impl Answers {
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

    pub(super) async fn run(mut self, mut rounds: mpsc::Receiver<Step>) {
        while let Some(step) = rounds.recv().await {
            let round = match step {
                Step::Round(round) => round,
                Step::End(Ok(())) => return,
                Step::End(Err(status)) => return self.fail(status),
            };
            // The shares are held until the connection has room for the answer.
            let (responses, _shares) = self.answer(round).await;
            match self.responses.send_timeout(responses, self.taken_within).await {
                Ok(()) => {}
                Err(SendTimeoutError::Closed(_)) => return,
                Err(SendTimeoutError::Timeout(_)) => return self.fail(answers_not_taken()),
            }
        }
    }

    fn fail(self, status: Status) {
        // Not taken, the connection is gone: there is nobody to tell.
        drop(self.failure.send(status));
    }

    async fn answer(&mut self, round: Round) -> (Responses, Vec<tokio::sync::OwnedSemaphorePermit>) {
        let Round { asked, in_flight, shares } = round;
        let settled = self.ingest.commit(in_flight).await;
        let mut first = 0;
        let mut responses = Vec::with_capacity(asked.len());
        for request in asked {
            let mut response = response(&request, &settled, first);
            response.window = self.window.take();
            first += request.events;
            responses.push(response);
        }
        (responses, shares)
    }
}

fn response(asked: &Asked, settled: &Settled, first: usize) -> PublishStreamResponse {
    let events = first..first + asked.events;
    let count = u32::try_from(asked.events).expect("a request has few events");
    let empty = PublishStreamResponse { sequence: asked.sequence, count, ..PublishStreamResponse::default() };
    if let Some((partition, first_offset)) = run(settled, events.clone()) {
        return PublishStreamResponse { partition: partition.into(), first_offset, ..empty };
    }
    let results = events.map(|index| result(&settled.outcome_in_order(index))).collect();
    PublishStreamResponse { results, ..empty }
}

/// Partition and first offset if all of the events were newly committed there one after the other.
fn run(settled: &Settled, events: std::ops::Range<usize>) -> Option<(u16, u64)> {
    let mut start = None;
    for (nth, index) in (0..).zip(events) {
        let Ok(Committed { partition, offset, duplicate: false }) = settled.outcome(index) else {
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

    use tokio::sync::Semaphore;

    use super::*;
    use crate::{round::Gathering, stream::RESPONSES_MAX, tests::Node};

    #[tokio::test]
    async fn a_client_that_reads_no_answers_loses_its_stream_and_its_share_of_the_node() {
        let node = Node::new().await;
        let ingest = node.ingest.clone();
        let (responses_in, _never_read) = mpsc::channel(RESPONSES_MAX);
        let (failure_in, failure) = oneshot::channel();
        let (rounds, rounds_out) = mpsc::channel(2 * RESPONSES_MAX);
        let share = Arc::new(Semaphore::new(2 * RESPONSES_MAX));
        for sequence in 0..2 * RESPONSES_MAX as u64 {
            let asked = vec![Asked { sequence, events: 0 }];
            let shares = vec![share.clone().try_acquire_owned().unwrap()];
            let in_flight = Gathering::expecting(0, 0).append(&[], &mut crate::lanes::Lanes::default());
            assert!(rounds.try_send(Step::Round(Round { asked, in_flight, shares })).is_ok());
        }
        let answers = Answers::new(ingest, responses_in, failure_in);
        Answers { taken_within: Duration::from_millis(10), ..answers }.run(rounds_out).await;
        assert!(rounds.is_closed(), "the intake learns of it");
        let status = failure.await.expect("a client that wakes up learns that outcomes are missing");
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(share.available_permits(), 2 * RESPONSES_MAX);
    }
}

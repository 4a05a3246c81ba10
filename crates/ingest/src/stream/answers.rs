//! The answering half: settles rounds in order and turns them into responses.

use fanfare_proto::v1::{PublishStreamResponse, PublishWindow};
use tokio::sync::mpsc;
use tonic::Status;

use super::{Asked, Round, Step};
use crate::{
    ingest::{Committed, Ingest},
    publisher::result,
    round::Settled,
};

pub(super) type Responses = Vec<Result<PublishStreamResponse, Status>>;

pub(super) struct Answers {
    ingest: Ingest,
    responses: mpsc::Sender<Responses>,
    /// Told with the first response.
    window: Option<PublishWindow>,
}

impl Answers {
    pub(super) fn new(ingest: Ingest, responses: mpsc::Sender<Responses>) -> Self {
        let limits = ingest.limits();
        let window =
            PublishWindow { events: limits.stream_window_events, bytes: limits.stream_window_bytes.into() };
        Self { ingest, responses, window: Some(window) }
    }

    pub(super) async fn run(mut self, mut rounds: mpsc::Receiver<Step>) {
        while let Some(step) = rounds.recv().await {
            let responses = match step {
                Step::Round(round) => self.answer(round).await,
                Step::End(Ok(())) => return,
                Step::End(Err(status)) => (vec![Err(status)], Vec::new()),
            };
            // The shares go with the second half, when the connection has room for the answer.
            if self.responses.send(responses.0).await.is_err() {
                return;
            }
        }
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
            responses.push(Ok(response));
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

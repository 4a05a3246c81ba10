//! One PublishStream: pipelined, answered in order, and in order within each partition.
//!
//! ```text
//! requests ─► intake ─(rounds: appended, not yet committed)─► answers ─► responses
//!               ▲                                               │
//!               └────── window: events and bytes unanswered ────┘
//! ```
//! The intake takes all requests that are there into one round, so that small ones share a record batch; it
//! never waits for a commit. The answers settle rounds in order. The order within a partition is its lane's
//! to keep, see [`lanes`](crate::lanes): the intake hands rounds over in the order of the stream.

mod answers;
mod intake;

use bytes::Bytes;
use fanfare_catalog::Tenant;
use fanfare_proto::v1::PublishStreamResponse;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use self::{answers::Answers, intake::Intake};
use crate::{ingest::Ingest, round::InFlight};

/// Rounds appended and not yet answered; the window bounds what is in them.
const ROUNDS_MAX: usize = 64;
/// Rounds of responses that the connection has not taken.
const RESPONSES_MAX: usize = 16;

/// Runs the stream on the node's tasks; it ends with its requests, with the node, or with the connection.
pub(crate) fn serve(
    ingest: Ingest,
    tenant: Tenant,
    requests: Streaming<Bytes>,
) -> impl Stream<Item = Result<PublishStreamResponse, Status>> {
    let (rounds_in, rounds_out) = mpsc::channel(ROUNDS_MAX);
    let (responses_in, responses_out) = mpsc::channel(RESPONSES_MAX);
    let (failure_in, failure) = oneshot::channel();
    let tasks = ingest.tasks().clone();
    tasks.spawn(Answers::new(ingest.clone(), responses_in, failure_in).run(rounds_out));
    tasks.spawn(Intake::new(ingest, tenant, requests, rounds_in).run());
    let responses = ReceiverStream::new(responses_out).flat_map(|responses: Vec<_>| stream::iter(responses));
    let failure = failure.into_stream().filter_map(async |failure| failure.ok().map(Err));
    responses.map(Ok).chain(failure)
}

/// What the intake hands to the answers, in stream order.
enum Step {
    Round(Round),
    /// Nothing follows; the status ends the stream if it is an error.
    End(Result<(), Status>),
}

/// Requests whose events went out together.
struct Round {
    asked: Vec<Asked>,
    in_flight: InFlight,
    /// Shares of the stream's window and of the node's admission; returned with the answer.
    shares: Vec<OwnedSemaphorePermit>,
}

/// One request of a round.
struct Asked {
    sequence: u64,
    events: usize,
}

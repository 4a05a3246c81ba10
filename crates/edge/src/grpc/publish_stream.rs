//! One PublishStream: pipelined, answered in order, and in order within each partition.
//!
//! ```text
//! requests ─► request reader ─(batches: appended, not yet committed)─► response writer ─► responses
//!                   ▲                                                        │
//!                   └────────── window: events and bytes unanswered ─────────┘
//! ```
//! The request reader joins all requests that have arrived into one batch, so that small ones share a record batch; it
//! never waits for a commit. The response writer waits for the outcomes of batches in order. The stream's
//! [`PublishSession`](fanfare_ingest::PublishSession) keeps the order within a partition: the request reader appends
//! batches in the order of the stream.

mod request_reader;
mod response_writer;

use bytes::Bytes;
use fanfare_ingest::{InflightBatch, Ingest, Tenant};
use fanfare_proto::v1::PublishStreamResponse;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use self::{request_reader::RequestReader, response_writer::ResponseWriter};

/// Batches appended and not yet answered; the window bounds their size.
const BATCHES_MAX: usize = 64;
/// Batches of responses that the connection has not taken.
const RESPONSES_MAX: usize = 16;

/// Runs the stream on tasks of the node; it ends with its requests, with the node, or with the connection.
pub(super) fn serve(
    ingest: Ingest,
    tenant: Tenant,
    requests: Streaming<Bytes>,
) -> impl Stream<Item = Result<PublishStreamResponse, Status>> {
    let (items_in, items) = mpsc::channel(BATCHES_MAX);
    let (responses_in, responses) = mpsc::channel(RESPONSES_MAX);
    let (failure_in, failure) = oneshot::channel();
    let tasks = ingest.tasks().clone();
    tasks.spawn(ResponseWriter::new(ingest.clone(), responses_in, failure_in).run(items));
    tasks.spawn(RequestReader::new(ingest, tenant, requests, items_in).run());
    let responses = ReceiverStream::new(responses).flat_map(|responses: Vec<_>| stream::iter(responses));
    let failure = failure.into_stream().filter_map(async |failure| failure.ok().map(Err));
    responses.map(Ok).chain(failure)
}

/// Hand-over from the request reader to the response writer, in stream order.
enum StreamItem {
    Batch(StreamBatch),
    /// Nothing follows; an error ends the stream with its status.
    End(Result<(), Status>),
}

/// Requests whose events were appended together.
struct StreamBatch {
    requests: Vec<PendingRequest>,
    inflight: InflightBatch,
    /// Permits of the stream's window and of the node's admission; given back with the answer.
    permits: Vec<OwnedSemaphorePermit>,
}

/// One request of a batch, to be answered.
struct PendingRequest {
    sequence: u64,
    events: usize,
}

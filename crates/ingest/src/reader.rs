//! `fanfare.v1.ReaderService`, written by hand so that events go out as the bytes they were stored as.

use std::{collections::BTreeSet, time::Duration};

use fanfare_catalog::Catalog;
use fanfare_model::{Offset, Timestamp};
use fanfare_partition::{Partition, StoredEvent};
use fanfare_proto::v1::{GetEventRequest, ReadEventsRequest, read_events_request};
use futures_util::{Stream, StreamExt};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Request, Response, Status,
    codegen::{Body, StdError, http},
    server::Grpc,
};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::{
    authentication::tenant,
    edge::{Answer, Calls, Edge},
    read::{From, Page, Problem, Query, ReadLimits, Reads},
    refusal::Refusal,
    status::{invalid_request, not_found, out_of_range, overloaded, publish_status, read_status},
    wire,
};

const TYPES_MAX: usize = 100;
/// Reads end when their clients do, which nobody knows.
const READS_RETRY: Duration = Duration::from_secs(5);

/// The gRPC service; wrap it in [`authenticate`](crate::authenticate).
pub type ReaderEdge = Edge<Reader>;

/// The calls of the service.
#[derive(Clone)]
pub struct Reader {
    reads: Reads,
}

impl ReaderEdge {
    /// `events` by index in the stream `events`. `stop` ends open reads, whose tasks are `tasks`'s.
    #[must_use]
    pub fn new(
        catalog: Catalog,
        events: Vec<Partition>,
        limits: ReadLimits,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self(Reader { reads: Reads::new(catalog, events, limits, tasks, stop) })
    }
}

impl Reader {
    async fn read_events(
        self,
        request: Request<ReadEventsRequest>,
    ) -> Result<Response<impl Stream<Item = Result<wire::ReadEventsResponse, Status>>>, Status> {
        let tenant = tenant(&request)?;
        let query = query(request.into_inner())?;
        let (pages, place) = self.reads.start(tenant, query).await.map_err(|problem| status(&problem))?;
        let responses = ReceiverStream::new(pages).map(move |page| {
            // Pages take memory until the connection has taken them, and so long the read has its place.
            let _held = &place;
            page.map(response).map_err(|problem| status(&problem))
        });
        Ok(Response::new(responses))
    }

    async fn get_event(
        self,
        request: Request<GetEventRequest>,
    ) -> Result<Response<wire::GetEventResponse>, Status> {
        let tenant = tenant(&request)?;
        let GetEventRequest { id, source } = request.into_inner();
        for (field, value) in [("id", &id), ("source", &source)] {
            if value.is_empty() {
                let message = format!("{field} is required: an event is known by its source and id");
                return Err(invalid_request("REQUEST_INVALID", field, message));
            }
        }
        let found = self.reads.find(tenant, &source, &id).await.map_err(|problem| status(&problem))?;
        let Some((partition, event)) = found else {
            let message = format!(
                "no event with source {source:?} and id {id:?} is kept: check both, or it is past retention"
            );
            return Err(not_found("EVENT_UNKNOWN", message));
        };
        Ok(Response::new(wire::GetEventResponse { event: Some(stored(partition, event)) }))
    }
}

impl Calls for Reader {
    const NAME: &'static str = "fanfare.v1.ReaderService";

    fn answer<B>(self, method: &str, request: http::Request<B>) -> Option<Answer>
    where
        B: Body + Send + 'static,
        B::Error: Into<StdError> + Send + 'static,
    {
        Some(match method {
            "ReadEvents" => Box::pin(async move {
                let method = service_fn(move |request| self.clone().read_events(request));
                Grpc::new(ProstCodec::default()).server_streaming(method, request).await
            }),
            "GetEvent" => Box::pin(async move {
                let method = service_fn(move |request| self.clone().get_event(request));
                Grpc::new(ProstCodec::default()).unary(method, request).await
            }),
            _ => return None,
        })
    }
}

fn query(request: ReadEventsRequest) -> Result<Query, Status> {
    use read_events_request::From as Asked;
    if request.types.len() > TYPES_MAX {
        let message = format!("at most {TYPES_MAX} types can be named: leave them out to read all");
        return Err(invalid_request("REQUEST_INVALID", "types", message));
    }
    let from = match request.from {
        None | Some(Asked::Latest(_)) => From::Latest,
        Some(Asked::Earliest(_)) => From::Earliest,
        Some(Asked::Offset(_)) if request.partition.is_none() => {
            return Err(status(&Problem::PartitionMissing));
        }
        Some(Asked::Offset(offset)) => From::Offset(Offset(offset)),
        Some(Asked::Time(time)) => From::Time(timestamp(time)?),
    };
    Ok(Query {
        partition: request.partition,
        from,
        follow: request.follow,
        types: BTreeSet::from_iter(request.types),
        limit: (request.limit > 0).then_some(request.limit),
    })
}

/// Times before the epoch are before every event.
fn timestamp(time: prost_types::Timestamp) -> Result<Timestamp, Status> {
    let nanos = u64::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let nanos = nanos
        .ok_or_else(|| invalid_request("REQUEST_INVALID", "time", "time.nanos is not 0 to 999999999"))?;
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    // Rounded up: events are stamped in milliseconds, and none may be earlier than asked.
    Ok(Timestamp(seconds.saturating_mul(1000).saturating_add(nanos.div_ceil(1_000_000))))
}

fn response(page: Page) -> wire::ReadEventsResponse {
    wire::ReadEventsResponse {
        events: page.events.into_iter().map(|event| stored(page.partition, event)).collect(),
    }
}

fn stored(partition: u16, event: StoredEvent) -> wire::StoredEvent {
    let Timestamp(millis) = event.append_time;
    let append_time = prost_types::Timestamp {
        seconds: i64::try_from(millis / 1000).expect("a year below 292 million"),
        nanos: i32::try_from(millis % 1000).expect("below 1000") * 1_000_000,
    };
    wire::StoredEvent {
        partition: partition.into(),
        offset: event.offset.0,
        append_time: Some(append_time),
        event: event.bytes,
    }
}

fn status(problem: &Problem) -> Status {
    match problem {
        Problem::NotItsPartition { .. } => {
            invalid_request("PARTITION_UNKNOWN", "partition", problem.to_string())
        }
        Problem::PartitionMissing => invalid_request("REQUEST_INVALID", "partition", problem.to_string()),
        Problem::Ahead { high_watermark, .. } => {
            out_of_range("OFFSET_AHEAD", problem.to_string(), ("high_watermark", high_watermark.to_string()))
        }
        Problem::ReadsOpen { .. } => overloaded(problem.to_string(), READS_RETRY),
        Problem::Draining => publish_status(&Refusal::Draining),
        Problem::Read(error) => read_status(error),
    }
}

//! `fanfare.v1.ReaderService`, written by hand so that events go out as the bytes they were stored as.

use std::collections::BTreeSet;

use fanfare_ingest::{
    EventPage, EventReader, ID_BYTES_MAX, ReadFrom, ReadQuery, ReadRefusal, SOURCE_BYTES_MAX, StoredEvent,
};
use fanfare_model::Offset;
use fanfare_proto::v1::{GetEventRequest, ReadEventsRequest, read_events_request};
use futures_util::{Stream, stream};
use tonic::{
    Request, Response, Status,
    codegen::{Body, StdError, http},
    server::Grpc,
};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::{
    raw_service::{Answer, RawMethods},
    time::{from_api, to_api},
    wire,
};
use crate::{
    auth::tenant,
    problem::{Condition, Problem},
};

const TYPES_MAX: usize = 100;

/// Methods of the service.
#[derive(Clone)]
pub(super) struct Reader {
    events: EventReader,
}

impl Reader {
    pub(super) fn new(events: EventReader) -> Self {
        Self { events }
    }

    async fn read_events(
        self,
        request: Request<ReadEventsRequest>,
    ) -> Result<Response<impl Stream<Item = Result<wire::ReadEventsResponse, Status>>>, Status> {
        let tenant = tenant(&request)?;
        let query = query(request.into_inner())?;
        let pages = self.events.open(tenant, query).await.map_err(Problem::from)?;
        // Pages take memory until the connection has taken them, and until then the read counts against its limits:
        // the stream owns the pages.
        let responses = stream::unfold(pages, async |mut pages| {
            let page = pages.next().await?;
            Some((page.map(response).map_err(|refusal| Problem::from(refusal).into()), pages))
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
                return Err(Problem::request(Condition::RequestInvalid, field, message).into());
            }
        }
        for (field, value, bytes_max) in [("id", &id, ID_BYTES_MAX), ("source", &source, SOURCE_BYTES_MAX)] {
            if value.len() > bytes_max {
                let message = format!(
                    "{field} has {} bytes, and no event's {field} has more than {bytes_max}",
                    value.len()
                );
                return Err(Problem::request(Condition::RequestInvalid, field, message).into());
            }
        }
        let newest = self.events.find(tenant, &source, &id).await.map_err(Problem::from)?;
        let Some((partition, event)) = newest else {
            let message = format!(
                "no event with source {source:?} and id {id:?} is kept: check both, or it is past retention"
            );
            return Err(Problem::new(Condition::Unknown { kind: "event" }, message).into());
        };
        Ok(Response::new(wire::GetEventResponse { event: Some(stored(partition, event)) }))
    }
}

impl RawMethods for Reader {
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

fn query(request: ReadEventsRequest) -> Result<ReadQuery, Problem> {
    use read_events_request::From as Start;
    if request.types.len() > TYPES_MAX {
        let message = format!("at most {TYPES_MAX} types can be named: leave them out to read all");
        return Err(Problem::request(Condition::RequestInvalid, "types", message));
    }
    let from = match request.from {
        None | Some(Start::Latest(_)) => ReadFrom::Latest,
        Some(Start::Earliest(_)) => ReadFrom::Earliest,
        Some(Start::Offset(_)) if request.partition.is_none() => {
            return Err(ReadRefusal::PartitionMissing.into());
        }
        Some(Start::Offset(offset)) => ReadFrom::Offset(Offset(offset)),
        Some(Start::Time(time)) => ReadFrom::Time(from_api("time", time)?),
    };
    Ok(ReadQuery {
        partition: request.partition,
        from,
        follow: request.follow,
        types: BTreeSet::from_iter(request.types),
        limit: (request.limit > 0).then_some(request.limit),
    })
}

fn response(page: EventPage) -> wire::ReadEventsResponse {
    wire::ReadEventsResponse {
        events: page.events.into_iter().map(|event| stored(page.partition, event)).collect(),
    }
}

fn stored(partition: u16, event: StoredEvent) -> wire::StoredEvent {
    wire::StoredEvent {
        partition: partition.into(),
        offset: event.offset.0,
        append_time: Some(to_api(event.append_time)),
        event: event.bytes,
    }
}

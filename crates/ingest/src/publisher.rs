//! `fanfare.v1.PublisherService`, written by hand so that events are never decoded into structs.

use bytes::Bytes;
use fanfare_proto::v1::{PublishBatchResponse, PublishResponse, PublishResult, PublishStreamResponse};
use futures_util::Stream;
use tonic::{
    Code, Request, Response, Status, Streaming,
    codegen::{Body, StdError, http},
    server::Grpc,
};
use tower::service_fn;

use crate::{
    authentication::tenant,
    edge::{Answer, Calls, Edge},
    ingest::{Ingest, PublishOutcome},
    refusal::Refusal,
    status::{invalid_request, publish_error, publish_status, request_too_large},
    stream,
    wire::{self, RawCodec, RequestError},
};

/// What a request has besides its events' bytes: tags, lengths, sequence.
const REQUEST_SLACK_BYTES: usize = 256 << 10;

/// The gRPC service; wrap it in [`authenticate`](crate::authenticate).
pub type PublisherEdge = Edge<Publisher>;

/// The calls of the service.
#[derive(Clone)]
pub struct Publisher {
    ingest: Ingest,
}

impl PublisherEdge {
    #[must_use]
    pub fn new(ingest: Ingest) -> Self {
        Self(Publisher { ingest })
    }
}

impl Publisher {
    async fn publish(self, request: Request<Bytes>) -> Result<Response<PublishResponse>, Status> {
        let tenant = tenant(&request)?;
        let request = wire::Request::parse(request.into_inner()).map_err(|error| not_a_request(&error))?;
        match request.len() {
            0 => return Err(publish_status(&Refusal::invalid("event", "is required"))),
            1 => {}
            _ => {
                return Err(publish_status(&Refusal::invalid(
                    "event",
                    "is given more than once: use PublishBatch",
                )));
            }
        }
        let outcome = self.ingest.publish_all(tenant, request.events()).await.pop();
        let committed =
            outcome.expect("one event has one outcome").map_err(|refusal| publish_status(&refusal))?;
        Ok(Response::new(PublishResponse {
            partition: committed.partition.into(),
            offset: committed.offset.0,
            duplicate: committed.duplicate,
        }))
    }

    async fn publish_batch(self, request: Request<Bytes>) -> Result<Response<PublishBatchResponse>, Status> {
        let tenant = tenant(&request)?;
        let request = wire::Request::parse(request.into_inner()).map_err(|error| not_a_request(&error))?;
        let outcomes = self.ingest.publish_all(tenant, request.events()).await;
        Ok(Response::new(PublishBatchResponse { results: outcomes.iter().map(result).collect() }))
    }

    fn publish_stream(
        self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<impl Stream<Item = Result<PublishStreamResponse, Status>>>, Status> {
        let tenant = tenant(&request)?;
        Ok(Response::new(stream::serve(self.ingest, tenant, request.into_inner())))
    }

    fn grpc<R: prost::Message + Send + 'static>(&self) -> Grpc<RawCodec<R>> {
        let limit = self.ingest.limits().request_bytes_max + REQUEST_SLACK_BYTES;
        Grpc::new(RawCodec::new()).max_decoding_message_size(limit)
    }
}

impl Calls for Publisher {
    const NAME: &'static str = "fanfare.v1.PublisherService";

    fn answer<B>(self, method: &str, request: http::Request<B>) -> Option<Answer>
    where
        B: Body + Send + 'static,
        B::Error: Into<StdError> + Send + 'static,
    {
        let limit_bytes = self.ingest.limits().request_bytes_max;
        Some(match method {
            "Publish" => Box::pin(async move {
                let mut grpc = self.grpc();
                let method = service_fn(move |request| self.clone().publish(request));
                name_the_limit(grpc.unary(method, request).await, limit_bytes)
            }),
            "PublishBatch" => Box::pin(async move {
                let mut grpc = self.grpc();
                let method = service_fn(move |request| self.clone().publish_batch(request));
                name_the_limit(grpc.unary(method, request).await, limit_bytes)
            }),
            "PublishStream" => Box::pin(async move {
                let mut grpc = self.grpc();
                let method =
                    service_fn(move |request| std::future::ready(self.clone().publish_stream(request)));
                grpc.streaming(method, request).await
            }),
            _ => return None,
        })
    }
}

/// One event's result in a batch or on a stream.
pub(crate) fn result(outcome: &PublishOutcome) -> PublishResult {
    match outcome {
        Ok(committed) => PublishResult {
            partition: committed.partition.into(),
            offset: committed.offset.0,
            duplicate: committed.duplicate,
            error: None,
        },
        Err(refusal) => PublishResult { error: Some(publish_error(refusal)), ..PublishResult::default() },
    }
}

pub(crate) fn not_a_request(error: &RequestError) -> Status {
    let reason = match error {
        RequestError::Malformed => "REQUEST_MALFORMED",
        RequestError::TooMany => "REQUEST_TOO_LARGE",
    };
    invalid_request(reason, "events", error.to_string())
}

/// The unary publish calls answer OUT_OF_RANGE for one reason only: tonic refused to read a message that large.
fn name_the_limit(
    response: http::Response<tonic::body::Body>,
    limit_bytes: usize,
) -> http::Response<tonic::body::Body> {
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() == Code::OutOfRange => request_too_large(limit_bytes).into_http(),
        _ => response,
    }
}

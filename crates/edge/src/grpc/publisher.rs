//! `fanfare.v1.PublisherService`, written by hand so that events are never decoded into structs.

use bytes::Bytes;
use fanfare_ingest::{Ingest, Refusal};
use fanfare_proto::v1::{PublishBatchResponse, PublishResponse, PublishStreamResponse};
use futures_util::Stream;
use tonic::{
    Code, Request, Response, Status, Streaming,
    codegen::{Body, StdError, http},
    server::Grpc,
};
use tower::service_fn;

use super::{
    publish_response::{malformed_request, request_too_large, result},
    publish_stream,
    raw_service::{Answer, RawMethods},
    wire::{self, RawCodec},
};
use crate::{auth::tenant, problem::Problem};

/// Bytes of a request besides its events: tags, lengths, sequence.
const REQUEST_SLACK_BYTES: usize = 256 << 10;

/// Methods of the service.
#[derive(Clone)]
pub(super) struct Publisher {
    ingest: Ingest,
}

impl Publisher {
    pub(super) fn new(ingest: Ingest) -> Self {
        Self { ingest }
    }

    async fn publish(self, request: Request<Bytes>) -> Result<Response<PublishResponse>, Status> {
        let tenant = tenant(&request)?;
        let request =
            wire::Request::parse(request.into_inner()).map_err(|error| malformed_request(&error))?;
        let refused = |refusal: &Refusal| Problem::from(refusal);
        match request.len() {
            0 => return Err(refused(&Refusal::invalid("event", "is required")).into()),
            1 => {}
            _ => {
                let refusal = Refusal::invalid("event", "is given more than once: use PublishBatch");
                return Err(refused(&refusal).into());
            }
        }
        let outcome = self.ingest.publish(tenant, request.events()).await.pop();
        let committed = outcome.expect("one event has one outcome").map_err(|refusal| refused(&refusal))?;
        Ok(Response::new(PublishResponse {
            partition: committed.partition.into(),
            offset: committed.offset.0,
            duplicate: committed.duplicate,
        }))
    }

    async fn publish_batch(self, request: Request<Bytes>) -> Result<Response<PublishBatchResponse>, Status> {
        let tenant = tenant(&request)?;
        let request =
            wire::Request::parse(request.into_inner()).map_err(|error| malformed_request(&error))?;
        let outcomes = self.ingest.publish(tenant, request.events()).await;
        Ok(Response::new(PublishBatchResponse { results: outcomes.iter().map(result).collect() }))
    }

    fn publish_stream(
        self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<impl Stream<Item = Result<PublishStreamResponse, Status>>>, Status> {
        let tenant = tenant(&request)?;
        Ok(Response::new(publish_stream::serve(self.ingest, tenant, request.into_inner())))
    }

    fn grpc<R: prost::Message + Send + 'static>(&self) -> Grpc<RawCodec<R>> {
        let limit = self.ingest.limits().request_bytes_max + REQUEST_SLACK_BYTES;
        Grpc::new(RawCodec::new()).max_decoding_message_size(limit)
    }
}

impl RawMethods for Publisher {
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
                map_too_large(grpc.unary(method, request).await, limit_bytes)
            }),
            "PublishBatch" => Box::pin(async move {
                let mut grpc = self.grpc();
                let method = service_fn(move |request| self.clone().publish_batch(request));
                map_too_large(grpc.unary(method, request).await, limit_bytes)
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

/// Replaces tonic's refusal to read a message that large: the one reason why a unary publish call answers OUT_OF_RANGE.
fn map_too_large(
    response: http::Response<tonic::body::Body>,
    limit_bytes: usize,
) -> http::Response<tonic::body::Body> {
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() == Code::OutOfRange => request_too_large(limit_bytes).into_http(),
        _ => response,
    }
}

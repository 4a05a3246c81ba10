//! The gRPC listener: every public service, reflection and health on one port.

use std::time::Duration;

use fanfare_catalog::Catalog;
use fanfare_control::Control;
use fanfare_ingest::{Authentication, PublisherEdge, ReaderEdge, authenticate};
use fanfare_proto::v1::{
    dead_letter_service_server::DeadLetterServiceServer, event_type_service_server::EventTypeServiceServer,
    schema_service_server::SchemaServiceServer, sink_service_server::SinkServiceServer,
    subscription_service_server::SubscriptionServiceServer,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::{Routes, interceptor::InterceptedService},
    transport::{Server, server::TcpIncoming},
};

/// HTTP/2 credit of one stream and of one connection: enough for a full window of batches, small enough
/// that a connection's memory stays bounded.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const FRAME_BYTES_MAX: u32 = 1 << 20;
const STREAMS_MAX: u32 = 256;
const HEADER_BYTES_MAX: u32 = 16 << 10;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The services of the public port.
pub(crate) struct Services {
    pub(crate) publisher: PublisherEdge,
    pub(crate) reader: ReaderEdge,
    pub(crate) control: Control,
    pub(crate) catalog: Catalog,
}

impl Services {
    /// Everything a tenant calls is behind authentication; reflection and health are for anybody.
    async fn routes(self) -> anyhow::Result<Routes> {
        let authentication = authenticate(self.catalog);
        let mut routes = Routes::builder();
        routes
            .add_service(guarded(self.publisher, &authentication))
            .add_service(guarded(self.reader, &authentication))
            .add_service(guarded(EventTypeServiceServer::new(self.control.clone()), &authentication))
            .add_service(guarded(SchemaServiceServer::new(self.control.clone()), &authentication))
            .add_service(guarded(SinkServiceServer::new(self.control.clone()), &authentication))
            .add_service(guarded(SubscriptionServiceServer::new(self.control.clone()), &authentication))
            .add_service(guarded(DeadLetterServiceServer::new(self.control), &authentication));
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status("", tonic_health::ServingStatus::Serving).await;
        routes.add_service(health_service);
        let described = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(fanfare_proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        routes.add_service(described().build_v1()?).add_service(described().build_v1alpha()?);
        Ok(routes.routes())
    }
}

fn guarded<S>(service: S, authentication: &Authentication) -> InterceptedService<S, Authentication> {
    InterceptedService::new(service, authentication.clone())
}

/// Serves until `stop`, then ends each connection after its running calls.
///
/// # Errors
/// If the listener fails for good.
pub(crate) async fn serve(
    listener: TcpListener,
    services: Services,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_routes(services.routes().await?)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            stop.cancelled_owned(),
        )
        .await?;
    Ok(())
}

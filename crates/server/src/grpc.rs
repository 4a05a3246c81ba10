//! The gRPC listener: every public service, reflection and health on one port.

mod arriving;
mod listener;
mod places;
mod requests;

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
    Status,
    service::{Routes, interceptor::InterceptedService},
};

pub(crate) use listener::ListenerLimits;
pub(crate) use places::SHARE_MIN;

const OVERLOADED_RETRY: Duration = Duration::from_millis(500);

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
    limits: ListenerLimits,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let routes = services.routes().await?;
    Ok(listener::serve(listener, routes, limits, stop).await?)
}

/// The answer to what the node has no room for.
fn overloaded(message: &str) -> Status {
    fanfare_ingest::overloaded(message, OVERLOADED_RETRY)
}

//! The public API in gRPC: every service, reflection and health on one port.

mod control;
mod publish_response;
mod publish_stream;
mod publisher;
mod raw_service;
mod reader;
mod status;
mod time;
mod wire;

use std::io;

use fanfare_control::Control;
use fanfare_ingest::{EventReader, Ingest};
use fanfare_proto::v1::{
    dead_letter_service_server::DeadLetterServiceServer, event_type_service_server::EventTypeServiceServer,
    schema_service_server::SchemaServiceServer, sink_service_server::SinkServiceServer,
    subscription_service_server::SubscriptionServiceServer,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use self::{control::ControlServices, publisher::Publisher, raw_service::RawService, reader::Reader};
use crate::{
    auth::Gate,
    listener::{self, ListenerLimits, Served},
};

#[cfg(test)]
pub(crate) use wire::EVENTS_MAX;

/// Parts of the node that the public API speaks for.
pub struct Services {
    pub ingest: Ingest,
    pub reader: EventReader,
    pub control: Control,
}

/// Reason why the public port is not served any more.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("failed to describe the services for reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("failed to accept connections")]
    Listener(#[from] io::Error),
}

/// Serves until `stop`, then ends each connection after its running calls.
///
/// # Errors
/// If the listening socket fails for good.
pub async fn serve(
    listener: TcpListener,
    services: Services,
    limits: ListenerLimits,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let identify = Gate::new(services.control.clone()).identify();
    let served = Served { routes: services.into_routes().await?, identify };
    Ok(listener::serve(listener, served, limits, stop).await?)
}

impl Services {
    /// Every service behind the one gate: none can be added without it.
    pub(crate) async fn into_routes(self) -> Result<Routes, ServeError> {
        let gate = Gate::new(self.control.clone());
        let control = ControlServices::new(self.control);
        let mut routes = Routes::builder();
        routes
            .add_service(RawService(Publisher::new(self.ingest)))
            .add_service(RawService(Reader::new(self.reader)))
            .add_service(EventTypeServiceServer::new(control.clone()))
            .add_service(SchemaServiceServer::new(control.clone()))
            .add_service(SinkServiceServer::new(control.clone()))
            .add_service(SubscriptionServiceServer::new(control.clone()))
            .add_service(DeadLetterServiceServer::new(control));
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status("", tonic_health::ServingStatus::Serving).await;
        routes.add_service(health_service);
        let described = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(fanfare_proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        routes.add_service(described().build_v1()?).add_service(described().build_v1alpha()?);
        Ok(Routes::from(routes.routes().into_axum_router().layer(gate)))
    }
}

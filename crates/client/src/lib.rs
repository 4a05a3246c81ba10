//! The client library: one connection to a node, with the key of one account.
//!
//! Cheap to clone; clones share the connection. Every unary call has a deadline.

mod cloud_event;
mod event_builder;
mod publish_stream;
pub mod time;

use std::time::Duration;

use fanfare_proto::{
    cloudevents::v1::CloudEvent,
    v1::{
        self, dead_letter_service_client::DeadLetterServiceClient,
        event_type_service_client::EventTypeServiceClient, publisher_service_client::PublisherServiceClient,
        reader_service_client::ReaderServiceClient, schema_service_client::SchemaServiceClient,
        sink_service_client::SinkServiceClient, subscription_service_client::SubscriptionServiceClient,
    },
};
use tonic::{
    Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

pub use cloud_event::CloudEventJson;
pub use event_builder::{DEFAULT_SOURCE, EventBuilder};
pub use publish_stream::{Acknowledgement, PublishStream, Stored};

/// Most bytes of one answer: a request's 4 MiB of events with room for what surrounds them.
const MESSAGE_BYTES_MAX: usize = 8 << 20;
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const FRAME_BYTES: u32 = 1 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection with its account's key, for the generated clients.
pub type Service = InterceptedService<Channel, Authorization>;

/// Address, credential and deadline of a connection.
#[derive(Clone, Debug)]
pub struct Options {
    /// `http://HOST:PORT`
    pub addr: String,
    /// Sent as `authorization: Bearer`; nothing is sent without one.
    pub key: Option<String>,
    /// Deadline of a unary call.
    pub timeout: Duration,
}

/// Reasons why a connection cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{addr:?} is not the address of a node")]
    Address { addr: String },
    #[error("the API key holds characters that no key has")]
    Key,
    #[error("connect to {addr}")]
    Unreachable { addr: String, source: tonic::transport::Error },
}

/// A connection to a node.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    authorization: Authorization,
    timeout: Duration,
}

impl Client {
    /// Connects at once, so that a wrong address is told from a failing call.
    pub async fn connect(options: Options) -> Result<Self, ConnectError> {
        let authorization = Authorization::new(options.key.as_deref())?;
        let endpoint = endpoint(&options.addr)?;
        let channel = endpoint
            .connect()
            .await
            .map_err(|source| ConnectError::Unreachable { addr: options.addr.clone(), source })?;
        Ok(Self { channel, authorization, timeout: options.timeout })
    }

    /// The same connection with another key.
    pub fn with_key(&self, key: &str) -> Result<Self, ConnectError> {
        Ok(Self { authorization: Authorization::new(Some(key))?, ..self.clone() })
    }

    /// Publishes one event; answers when it is committed. Safe to repeat with the same id and source.
    pub async fn publish(&self, event: CloudEvent) -> Result<v1::PublishResponse, Status> {
        let request = self.request(v1::PublishRequest { event: Some(event) });
        Ok(self.publisher().publish(request).await?.into_inner())
    }

    /// Publishes events together; one result per event, in order.
    pub async fn publish_batch(&self, events: Vec<CloudEvent>) -> Result<Vec<v1::PublishResult>, Status> {
        let request = self.request(v1::PublishBatchRequest { events });
        Ok(self.publisher().publish_batch(request).await?.into_inner().results)
    }

    /// Opens a stream for publishing many events in order; see [`PublishStream`].
    pub async fn publish_stream(&self) -> Result<PublishStream, Status> {
        PublishStream::open(self.clone()).await
    }

    /// Reads stored events, and follows new ones if the request says so.
    pub async fn read_events(
        &self,
        request: v1::ReadEventsRequest,
    ) -> Result<Streaming<v1::ReadEventsResponse>, Status> {
        Ok(self.reader().read_events(request).await?.into_inner())
    }

    /// A request with this client's deadline.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }

    /// A fresh `request_id`: a request that is sent again with it is carried out once.
    #[must_use]
    pub fn request_id() -> String {
        uuid::Uuid::now_v7().to_string()
    }

    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The connection itself, for calls with a codec of their own.
    #[must_use]
    pub fn service(&self) -> Service {
        InterceptedService::new(self.channel.clone(), self.authorization.clone())
    }

    #[must_use]
    pub fn publisher(&self) -> PublisherServiceClient<Service> {
        PublisherServiceClient::new(self.service()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    #[must_use]
    pub fn reader(&self) -> ReaderServiceClient<Service> {
        ReaderServiceClient::new(self.service()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    #[must_use]
    pub fn event_types(&self) -> EventTypeServiceClient<Service> {
        EventTypeServiceClient::new(self.service()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    #[must_use]
    pub fn schemas(&self) -> SchemaServiceClient<Service> {
        SchemaServiceClient::new(self.service()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    #[must_use]
    pub fn sinks(&self) -> SinkServiceClient<Service> {
        SinkServiceClient::new(self.service()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    #[must_use]
    pub fn subscriptions(&self) -> SubscriptionServiceClient<Service> {
        SubscriptionServiceClient::new(self.service()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    #[must_use]
    pub fn dead_letters(&self) -> DeadLetterServiceClient<Service> {
        DeadLetterServiceClient::new(self.service()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

/// Adds the key to each call.
#[derive(Clone, Debug)]
pub struct Authorization {
    bearer: Option<MetadataValue<Ascii>>,
}

impl Authorization {
    fn new(key: Option<&str>) -> Result<Self, ConnectError> {
        let bearer = key.map(|key| format!("Bearer {key}").parse::<MetadataValue<Ascii>>()).transpose();
        let mut bearer = bearer.map_err(|_| ConnectError::Key)?;
        if let Some(bearer) = &mut bearer {
            // Keeps the key out of debug output and header compression tables.
            bearer.set_sensitive(true);
        }
        Ok(Self { bearer })
    }
}

impl Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        Ok(request)
    }
}

fn endpoint(addr: &str) -> Result<Endpoint, ConnectError> {
    let refused = || ConnectError::Address { addr: addr.to_owned() };
    let with_scheme = if addr.contains("://") { addr.to_owned() } else { format!("http://{addr}") };
    let endpoint = Endpoint::from_shared(with_scheme).map_err(|_| refused())?;
    if endpoint.uri().scheme_str() != Some("http") || endpoint.uri().host().is_none_or(str::is_empty) {
        return Err(refused());
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT))
}

#[cfg(test)]
mod tests;

//! A client of the public API, as a producer's generated stub would be used.

use anyhow::Context;
use fanfare_proto::{
    cloudevents::v1::{
        CloudEvent,
        cloud_event::{CloudEventAttributeValue, Data, cloud_event_attribute_value::Attr},
    },
    v1::{
        CreateEventTypeRequest, CreateSinkRequest, CreateSubscriptionRequest, EventType,
        GetSubscriptionStatsRequest, GetSubscriptionStatsResponse, PublishRequest, PublishResponse,
        ReadEventsRequest, Sink, StoredEvent, SubscribedType, Subscription, WebhookSink,
        event_type_service_client::EventTypeServiceClient, publisher_service_client::PublisherServiceClient,
        read_events_request::From, reader_service_client::ReaderServiceClient, sink::Kind,
        sink_service_client::SinkServiceClient, subscription_service_client::SubscriptionServiceClient,
    },
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

/// Adds the key to every call.
#[derive(Clone)]
pub struct Credentials(MetadataValue<Ascii>);

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

type Authorized = InterceptedService<Channel, Credentials>;

/// Stubs over one connection.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    credentials: Credentials,
}

impl Client {
    /// Connects lazily: the node may come up later.
    ///
    /// # Errors
    /// If address or key are malformed.
    pub fn new(address: &str, key: &str) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(address.to_owned())?.tcp_nodelay(true).connect_lazy();
        Ok(Self { channel, credentials: Credentials(format!("Bearer {key}").parse()?) })
    }

    #[must_use]
    pub fn publisher(&self) -> PublisherServiceClient<Authorized> {
        PublisherServiceClient::with_interceptor(self.channel.clone(), self.credentials.clone())
    }

    /// # Errors
    /// As the service answers.
    pub async fn publish(&self, event: CloudEvent) -> Result<PublishResponse, Status> {
        Ok(self.publisher().publish(PublishRequest { event: Some(event) }).await?.into_inner())
    }

    /// Registers an event type without a schema.
    ///
    /// # Errors
    /// As the service answers.
    pub async fn create_type(&self, name: &str) -> Result<(), Status> {
        let (channel, credentials) = (self.channel.clone(), self.credentials.clone());
        let mut types = EventTypeServiceClient::with_interceptor(channel, credentials);
        let event_type = EventType { name: name.into(), ..EventType::default() };
        types.create_event_type(CreateEventTypeRequest { event_type: Some(event_type) }).await?;
        Ok(())
    }

    /// Registers an event type, a webhook sink at `url` and a subscription of the one for the other; gives its id.
    ///
    /// # Errors
    /// As the services answer.
    pub async fn subscribe(&self, event_type: &str, url: &str) -> anyhow::Result<String> {
        let (channel, credentials) = (self.channel.clone(), self.credentials.clone());
        self.create_type(event_type).await?;
        let mut sinks = SinkServiceClient::with_interceptor(channel.clone(), credentials.clone());
        let webhook = WebhookSink { destination: url.into(), ..WebhookSink::default() };
        let sink = Sink { kind: Some(Kind::Webhook(webhook)), ..Sink::default() };
        let created = sinks.create_sink(CreateSinkRequest { sink: Some(sink) }).await?.into_inner();
        let sink_id = created.sink.context("the created sink")?.id;
        let mut subscriptions = SubscriptionServiceClient::with_interceptor(channel, credentials);
        let types = vec![SubscribedType { r#type: event_type.into(), schema_version: 0 }];
        let subscription = Subscription { sink_id, types, ..Subscription::default() };
        let request = CreateSubscriptionRequest { subscription: Some(subscription), from: None };
        let created = subscriptions.create_subscription(request).await?.into_inner();
        Ok(created.subscription.context("the created subscription")?.id)
    }

    /// # Errors
    /// As the service answers.
    pub async fn stats(&self, subscription: &str) -> Result<GetSubscriptionStatsResponse, Status> {
        let (channel, credentials) = (self.channel.clone(), self.credentials.clone());
        let mut subscriptions = SubscriptionServiceClient::with_interceptor(channel, credentials);
        let request = GetSubscriptionStatsRequest { id: subscription.into() };
        Ok(subscriptions.get_subscription_stats(request).await?.into_inner())
    }

    /// Every event kept, in order of each partition.
    ///
    /// # Errors
    /// As the service answers.
    pub async fn read_all(&self) -> Result<Vec<StoredEvent>, Status> {
        let (channel, credentials) = (self.channel.clone(), self.credentials.clone());
        let mut reader = ReaderServiceClient::with_interceptor(channel, credentials);
        let request = ReadEventsRequest { from: Some(From::Earliest(true)), ..ReadEventsRequest::default() };
        let mut stream = reader.read_events(request).await?.into_inner();
        let mut events = Vec::new();
        while let Some(response) = stream.message().await? {
            events.extend(response.events);
        }
        Ok(events)
    }
}

/// An event with a subject, which is its partition key, and JSON data.
#[must_use]
pub fn event(event_type: &str, id: &str, subject: &str, data: &serde_json::Value) -> CloudEvent {
    let text = |value: &str| CloudEventAttributeValue { attr: Some(Attr::CeString(value.into())) };
    CloudEvent {
        id: id.into(),
        source: "/tests".into(),
        spec_version: "1.0".into(),
        r#type: event_type.into(),
        attributes: [
            ("subject".to_owned(), text(subject)),
            ("datacontenttype".to_owned(), text("application/json")),
        ]
        .into(),
        data: Some(Data::TextData(data.to_string())),
    }
}

/// Asserts that every matched event is accounted for.
///
/// # Panics
/// If the numbers do not add up.
pub fn assert_accounted(stats: &GetSubscriptionStatsResponse) {
    let settled = stats.delivered + stats.dead_lettered + stats.expired + stats.cancelled;
    assert_eq!(stats.matched, settled + stats.pending, "matched is not settled + pending: {stats:?}");
}

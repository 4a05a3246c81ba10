//! The client library with the calls that suites make again and again.

use std::time::Duration;

use anyhow::Context;
use fanfare_client::Options;
use fanfare_proto::{
    cloudevents::v1::{
        CloudEvent,
        cloud_event::{CloudEventAttributeValue, Data, cloud_event_attribute_value::Attr},
    },
    v1::{
        CreateEventTypeRequest, CreateSinkRequest, CreateSubscriptionRequest, EventType,
        GetSubscriptionStatsRequest, GetSubscriptionStatsResponse, PublishResponse, ReadEventsRequest,
        Selector, Sink, StoredEvent, Subscription, WebhookSink, read_events_request::From, sink::Kind,
    },
};
use tonic::Status;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to a node with the key of one account.
#[derive(Clone)]
pub struct Client(fanfare_client::Client);

impl Client {
    /// Connects at once; the node must be running.
    ///
    /// # Errors
    /// If address or key are malformed, or the node cannot be reached.
    pub async fn connect(address: &str, key: &str) -> anyhow::Result<Self> {
        let options = Options { addr: address.to_owned(), key: Some(key.to_owned()), timeout: TIMEOUT };
        Ok(Self(fanfare_client::Client::connect(options).await?))
    }

    /// # Errors
    /// As the service answers.
    pub async fn publish(&self, event: CloudEvent) -> Result<PublishResponse, Status> {
        self.0.publish(event).await
    }

    /// Registers an event type without a schema.
    ///
    /// # Errors
    /// As the service answers.
    pub async fn create_type(&self, name: &str) -> Result<(), Status> {
        let event_type = EventType { name: name.into(), ..EventType::default() };
        let request =
            self.0.request(CreateEventTypeRequest { event_type: Some(event_type), ..Default::default() });
        self.0.event_types().create_event_type(request).await?;
        Ok(())
    }

    /// Registers an event type, a webhook sink at `url` and a subscription of the one for the other; gives its id.
    ///
    /// # Errors
    /// As the services answer.
    pub async fn subscribe(&self, event_type: &str, url: &str) -> anyhow::Result<String> {
        self.create_type(event_type).await?;
        let webhook = WebhookSink { destination: url.into(), ..WebhookSink::default() };
        let sink = Sink { kind: Some(Kind::Webhook(webhook)), ..Sink::default() };
        let created = self
            .0
            .sinks()
            .create_sink(CreateSinkRequest { sink: Some(sink), ..Default::default() })
            .await?
            .into_inner();
        let sink_id = created.sink.context("the created sink")?.id;
        let selectors = vec![Selector { r#type: event_type.into(), version: None }];
        let subscription = Subscription { sink_id, selectors, ..Subscription::default() };
        let request =
            CreateSubscriptionRequest { subscription: Some(subscription), from: None, ..Default::default() };
        let created = self.0.subscriptions().create_subscription(request).await?.into_inner();
        Ok(created.subscription.context("the created subscription")?.id)
    }

    /// # Errors
    /// As the service answers.
    pub async fn stats(&self, subscription: &str) -> Result<GetSubscriptionStatsResponse, Status> {
        let request = GetSubscriptionStatsRequest { id: subscription.into() };
        Ok(self.0.subscriptions().get_subscription_stats(request).await?.into_inner())
    }

    /// Every event kept, in order of each partition.
    ///
    /// # Errors
    /// As the service answers.
    pub async fn read_all(&self) -> Result<Vec<StoredEvent>, Status> {
        let request = ReadEventsRequest { from: Some(From::Earliest(true)), ..ReadEventsRequest::default() };
        let mut stream = self.0.read_events(request).await?;
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

//! The sample of dev mode: a paid order, its schema, the subscription that delivers it, and a source of events.
//!
//! Registered through the public API, so that it is also the shortest example of how to use it.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use fanfare_client::{Client, Options};
use fanfare_model::Secret;
use fanfare_proto::{
    cloudevents::v1::{
        CloudEvent,
        cloud_event::{CloudEventAttributeValue, Data, cloud_event_attribute_value::Attr},
    },
    v1::{
        CreateEventTypeRequest, CreateSchemaRequest, CreateSinkRequest, CreateSubscriptionRequest, EventType,
        GetEventTypeRequest, GetSchemaRequest, ListSinksRequest, ListSubscriptionsRequest, PublishResponse,
        Schema, Selector, Sink, Subscription, UpdateSinkRequest, WebhookSink, selector::Version, sink::Kind,
    },
};
use tonic::{Code, Status};

pub(super) const EVENT_TYPE: &str = "com.acme.order.paid";
const SCHEMA_ID: &str = "Acme.OrderPaid";
const SCHEMA: &str = include_str!("order_paid.schema.json");
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const DESCRIPTION: &str = "built-in receiver of fanfare dev";

/// The registered sample and a connection to publish it.
pub(super) struct SampleLoad {
    pub(super) subscription: String,
    client: Client,
    published: u64,
}

impl SampleLoad {
    /// Registers what is not there yet, and points the sink at `destination`.
    pub(super) async fn register(grpc: SocketAddr, key: Secret, destination: &str) -> anyhow::Result<Self> {
        let options = Options {
            addr: format!("http://{grpc}"),
            key: Some(key.expose().to_owned()),
            timeout: CALL_TIMEOUT,
        };
        let client = Client::connect(options).await?;
        register_type(&client).await.context("register the sample event type")?;
        let sink = register_sink(&client, destination).await.context("register the receiver")?;
        let subscription = register_subscription(&client, sink).await.context("subscribe the receiver")?;
        Ok(Self { subscription, client, published: 0 })
    }

    /// Publishes the next sample event; gives its id and where it was committed.
    pub(super) async fn publish(&mut self) -> anyhow::Result<(String, PublishResponse)> {
        self.published += 1;
        let id = uuid::Uuid::now_v7().to_string();
        let event = event(&id, self.published);
        let response = self.client.publish(event).await?;
        Ok((id, response))
    }
}

async fn register_type(client: &Client) -> Result<(), Status> {
    let mut schemas = client.schemas();
    if missing(schemas.get_schema(GetSchemaRequest { id: SCHEMA_ID.into() }).await)? {
        let schema =
            Schema { id: SCHEMA_ID.into(), description: "A paid order.".into(), ..Schema::default() };
        let request = CreateSchemaRequest {
            schema: Some(schema),
            document: SCHEMA.into(),
            request_id: Client::request_id(),
        };
        schemas.create_schema(request).await?;
    }
    let mut types = client.event_types();
    if missing(types.get_event_type(GetEventTypeRequest { name: EVENT_TYPE.into() }).await)? {
        let event_type = EventType {
            name: EVENT_TYPE.into(),
            description: "An order was paid.".into(),
            schema_id: SCHEMA_ID.into(),
            ..EventType::default()
        };
        types
            .create_event_type(CreateEventTypeRequest {
                event_type: Some(event_type),
                request_id: Client::request_id(),
            })
            .await?;
    }
    Ok(())
}

fn missing<T>(result: Result<T, Status>) -> Result<bool, Status> {
    match result {
        Ok(_) => Ok(false),
        Err(status) if status.code() == Code::NotFound => Ok(true),
        Err(status) => Err(status),
    }
}

async fn register_sink(client: &Client, destination: &str) -> Result<String, Status> {
    let mut sinks = client.sinks();
    let webhook = WebhookSink { destination: destination.into(), ..WebhookSink::default() };
    let listed =
        sinks.list_sinks(ListSinksRequest { page_size: 1000, ..Default::default() }).await?.into_inner();
    let Some(found) = listed.sinks.into_iter().find(|sink| sink.description == DESCRIPTION) else {
        let sink =
            Sink { description: DESCRIPTION.into(), kind: Some(Kind::Webhook(webhook)), ..Sink::default() };
        let created = sinks
            .create_sink(CreateSinkRequest { sink: Some(sink), request_id: Client::request_id() })
            .await?
            .into_inner();
        return Ok(created.sink.unwrap_or_default().id);
    };
    let current = matches!(&found.kind, Some(Kind::Webhook(webhook)) if webhook.destination == destination);
    if !current {
        let sink = Sink { kind: Some(Kind::Webhook(webhook)), ..found.clone() };
        sinks.update_sink(UpdateSinkRequest { sink: Some(sink), update_mask: None }).await?;
    }
    Ok(found.id)
}

async fn register_subscription(client: &Client, sink_id: String) -> Result<String, Status> {
    let mut subscriptions = client.subscriptions();
    let request = ListSubscriptionsRequest { page_size: 1000, ..Default::default() };
    let listed = subscriptions.list_subscriptions(request).await?.into_inner();
    if let Some(found) = listed.subscriptions.into_iter().find(|found| found.sink_id == sink_id) {
        return Ok(found.id);
    }
    let selectors = vec![Selector { r#type: EVENT_TYPE.into(), version: Some(Version::SchemaVersion(1)) }];
    let subscription =
        Subscription { description: DESCRIPTION.into(), sink_id, selectors, ..Subscription::default() };
    let request = CreateSubscriptionRequest {
        subscription: Some(subscription),
        from: None,
        request_id: Client::request_id(),
    };
    let created = subscriptions.create_subscription(request).await?.into_inner();
    Ok(created.subscription.unwrap_or_default().id)
}

fn event(id: &str, number: u64) -> CloudEvent {
    let customer = format!("customer-{}", number % 7);
    let data = serde_json::json!({
        "order_id": format!("o-{number:06}"),
        "customer": customer,
        "total_cents": 500 + number * 37 % 9500,
        "currency": "EUR",
        "items": [{ "sku": format!("sku-{}", number % 13), "quantity": 1 + number % 3 }],
    });
    let text = |value: &str| CloudEventAttributeValue { attr: Some(Attr::CeString(value.into())) };
    CloudEvent {
        id: id.into(),
        source: "/fanfare/dev".into(),
        spec_version: "1.0".into(),
        r#type: EVENT_TYPE.into(),
        attributes: [
            ("subject".to_owned(), text(&customer)),
            ("datacontenttype".to_owned(), text("application/json")),
        ]
        .into(),
        data: Some(Data::TextData(data.to_string())),
    }
}

//! Catalog objects of a run: created before the run, removed after it. Objects that existed before stay.

use fanfare_client::Client;
use fanfare_proto::v1::{self, sink::Kind};
use tonic::{Code, Status};

use super::payload;
use crate::{
    failure::{Exit, Failure},
    session::Session,
    terminal::say,
};

/// Things a run created, in the order of creation.
#[derive(Debug)]
pub(super) struct Fixture {
    client: Client,
    created: Vec<Created>,
}

#[derive(Debug)]
enum Created {
    Schema(String),
    EventType(String),
    Sink(String),
    Subscription(String),
}

impl Fixture {
    pub(super) fn new(client: Client) -> Self {
        Self { client, created: Vec::new() }
    }

    /// Measures, or as much of it as comes before an interruption, and removes what that has made.
    pub(super) async fn around<T>(
        session: &Session,
        measure: impl AsyncFnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut fixture = Self::new(session.connect().await?);
        let measured = tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => Err(interrupted()),
            measured = measure(&mut fixture) => measured,
        };
        fixture.remove().await;
        measured
    }

    /// The payload's schema.
    pub(super) async fn schema(&mut self, id: &str) -> Result<(), Failure> {
        let schema = v1::Schema {
            id: id.to_owned(),
            description: "made by fanfare bench".to_owned(),
            ..v1::Schema::default()
        };
        let request = v1::CreateSchemaRequest {
            schema: Some(schema),
            document: payload::SCHEMA.to_owned(),
            request_id: Client::request_id(),
        };
        let response = self.client.schemas().create_schema(self.client.request(request)).await;
        let created = Created::Schema(id.to_owned());
        self.keep("create schema", created, response.map(drop))
    }

    pub(super) async fn event_type(&mut self, name: &str, schema_id: &str) -> Result<(), Failure> {
        let event_type = v1::EventType {
            name: name.to_owned(),
            description: "made by fanfare bench".to_owned(),
            schema_id: schema_id.to_owned(),
            ..v1::EventType::default()
        };
        let request =
            v1::CreateEventTypeRequest { event_type: Some(event_type), request_id: Client::request_id() };
        let response = self.client.event_types().create_event_type(self.client.request(request)).await;
        self.keep("create event type", Created::EventType(name.to_owned()), response.map(drop))
    }

    /// A webhook sink for `url` and a subscription of the event type to it; gives the subscription's id.
    pub(super) async fn subscription(
        &mut self,
        event_type: &str,
        url: &str,
        batch: bool,
    ) -> Result<String, Failure> {
        let webhook = v1::WebhookSink {
            destination: url.to_owned(),
            batch_events: batch,
            ..v1::WebhookSink::default()
        };
        let sink = v1::Sink { kind: Some(Kind::Webhook(webhook)), ..v1::Sink::default() };
        let request =
            self.client.request(v1::CreateSinkRequest { sink: Some(sink), request_id: Client::request_id() });
        let response = self.client.sinks().create_sink(request).await;
        let response = response.map_err(|status| Failure::from_status("create sink", &status))?.into_inner();
        let sink_id = response.sink.ok_or_else(|| Failure::incomplete("create sink"))?.id;
        self.created.push(Created::Sink(sink_id.clone()));
        let version = Some(v1::selector::Version::AsPublished(()));
        let selectors = vec![v1::Selector { r#type: event_type.to_owned(), version }];
        let subscription = v1::Subscription { sink_id, selectors, ..v1::Subscription::default() };
        let request = v1::CreateSubscriptionRequest {
            subscription: Some(subscription),
            from: None,
            request_id: Client::request_id(),
        };
        let response = self.client.subscriptions().create_subscription(self.client.request(request)).await;
        let attempted = "create subscription";
        let response = response.map_err(|status| Failure::from_status(attempted, &status))?.into_inner();
        let id = response.subscription.ok_or_else(|| Failure::incomplete(attempted))?.id;
        self.created.push(Created::Subscription(id.clone()));
        Ok(id)
    }

    /// Removes what was created, newest first; says what could not be removed.
    pub(super) async fn remove(self) {
        for created in self.created.into_iter().rev() {
            let removed = remove(&self.client, &created).await;
            if let Err(status) = removed {
                say(&format!("left behind: {created:?}: {}", status.message()));
            }
        }
    }

    fn keep(
        &mut self,
        attempted: &str,
        created: Created,
        response: Result<(), Status>,
    ) -> Result<(), Failure> {
        match response {
            Ok(()) => self.created.push(created),
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => return Err(Failure::from_status(attempted, &status)),
        }
        Ok(())
    }
}

/// The end of a run that Ctrl-C ended.
pub(super) fn interrupted() -> Failure {
    Failure::new(Exit::Failed, "interrupted", "run it again; what it had created is removed")
}

async fn remove(client: &Client, created: &Created) -> Result<(), Status> {
    match created {
        Created::Schema(id) => {
            let request = client.request(v1::DeleteSchemaRequest { id: id.clone(), etag: String::new() });
            client.schemas().delete_schema(request).await.map(drop)
        }
        Created::EventType(name) => {
            let request =
                client.request(v1::DeleteEventTypeRequest { name: name.clone(), etag: String::new() });
            client.event_types().delete_event_type(request).await.map(drop)
        }
        Created::Sink(id) => {
            let request = client.request(v1::DeleteSinkRequest { id: id.clone(), etag: String::new() });
            client.sinks().delete_sink(request).await.map(drop)
        }
        Created::Subscription(id) => {
            let request =
                client.request(v1::DeleteSubscriptionRequest { id: id.clone(), etag: String::new() });
            client.subscriptions().delete_subscription(request).await.map(drop)
        }
    }
}

//! `fanfare type`: event types.

use clap::{Args, Subcommand, ValueEnum};
use fanfare_client::{Client, time};
use fanfare_proto::v1::{self, EventTypeStatus};
use prost_types::FieldMask;

use crate::{
    failure::Failure,
    output::{OutputFields, OutputRecord},
    page::Limit,
    session::Session,
    terminal::say,
};

#[derive(Debug, Subcommand)]
pub enum EventTypeCommand {
    /// Create an event type
    Create(CreateEventTypeArguments),
    /// Show one event type
    Get { name: String },
    /// List the event types by name
    List(Limit),
    /// Change what is given; the rest stays
    Update(UpdateArguments),
    /// Delete an event type that no subscription names
    Delete { name: String },
}

#[derive(Args, Debug)]
pub struct CreateEventTypeArguments {
    /// Such as com.acme.order.paid
    name: String,
    /// Validate events against this schema
    #[arg(long, value_name = "ID", default_value = "")]
    schema: String,
    #[arg(long, default_value = "", value_name = "TEXT")]
    description: String,
}

#[derive(Args, Debug)]
pub struct UpdateArguments {
    name: String,
    /// Validate events against this schema; "" stops validating
    #[arg(long, value_name = "ID")]
    schema: Option<String>,
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Lifecycle status of the type
    #[arg(long, value_enum)]
    status: Option<Status>,
}

/// Lifecycle status of an event type.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Status {
    /// May be published and subscribed
    Available,
    /// Still works; users should move on
    Deprecated,
    /// May be published; new subscriptions are refused
    Restricted,
    /// Publishing is refused
    Discontinued,
}

impl From<Status> for EventTypeStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Available => Self::Available,
            Status::Deprecated => Self::Deprecated,
            Status::Restricted => Self::Restricted,
            Status::Discontinued => Self::Discontinued,
        }
    }
}

impl OutputRecord for v1::EventType {
    const COLUMNS: &'static [&'static str] = &["NAME", "STATUS", "SCHEMA", "DESCRIPTION"];

    fn row(&self) -> Vec<String> {
        let status = self.status().as_str_name().trim_start_matches("EVENT_TYPE_STATUS_").to_lowercase();
        vec![self.name.clone(), status, self.schema_id.clone(), self.description.clone()]
    }

    fn fields(&self) -> OutputFields {
        OutputFields::new()
            .with("name", &self.name)
            .with("description", &self.description)
            .with("schemaId", &self.schema_id)
            .with("status", &self.status().as_str_name())
            .with("createTime", &time::text(self.create_time.as_ref()))
            .with("updateTime", &time::text(self.update_time.as_ref()))
            .with("etag", &self.etag)
            .with("accountId", &self.account_id)
    }
}

pub(crate) async fn run(command: EventTypeCommand, session: &Session) -> Result<(), Failure> {
    match command {
        EventTypeCommand::Create(arguments) => create(arguments, session).await,
        EventTypeCommand::Get { name } => session.output.record(&fetch(&name, session).await?),
        EventTypeCommand::List(limit) => list(&limit, session).await,
        EventTypeCommand::Update(arguments) => update(arguments, session).await,
        EventTypeCommand::Delete { name } => delete(name, session).await,
    }
}

async fn create(arguments: CreateEventTypeArguments, session: &Session) -> Result<(), Failure> {
    let attempted = format!("create event type {}", arguments.name);
    let event_type = v1::EventType {
        name: arguments.name,
        description: arguments.description,
        schema_id: arguments.schema,
        ..v1::EventType::default()
    };
    let request =
        v1::CreateEventTypeRequest { event_type: Some(event_type), request_id: Client::request_id() };
    let created = session
        .call_again(&attempted, async |client| {
            client.event_types().create_event_type(client.request(request.clone())).await
        })
        .await?;
    session.output.record(&created.event_type.ok_or_else(|| Failure::incomplete(&attempted))?)
}

async fn fetch(name: &str, session: &Session) -> Result<v1::EventType, Failure> {
    let attempted = format!("get event type {name}");
    let request = v1::GetEventTypeRequest { name: name.to_owned() };
    let found = session
        .call(&attempted, async |client| client.event_types().get_event_type(client.request(request)).await)
        .await?;
    found.event_type.ok_or_else(|| Failure::incomplete(&attempted))
}

async fn list(limit: &Limit, session: &Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let listed = limit.collect(async |page_size, page_token| {
        let request = client.request(v1::ListEventTypesRequest { page_size, page_token });
        let page = client.event_types().list_event_types(request).await?.into_inner();
        Ok((page.event_types, page.next_page_token))
    });
    let event_types = listed.await.map_err(|status| Failure::from_status("list event types", &status))?;
    session.output.list(&event_types)
}

async fn update(arguments: UpdateArguments, session: &Session) -> Result<(), Failure> {
    // The mask names only what the command line gives, so the update undoes nobody else's change.
    let mut event_type = v1::EventType { name: arguments.name.clone(), ..v1::EventType::default() };
    let mut paths = Vec::new();
    if let Some(schema) = arguments.schema {
        event_type.schema_id = schema;
        paths.push("schema_id".to_owned());
    }
    if let Some(description) = arguments.description {
        event_type.description = description;
        paths.push("description".to_owned());
    }
    if let Some(status) = arguments.status {
        event_type.set_status(status.into());
        paths.push("status".to_owned());
    }
    let attempted = format!("update event type {}", arguments.name);
    let request =
        v1::UpdateEventTypeRequest { event_type: Some(event_type), update_mask: Some(FieldMask { paths }) };
    let updated = session
        .call(&attempted, async |client| {
            client.event_types().update_event_type(client.request(request)).await
        })
        .await?;
    session.output.record(&updated.event_type.ok_or_else(|| Failure::incomplete(&attempted))?)
}

async fn delete(name: String, session: &Session) -> Result<(), Failure> {
    let attempted = format!("delete event type {name}");
    let request = v1::DeleteEventTypeRequest { name: name.clone(), etag: String::new() };
    session
        .call(&attempted, async |client| {
            client.event_types().delete_event_type(client.request(request)).await
        })
        .await?;
    say(&format!("deleted event type {name}"));
    Ok(())
}

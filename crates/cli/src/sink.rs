//! `fanfare sink`: where events are delivered to.

mod update;

use clap::{Args, Subcommand, ValueEnum};
use fanfare_client::{Client, time};
use fanfare_proto::v1::{self, sink::Kind};

use crate::{
    failure::Failure,
    output::{OutputFields, OutputRecord},
    page::Limit,
    session::Session,
    terminal::say,
};

#[derive(Debug, Subcommand)]
pub enum SinkCommand {
    /// Create a sink
    #[command(subcommand)]
    Create(CreateSinkCommand),
    /// Show one sink
    Get { id: String },
    /// List the sinks by id
    List(Limit),
    /// Change settings of a sink; what waits for it is kept
    Update {
        /// The sink's id
        id: String,
        #[command(flatten)]
        change: Box<update::SinkChangeArguments>,
    },
    /// Give a webhook a new signing secret; requests are signed with the old one too for a while
    RotateSecret {
        /// The sink's id
        id: String,
        /// How long the old secret stays valid; 0 ends it at once
        #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u16).range(..=720))]
        expire_after_hours: u16,
    },
    /// Delete a sink that no subscription names
    Delete { id: String },
}

#[derive(Debug, Subcommand)]
pub enum CreateSinkCommand {
    /// HTTP requests with CloudEvents as JSON
    Webhook(Box<WebhookArguments>),
    /// Records of an Amazon Kinesis data stream
    Kinesis(KinesisArguments),
}

#[derive(Args, Debug)]
pub struct WebhookArguments {
    /// https URL; http where the operator allows it
    #[arg(long)]
    url: String,
    /// Send an array of events per request
    #[arg(long)]
    batch: bool,
    /// Most events in one request, with --batch [default: the node's, 100]
    #[arg(long, value_name = "COUNT", requires = "batch")]
    batch_events_max: Option<u32>,
    #[arg(long, value_enum, default_value_t = Method::Post)]
    method: Method,
    /// Time for a whole request [default: the node's, 15000]
    #[arg(long, value_name = "MILLISECONDS")]
    timeout_ms: Option<u32>,
    /// Standard Webhooks secret, whsec_ and base64 [default: made by the node and shown once]
    #[arg(long, value_name = "SECRET", default_value = "", hide_default_value = true)]
    signing_secret: String,
    /// Also sign as Twilio does, with this token
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    twilio_auth_token: String,
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    description: String,
    #[command(flatten)]
    delivery: DeliveryArguments,
}

#[derive(Args, Debug)]
pub struct KinesisArguments {
    /// arn:aws:kinesis:REGION:ACCOUNT:stream/NAME
    #[arg(long)]
    arn: String,
    /// Role to assume; without one the operator must allow the node's own credentials
    #[arg(long, value_name = "ARN", default_value = "", hide_default_value = true)]
    role_arn: String,
    /// Given when the role is assumed, so that nobody else can have it assumed
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    external_id: String,
    /// Endpoint instead of AWS's
    #[arg(long, value_name = "URL", default_value = "", hide_default_value = true)]
    endpoint: String,
    /// Time for a whole request [default: the node's, 15000]
    #[arg(long, value_name = "MILLISECONDS")]
    timeout_ms: Option<u32>,
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    description: String,
    #[command(flatten)]
    delivery: DeliveryArguments,
}

/// Pace and retries; the node decides what is left out.
#[derive(Args, Clone, Copy, Debug, Default)]
#[group(skip)]
struct DeliveryArguments {
    /// Most requests at once from a node, 1 to 1024; the node's own limit holds, too
    #[arg(long, value_name = "COUNT")]
    concurrency_max: Option<u32>,
    /// Most requests a second from a node, 1 to 100000 [default: no limit]
    #[arg(long, value_name = "COUNT")]
    requests_per_second_max: Option<u32>,
    /// Most time before a failed event is tried again, 100 to 3600000 [default: the node's]
    #[arg(long, value_name = "MILLISECONDS")]
    retry_initial_ms: Option<u32>,
    /// Most time between two tries, 100 to 86400000 [default: the node's]
    #[arg(long, value_name = "MILLISECONDS")]
    retry_max_ms: Option<u32>,
    /// Tries of an event that fails while others pass, before it is a dead letter, 1 to 1000 [default: the node's]
    #[arg(long, value_name = "COUNT")]
    attempts_max: Option<u32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Method {
    Post,
    Put,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Put => "PUT",
        }
    }
}

impl OutputRecord for v1::Sink {
    const COLUMNS: &'static [&'static str] = &["ID", "KIND", "DESTINATION", "DESCRIPTION"];

    fn row(&self) -> Vec<String> {
        let (kind, destination) = match &self.kind {
            Some(Kind::Webhook(webhook)) => ("webhook", webhook.destination.clone()),
            Some(Kind::Kinesis(kinesis)) => ("kinesis", kinesis.arn.clone()),
            None => ("unknown", String::new()),
        };
        vec![self.id.clone(), kind.to_owned(), destination, self.description.clone()]
    }

    fn fields(&self) -> OutputFields {
        let fields = OutputFields::new().with("id", &self.id).with("description", &self.description);
        let fields = match &self.kind {
            Some(Kind::Webhook(webhook)) => fields.with("webhook", &webhook_fields(webhook)),
            Some(Kind::Kinesis(kinesis)) => fields.with("kinesis", &kinesis_fields(kinesis)),
            None => fields,
        };
        let fields = match self.delivery.filter(|delivery| *delivery != v1::DeliverySettings::default()) {
            Some(delivery) => fields.with("delivery", &delivery_fields(&delivery)),
            None => fields,
        };
        fields
            .with("createTime", &time::text(self.create_time.as_ref()))
            .with("updateTime", &time::text(self.update_time.as_ref()))
            .with("etag", &self.etag)
            .with("accountId", &self.account_id)
    }
}

fn webhook_fields(webhook: &v1::WebhookSink) -> OutputFields {
    let fields = OutputFields::new()
        .with("destination", &webhook.destination)
        .with("method", &webhook.method)
        .with("batchEvents", &webhook.batch_events)
        .with("batchEventsMax", &webhook.batch_events_max)
        .with("timeoutMs", &webhook.timeout_ms);
    let fields = match &webhook.previous_secret_expire_time {
        None => fields,
        expires => fields.with("previousSecretExpireTime", &time::text(expires.as_ref())),
    };
    match webhook.signing_secret.as_str() {
        "" => fields,
        secret => fields.with("signingSecret", secret),
    }
}

fn kinesis_fields(kinesis: &v1::KinesisSink) -> OutputFields {
    OutputFields::new()
        .with("arn", &kinesis.arn)
        .with("roleArn", &kinesis.role_arn)
        .with("endpointOverride", &kinesis.endpoint_override)
        .with("timeoutMs", &kinesis.timeout_ms)
}

/// Settings that leave nothing to the node are shown alone.
fn delivery_fields(delivery: &v1::DeliverySettings) -> OutputFields {
    let counts = [
        ("concurrencyMax", delivery.concurrency_max),
        ("requestsPerSecondMax", delivery.requests_per_second_max),
        ("attemptsMax", delivery.attempts_max),
    ];
    let delays = [("retryInitialMs", delivery.retry_initial), ("retryMaxMs", delivery.retry_max)];
    let mut fields = OutputFields::new();
    for (name, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        fields = fields.with(name, &count);
    }
    for (name, delay) in delays {
        if let Some(delay) = delay {
            fields = fields.with(name, &(delay.seconds * 1000 + i64::from(delay.nanos / 1_000_000)));
        }
    }
    fields
}

pub(crate) async fn run(command: SinkCommand, session: &Session) -> Result<(), Failure> {
    match command {
        SinkCommand::Create(command) => create(command, session).await,
        SinkCommand::Get { id } => get(id, session).await,
        SinkCommand::List(limit) => list(&limit, session).await,
        SinkCommand::Update { id, change } => update::run(id, *change, session).await,
        SinkCommand::RotateSecret { id, expire_after_hours } => {
            rotate_secret(id, expire_after_hours, session).await
        }
        SinkCommand::Delete { id } => delete(id, session).await,
    }
}

async fn create(command: CreateSinkCommand, session: &Session) -> Result<(), Failure> {
    let (description, kind, delivery) = match command {
        CreateSinkCommand::Webhook(arguments) => webhook(*arguments),
        CreateSinkCommand::Kinesis(arguments) => kinesis(arguments),
    };
    let delivery = Some(delivery_settings(delivery));
    let attempted = "create sink";
    let sink = v1::Sink { description, kind: Some(kind), delivery, ..v1::Sink::default() };
    let request = v1::CreateSinkRequest { sink: Some(sink), request_id: Client::request_id() };
    let created = session
        .call_again(attempted, async |client| {
            client.sinks().create_sink(client.request(request.clone())).await
        })
        .await?;
    let sink = created.sink.ok_or_else(|| Failure::incomplete(attempted))?;
    session.output.record(&sink)?;
    if matches!(&sink.kind, Some(Kind::Webhook(webhook)) if !webhook.signing_secret.is_empty()) {
        say("keep the signing secret: it is not shown again");
    }
    say(&format!("next: fanfare subscription create --sink {} --type TYPE", sink.id));
    Ok(())
}

fn webhook(arguments: WebhookArguments) -> (String, Kind, DeliveryArguments) {
    let webhook = v1::WebhookSink {
        destination: arguments.url,
        method: arguments.method.name().to_owned(),
        batch_events: arguments.batch,
        signing_secret: arguments.signing_secret,
        twilio_auth_token: Some(arguments.twilio_auth_token).filter(|token| !token.is_empty()),
        timeout_ms: arguments.timeout_ms.unwrap_or(0),
        batch_events_max: arguments.batch_events_max.unwrap_or(0),
        previous_secret_expire_time: None,
    };
    (arguments.description, Kind::Webhook(webhook), arguments.delivery)
}

fn kinesis(arguments: KinesisArguments) -> (String, Kind, DeliveryArguments) {
    let kinesis = v1::KinesisSink {
        arn: arguments.arn,
        role_arn: arguments.role_arn,
        external_id: Some(arguments.external_id).filter(|id| !id.is_empty()),
        endpoint_override: arguments.endpoint,
        timeout_ms: arguments.timeout_ms.unwrap_or(0),
    };
    (arguments.description, Kind::Kinesis(kinesis), arguments.delivery)
}

fn delivery_settings(arguments: DeliveryArguments) -> v1::DeliverySettings {
    let duration = |milliseconds: u32| prost_types::Duration {
        seconds: i64::from(milliseconds / 1000),
        nanos: i32::try_from(milliseconds % 1000).expect("below 1000") * 1_000_000,
    };
    v1::DeliverySettings {
        concurrency_max: arguments.concurrency_max.unwrap_or(0),
        requests_per_second_max: arguments.requests_per_second_max.unwrap_or(0),
        retry_initial: arguments.retry_initial_ms.map(duration),
        retry_max: arguments.retry_max_ms.map(duration),
        attempts_max: arguments.attempts_max.unwrap_or(0),
    }
}

async fn get(id: String, session: &Session) -> Result<(), Failure> {
    let attempted = format!("get sink {id}");
    let request = v1::GetSinkRequest { id };
    let found = session
        .call(&attempted, async |client| client.sinks().get_sink(client.request(request)).await)
        .await?;
    session.output.record(&found.sink.ok_or_else(|| Failure::incomplete(&attempted))?)
}

async fn list(limit: &Limit, session: &Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let listed = limit.collect(async |page_size, page_token| {
        let request = client.request(v1::ListSinksRequest { page_size, page_token });
        let page = client.sinks().list_sinks(request).await?.into_inner();
        Ok((page.sinks, page.next_page_token))
    });
    let sinks = listed.await.map_err(|status| Failure::from_status("list sinks", &status))?;
    session.output.list(&sinks)
}

async fn rotate_secret(id: String, expire_after_hours: u16, session: &Session) -> Result<(), Failure> {
    let attempted = format!("rotate the secret of sink {id}");
    let request = v1::RotateSinkSecretRequest {
        id,
        expire_after: Some(prost_types::Duration { seconds: i64::from(expire_after_hours) * 3600, nanos: 0 }),
        etag: String::new(),
        request_id: Client::request_id(),
    };
    let rotated = session
        .call_again(&attempted, async |client| {
            client.sinks().rotate_sink_secret(client.request(request.clone())).await
        })
        .await?;
    session.output.record(&rotated.sink.ok_or_else(|| Failure::incomplete(&attempted))?)?;
    say("keep the signing secret: it is not shown again");
    Ok(())
}

async fn delete(id: String, session: &Session) -> Result<(), Failure> {
    let attempted = format!("delete sink {id}");
    let request = v1::DeleteSinkRequest { id: id.clone(), etag: String::new() };
    session
        .call(&attempted, async |client| client.sinks().delete_sink(client.request(request)).await)
        .await?;
    say(&format!("deleted sink {id}"));
    Ok(())
}

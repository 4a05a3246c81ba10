//! `fanfare subscription`: which event types go to which sink, and what became of each event.

mod health;
mod stats;
mod update;

use std::str::FromStr;

use clap::{Args, Subcommand};
use fanfare_client::{Client, time};
use fanfare_proto::v1::{self, create_subscription_request::From, selector::Version};

use crate::{
    failure::Failure,
    output::{OutputFields, OutputRecord},
    page::Limit,
    session::Session,
    terminal::say,
};

pub(crate) use health::{StatusLine, SubscriptionHealth, collect as collect_health};

#[derive(Debug, Subcommand)]
pub enum SubscriptionCommand {
    /// Create a subscription; events acknowledged after the answer are delivered
    Create(CreateSubscriptionArguments),
    /// Show one subscription
    Get { id: String },
    /// List the subscriptions by id
    List(Limit),
    /// Change a subscription's sink, types or description; what is pending is kept
    Update(update::UpdateSubscriptionArguments),
    /// Delete a subscription; what is pending is cancelled, and said first
    Delete(update::DeleteSubscriptionArguments),
    /// Stop deliveries; events go on to be matched and held
    Pause { id: String },
    /// Start deliveries again where they stopped
    Resume { id: String },
    /// Outcomes of all matched events, and how many are pending
    Stats { id: String },
}

/// Word after @ for events without a version to be valid against.
const AS_PUBLISHED: &str = "as-published";

#[derive(Args, Debug)]
pub struct CreateSubscriptionArguments {
    /// The sink's id
    #[arg(long, value_name = "ID")]
    sink: String,
    /// Event type, with the schema version that data must be valid against, the latest if left out; "@as-published"
    /// delivers every event as it came; may be repeated
    #[arg(long = "type", value_name = "TYPE[@VERSION]", required = true)]
    types: Vec<TypeArgument>,
    /// Start: earliest, or a time (RFC 3339) [default: from now on]
    #[arg(long, value_name = "earliest|TIME")]
    from: Option<SubscriptionStart>,
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    description: String,
}

/// An event type and its schema version.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TypeArgument(v1::Selector);

impl FromStr for TypeArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, version) = match text.split_once('@') {
            None => (text, None),
            Some((name, AS_PUBLISHED)) => (name, Some(Version::AsPublished(()))),
            Some((name, version)) => {
                let version = version.parse().ok().filter(|&version| version > 0);
                let version = version.ok_or("after @ comes a number from 1, or as-published")?;
                (name, Some(Version::SchemaVersion(version)))
            }
        };
        if name.is_empty() {
            return Err("the event type is missing".to_owned());
        }
        Ok(Self(v1::Selector { r#type: name.to_owned(), version }))
    }
}

/// Start of a subscription.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SubscriptionStart {
    Earliest,
    Time(prost_types::Timestamp),
}

impl FromStr for SubscriptionStart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => Ok(Self::Earliest),
            _ => time::parse(text)
                .map(Self::Time)
                .map_err(|_| "expected earliest, or a time such as 2026-01-31T12:00:00Z".to_owned()),
        }
    }
}

impl OutputRecord for v1::Subscription {
    const COLUMNS: &'static [&'static str] = &["ID", "SINK", "TYPES", "PAUSED", "DESCRIPTION"];

    fn row(&self) -> Vec<String> {
        let paused = if self.paused { "yes" } else { "no" };
        vec![
            self.id.clone(),
            self.sink_id.clone(),
            subscribed_types(self),
            paused.to_owned(),
            self.description.clone(),
        ]
    }

    fn fields(&self) -> OutputFields {
        let selectors: Vec<_> = self
            .selectors
            .iter()
            .map(|selector| {
                let fields = OutputFields::new().with("type", &selector.r#type);
                match selector.version {
                    Some(Version::SchemaVersion(version)) => fields.with("schemaVersion", &version),
                    Some(Version::AsPublished(())) | None => fields.with("asPublished", &true),
                }
            })
            .collect();
        OutputFields::new()
            .with("id", &self.id)
            .with("description", &self.description)
            .with("sinkId", &self.sink_id)
            .with("selectors", &selectors)
            .with("paused", &self.paused)
            .with("createTime", &time::text(self.create_time.as_ref()))
            .with("updateTime", &time::text(self.update_time.as_ref()))
            .with("etag", &self.etag)
            .with("accountId", &self.account_id)
            .with("reconciling", &self.reconciling)
    }
}

/// The selectors in the form of `--type`.
fn subscribed_types(subscription: &v1::Subscription) -> String {
    let types = subscription.selectors.iter().map(|selector| match selector.version {
        Some(Version::SchemaVersion(version)) => format!("{}@{version}", selector.r#type),
        Some(Version::AsPublished(())) | None => selector.r#type.clone(),
    });
    types.collect::<Vec<_>>().join(",")
}

pub(crate) async fn run(command: SubscriptionCommand, session: &Session) -> Result<(), Failure> {
    match command {
        SubscriptionCommand::Create(arguments) => create(arguments, session).await,
        SubscriptionCommand::Get { id } => get(id, session).await,
        SubscriptionCommand::List(limit) => list(&limit, session).await,
        SubscriptionCommand::Update(arguments) => update::run(arguments, session).await,
        SubscriptionCommand::Delete(arguments) => update::delete(arguments, session).await,
        SubscriptionCommand::Pause { id } => pause(id, session).await,
        SubscriptionCommand::Resume { id } => resume(id, session).await,
        SubscriptionCommand::Stats { id } => stats::run(id, session).await,
    }
}

async fn create(arguments: CreateSubscriptionArguments, session: &Session) -> Result<(), Failure> {
    let subscription = v1::Subscription {
        description: arguments.description,
        sink_id: arguments.sink,
        selectors: arguments.types.into_iter().map(|TypeArgument(selector)| selector).collect(),
        ..v1::Subscription::default()
    };
    let from = arguments.from.map(|from| match from {
        SubscriptionStart::Earliest => From::Earliest(true),
        SubscriptionStart::Time(time) => From::Time(time),
    });
    let attempted = "create subscription";
    let request = v1::CreateSubscriptionRequest {
        subscription: Some(subscription),
        from,
        request_id: Client::request_id(),
    };
    let created = session
        .call_again(attempted, async |client| {
            client.subscriptions().create_subscription(client.request(request.clone())).await
        })
        .await?;
    let subscription = created.subscription.ok_or_else(|| Failure::incomplete(attempted))?;
    session.output.record(&subscription)?;
    if subscription.reconciling {
        say(&format!(
            "made, but not in effect in every partition: see fanfare subscription get {}",
            subscription.id
        ));
    }
    say(&format!("next: fanfare subscription stats {}", subscription.id));
    Ok(())
}

async fn get(id: String, session: &Session) -> Result<(), Failure> {
    let attempted = format!("get subscription {id}");
    let request = v1::GetSubscriptionRequest { id };
    let found = session
        .call(&attempted, async |client| {
            client.subscriptions().get_subscription(client.request(request)).await
        })
        .await?;
    session.output.record(&found.subscription.ok_or_else(|| Failure::incomplete(&attempted))?)
}

async fn list(limit: &Limit, session: &Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let subscriptions = list_all(&client, limit).await?;
    session.output.list(&collect_health(&client, subscriptions).await)
}

/// The subscriptions by id, up to the limit.
pub(crate) async fn list_all(client: &Client, limit: &Limit) -> Result<Vec<v1::Subscription>, Failure> {
    let listed = limit.collect(async |page_size, page_token| {
        let request = client.request(v1::ListSubscriptionsRequest { page_size, page_token });
        let page = client.subscriptions().list_subscriptions(request).await?.into_inner();
        Ok((page.subscriptions, page.next_page_token))
    });
    listed.await.map_err(|status| Failure::from_status("list subscriptions", &status))
}

async fn pause(id: String, session: &Session) -> Result<(), Failure> {
    let attempted = format!("pause subscription {id}");
    let request = v1::PauseSubscriptionRequest { id, etag: String::new(), request_id: Client::request_id() };
    let paused = session
        .call_again(&attempted, async |client| {
            client.subscriptions().pause_subscription(client.request(request.clone())).await
        })
        .await?;
    session.output.record(&paused.subscription.ok_or_else(|| Failure::incomplete(&attempted))?)
}

async fn resume(id: String, session: &Session) -> Result<(), Failure> {
    let attempted = format!("resume subscription {id}");
    let request = v1::ResumeSubscriptionRequest { id, etag: String::new(), request_id: Client::request_id() };
    let resumed = session
        .call_again(&attempted, async |client| {
            client.subscriptions().resume_subscription(client.request(request.clone())).await
        })
        .await?;
    session.output.record(&resumed.subscription.ok_or_else(|| Failure::incomplete(&attempted))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_may_be_pinned_to_a_version() {
        let chosen = |version| Ok(TypeArgument(v1::Selector { r#type: "a.b".to_owned(), version }));
        assert_eq!("a.b".parse(), chosen(None));
        assert_eq!("a.b@3".parse(), chosen(Some(Version::SchemaVersion(3))));
        assert_eq!("a.b@as-published".parse(), chosen(Some(Version::AsPublished(()))));
        for bad in ["", "@1", "a@", "a@0", "a@x", "a@1@2", "@as-published"] {
            assert!(bad.parse::<TypeArgument>().is_err(), "{bad} was taken");
        }
    }
}

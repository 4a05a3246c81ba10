//! `fanfare subscription`: which event types go to which sink, and what became of each event.

mod stats;

use std::str::FromStr;

use clap::{Args, Subcommand};
use fanfare_client::time;
use fanfare_proto::v1::{self, create_subscription_request::From};

use crate::{
    failure::Failure,
    output::{OutputFields, OutputRecord},
    page::Limit,
    session::Session,
    terminal::say,
};

#[derive(Debug, Subcommand)]
pub enum SubscriptionCommand {
    /// Create a subscription; events acknowledged after the answer are delivered
    Create(CreateSubscriptionArguments),
    /// Show one subscription
    Get { id: String },
    /// List the subscriptions by id
    List(Limit),
    /// Delete a subscription; what was pending counts as cancelled
    Delete { id: String },
    /// Stop deliveries; events go on to be matched and held
    Pause { id: String },
    /// SubscriptionStart deliveries again where they stopped
    Resume { id: String },
    /// Outcomes of all matched events, and how many are pending
    Stats { id: String },
}

#[derive(Args, Debug)]
pub struct CreateSubscriptionArguments {
    /// The sink's id
    #[arg(long, value_name = "ID")]
    sink: String,
    /// Event type, with @VERSION to deliver only data valid against that schema version; may be repeated
    #[arg(long = "type", value_name = "TYPE[@VERSION]", required = true)]
    types: Vec<SubscribedType>,
    /// Start: earliest, or a time (RFC 3339) [default: from now on]
    #[arg(long, value_name = "earliest|TIME")]
    from: Option<SubscriptionStart>,
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    description: String,
}

/// An event type and the version it is pinned to, 0 being none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubscribedType {
    name: String,
    schema_version: u32,
}

impl FromStr for SubscribedType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, schema_version) = match text.split_once('@') {
            None => (text, 0),
            Some((name, version)) => {
                let version = version.parse().ok().filter(|&version| version > 0);
                (name, version.ok_or("the version after @ is a number from 1")?)
            }
        };
        if name.is_empty() {
            return Err("the event type is missing".to_owned());
        }
        Ok(Self { name: name.to_owned(), schema_version })
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
        let types = self.types.iter().map(|chosen| match chosen.schema_version {
            0 => chosen.r#type.clone(),
            version => format!("{}@{version}", chosen.r#type),
        });
        let paused = if self.paused { "yes" } else { "no" };
        vec![
            self.id.clone(),
            self.sink_id.clone(),
            types.collect::<Vec<_>>().join(","),
            paused.to_owned(),
            self.description.clone(),
        ]
    }

    fn fields(&self) -> OutputFields {
        let types = self.types.iter();
        let types: Vec<_> = types
            .map(|chosen| {
                OutputFields::new().with("type", &chosen.r#type).with("schemaVersion", &chosen.schema_version)
            })
            .collect();
        OutputFields::new()
            .with("id", &self.id)
            .with("description", &self.description)
            .with("sinkId", &self.sink_id)
            .with("types", &types)
            .with("paused", &self.paused)
            .with("createTime", &time::text(self.create_time.as_ref()))
            .with("updateTime", &time::text(self.update_time.as_ref()))
            .with("etag", &self.etag)
            .with("reconciling", &self.reconciling)
    }
}

pub(crate) async fn run(command: SubscriptionCommand, session: &Session) -> Result<(), Failure> {
    match command {
        SubscriptionCommand::Create(arguments) => create(arguments, session).await,
        SubscriptionCommand::Get { id } => get(id, session).await,
        SubscriptionCommand::List(limit) => list(&limit, session).await,
        SubscriptionCommand::Delete { id } => delete(id, session).await,
        SubscriptionCommand::Pause { id } => pause(id, session).await,
        SubscriptionCommand::Resume { id } => resume(id, session).await,
        SubscriptionCommand::Stats { id } => stats::run(id, session).await,
    }
}

async fn create(arguments: CreateSubscriptionArguments, session: &Session) -> Result<(), Failure> {
    let types = arguments.types.into_iter();
    let subscription = v1::Subscription {
        description: arguments.description,
        sink_id: arguments.sink,
        types: types
            .map(|chosen| v1::SubscribedType { r#type: chosen.name, schema_version: chosen.schema_version })
            .collect(),
        ..v1::Subscription::default()
    };
    let from = arguments.from.map(|from| match from {
        SubscriptionStart::Earliest => From::Earliest(true),
        SubscriptionStart::Time(time) => From::Time(time),
    });
    let attempted = "create subscription";
    let request = v1::CreateSubscriptionRequest { subscription: Some(subscription), from };
    let created = session
        .call(attempted, async |client| {
            client.subscriptions().create_subscription(client.request(request)).await
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
    let listed = limit.collect(async |page_size, page_token| {
        let request = client.request(v1::ListSubscriptionsRequest { page_size, page_token });
        let page = client.subscriptions().list_subscriptions(request).await?.into_inner();
        Ok((page.subscriptions, page.next_page_token))
    });
    let subscriptions = listed.await.map_err(|status| Failure::from_status("list subscriptions", &status))?;
    session.output.list(&subscriptions)
}

async fn delete(id: String, session: &Session) -> Result<(), Failure> {
    let attempted = format!("delete subscription {id}");
    let request = v1::DeleteSubscriptionRequest { id: id.clone() };
    let deleted = session
        .call(&attempted, async |client| {
            client.subscriptions().delete_subscription(client.request(request)).await
        })
        .await?;
    say(&format!("deleted subscription {id}"));
    if deleted.reconciling {
        say("some partition has not confirmed it: attempts may start there until it does");
    }
    Ok(())
}

async fn pause(id: String, session: &Session) -> Result<(), Failure> {
    let attempted = format!("pause subscription {id}");
    let request = v1::PauseSubscriptionRequest { id };
    let paused = session
        .call(&attempted, async |client| {
            client.subscriptions().pause_subscription(client.request(request)).await
        })
        .await?;
    session.output.record(&paused.subscription.ok_or_else(|| Failure::incomplete(&attempted))?)
}

async fn resume(id: String, session: &Session) -> Result<(), Failure> {
    let attempted = format!("resume subscription {id}");
    let request = v1::ResumeSubscriptionRequest { id };
    let resumed = session
        .call(&attempted, async |client| {
            client.subscriptions().resume_subscription(client.request(request)).await
        })
        .await?;
    session.output.record(&resumed.subscription.ok_or_else(|| Failure::incomplete(&attempted))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_may_be_pinned_to_a_version() {
        let chosen =
            |name: &str, schema_version| Ok(SubscribedType { name: name.to_owned(), schema_version });
        assert_eq!("a.b".parse(), chosen("a.b", 0));
        assert_eq!("a.b@3".parse(), chosen("a.b", 3));
        for bad in ["", "@1", "a@", "a@0", "a@x", "a@1@2"] {
            assert!(bad.parse::<SubscribedType>().is_err(), "{bad} was taken");
        }
    }
}

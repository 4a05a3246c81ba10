//! `fanfare deadletter redrive` and `purge`: begin, follow, list and cancel.

use std::time::Duration;

use clap::Args;
use fanfare_client::time;
use fanfare_proto::v1;
use tokio::time::sleep;

use super::ListArguments;
use crate::{
    failure::{Exit, Failure},
    output::{OutputFields, OutputRecord},
    session::Session,
    terminal::say,
};

/// Interval between two looks at a redrive that is followed.
const FOLLOW: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("letters").required(true).multiple(true).args(["ids", "all", "reasons"])))]
pub struct RedriveArguments {
    /// The subscription's id
    subscription: String,
    /// Ids of dead letters
    #[arg(value_name = "LETTER")]
    ids: Vec<String>,
    /// All that the subscription has now
    #[arg(long, conflicts_with_all = ["ids", "reasons"])]
    all: bool,
    /// Only those given up for this reason, such as rejected; may be repeated
    #[arg(long = "reason", value_name = "REASON")]
    reasons: Vec<String>,
    /// Only those given up at this time or later (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<prost_types::Timestamp>,
    /// Only those given up earlier
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<prost_types::Timestamp>,
    /// Wait for the end, and tell the progress
    #[arg(long)]
    follow: bool,
}

fn parse_time(text: &str) -> Result<prost_types::Timestamp, String> {
    time::parse(text).map_err(|_| "expected a time such as 2026-01-31T12:00:00Z".to_owned())
}

impl RedriveArguments {
    fn filter(&self) -> v1::DeadLetterFilter {
        v1::DeadLetterFilter {
            ids: self.ids.clone(),
            reasons: self.reasons.clone(),
            start_time: self.since,
            end_time: self.until,
        }
    }
}

impl OutputRecord for v1::Redrive {
    const COLUMNS: &'static [&'static str] =
        &["ID", "SUBSCRIPTION", "KIND", "STATE", "TAKEN", "STAYED", "CREATED", "LAST FAILURE"];

    fn row(&self) -> Vec<String> {
        let progress = self.progress.unwrap_or_default();
        vec![
            self.id.clone(),
            self.subscription_id.clone(),
            kind(self).to_owned(),
            state(self).to_owned(),
            progress.withdrawn_count.to_string(),
            progress.stayed_count.to_string(),
            time::text(self.create_time.as_ref()),
            self.last_failure.clone(),
        ]
    }

    fn fields(&self) -> OutputFields {
        let progress = self.progress.unwrap_or_default();
        OutputFields::new()
            .with("id", &self.id)
            .with("subscriptionId", &self.subscription_id)
            .with("kind", kind(self))
            .with("state", state(self))
            .with("withdrawn", &progress.withdrawn_count)
            .with("stayed", &progress.stayed_count)
            .with("percent", &progress.percent)
            .with("createTime", &time::text(self.create_time.as_ref()))
            .with("updateTime", &time::text(self.update_time.as_ref()))
            .with("lastFailure", &self.last_failure)
    }
}

fn kind(redrive: &v1::Redrive) -> &'static str {
    match redrive.kind() {
        v1::RedriveKind::Unspecified => "unknown",
        v1::RedriveKind::Deliver => "deliver",
        v1::RedriveKind::Purge => "purge",
    }
}

fn state(redrive: &v1::Redrive) -> &'static str {
    match redrive.state() {
        v1::RedriveState::Unspecified => "unknown",
        v1::RedriveState::Running => "running",
        v1::RedriveState::Done => "done",
        v1::RedriveState::Cancelled => "cancelled",
    }
}

pub(super) async fn redrive(arguments: RedriveArguments, session: &Session) -> Result<(), Failure> {
    let attempted = format!("redrive dead letters of subscription {}", arguments.subscription);
    let request = v1::RedriveDeadLettersRequest {
        subscription_id: arguments.subscription.clone(),
        filter: Some(arguments.filter()),
        request_id: String::new(),
    };
    let begun = session
        .call(&attempted, async |client| {
            client.dead_letters().redrive_dead_letters(client.request(request)).await
        })
        .await?;
    let begun = begun.redrive.ok_or_else(|| Failure::incomplete(&attempted))?;
    finish(begun, arguments.follow, session).await
}

pub(super) async fn purge(arguments: RedriveArguments, session: &Session) -> Result<(), Failure> {
    let attempted = format!("purge dead letters of subscription {}", arguments.subscription);
    let request = v1::PurgeDeadLettersRequest {
        subscription_id: arguments.subscription.clone(),
        filter: Some(arguments.filter()),
        request_id: String::new(),
    };
    let begun = session
        .call(&attempted, async |client| {
            client.dead_letters().purge_dead_letters(client.request(request)).await
        })
        .await?;
    let begun = begun.redrive.ok_or_else(|| Failure::incomplete(&attempted))?;
    finish(begun, arguments.follow, session).await
}

/// Shows the redrive, at its end if it is followed.
async fn finish(begun: v1::Redrive, follows: bool, session: &Session) -> Result<(), Failure> {
    let mut redrive = begun;
    if follows {
        let mut told = None;
        while redrive.state() == v1::RedriveState::Running {
            let progress = redrive.progress.unwrap_or_default();
            if told.replace(progress) != Some(progress) && !session.output.is_json() {
                let v1::RedriveProgress { withdrawn_count, stayed_count, percent } = progress;
                say(&format!("{percent} %: {withdrawn_count} taken, {stayed_count} stay"));
            }
            sleep(FOLLOW).await;
            redrive = get(&redrive.id, session).await?;
        }
    } else if redrive.state() == v1::RedriveState::Running && !session.output.is_json() {
        say("it goes on by itself: `fanfare deadletter redrives` tells how far it is");
    }
    session.output.record(&redrive)?;
    if follows && redrive.state() == v1::RedriveState::Cancelled {
        return Err(Failure::new(
            Exit::Conflict,
            format!("redrive {} was cancelled", redrive.id),
            "list the dead letters that are left: fanfare deadletter list",
        ));
    }
    Ok(())
}

async fn get(id: &str, session: &Session) -> Result<v1::Redrive, Failure> {
    let attempted = format!("get redrive {id}");
    let request = v1::GetRedriveRequest { id: id.to_owned() };
    let found = session
        .call(&attempted, async |client| client.dead_letters().get_redrive(client.request(request)).await)
        .await?;
    found.redrive.ok_or_else(|| Failure::incomplete(&attempted))
}

pub(super) async fn list(arguments: &ListArguments, session: &Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let listed = arguments.limit.collect(async |page_size, page_token| {
        let subscription_id = arguments.subscription.clone();
        let request = client.request(v1::ListRedrivesRequest { subscription_id, page_size, page_token });
        let page = client.dead_letters().list_redrives(request).await?.into_inner();
        Ok((page.redrives, page.next_page_token))
    });
    let redrives = listed.await.map_err(|status| Failure::from_status("list redrives", &status))?;
    session.output.list(&redrives)
}

pub(super) async fn cancel(id: String, session: &Session) -> Result<(), Failure> {
    let attempted = format!("cancel redrive {id}");
    let request = v1::CancelRedriveRequest { id };
    let cancelled = session
        .call(&attempted, async |client| client.dead_letters().cancel_redrive(client.request(request)).await)
        .await?;
    session.output.record(&cancelled.redrive.ok_or_else(|| Failure::incomplete(&attempted))?)
}

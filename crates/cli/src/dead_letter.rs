//! `fanfare deadletter`: events that a subscription could not deliver.

mod redrive;

use clap::{Args, Subcommand};
use fanfare_client::{CloudEventJson, time};
use fanfare_proto::v1;

use crate::{
    failure::Failure,
    output::{OutputFields, OutputRecord},
    page::Limit,
    session::Session,
};

#[derive(Debug, Subcommand)]
pub enum DeadLetterCommand {
    /// List dead letters, oldest first
    List(ListArguments),
    /// Show one dead letter with its event
    Get { id: String },
    /// Send dead letters of a subscription to its sink again, in order per key; newer events have passed before
    Redrive(redrive::RedriveArguments),
    /// Give up dead letters of a subscription for good
    Purge(redrive::RedriveArguments),
    /// List redrives and purges that run or ended lately
    Redrives(ListArguments),
    /// Cancel a redrive or purge; no dead letter is lost
    Cancel { id: String },
}

#[derive(Args, Debug)]
pub struct ListArguments {
    /// Only of this subscription
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    subscription: String,
    #[command(flatten)]
    limit: Limit,
}

impl OutputRecord for v1::DeadLetter {
    const COLUMNS: &'static [&'static str] =
        &["ID", "TIME", "SUBSCRIPTION", "REASON", "ATTEMPTS", "TYPE", "EVENT"];

    fn row(&self) -> Vec<String> {
        let event = self.event.as_ref().and_then(|stored| stored.event.as_ref());
        vec![
            self.id.clone(),
            time::text(self.time.as_ref()),
            self.subscription_id.clone(),
            self.reason.clone(),
            self.attempts.to_string(),
            event.map(|event| event.r#type.clone()).unwrap_or_default(),
            event.map(|event| event.id.clone()).unwrap_or_default(),
        ]
    }

    fn fields(&self) -> OutputFields {
        let fields = OutputFields::new()
            .with("id", &self.id)
            .with("subscriptionId", &self.subscription_id)
            .with("reason", &self.reason)
            .with("detail", &self.detail)
            .with("attempts", &self.attempts)
            .with("time", &time::text(self.time.as_ref()));
        let Some(stored) = &self.event else { return fields };
        fields
            .with("partition", &stored.partition)
            .with("offset", &stored.offset)
            .with("appendTime", &time::text(stored.append_time.as_ref()))
            .with("event", &stored.event.as_ref().map(CloudEventJson))
    }
}

pub(crate) async fn run(command: DeadLetterCommand, session: &Session) -> Result<(), Failure> {
    match command {
        DeadLetterCommand::List(arguments) => list(&arguments, session).await,
        DeadLetterCommand::Get { id } => get(id, session).await,
        DeadLetterCommand::Redrive(arguments) => redrive::redrive(arguments, session).await,
        DeadLetterCommand::Purge(arguments) => redrive::purge(arguments, session).await,
        DeadLetterCommand::Redrives(arguments) => redrive::list(&arguments, session).await,
        DeadLetterCommand::Cancel { id } => redrive::cancel(id, session).await,
    }
}

async fn list(arguments: &ListArguments, session: &Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let listed = arguments.limit.collect(async |page_size, page_token| {
        let subscription_id = arguments.subscription.clone();
        let request = client.request(v1::ListDeadLettersRequest { subscription_id, page_size, page_token });
        let page = client.dead_letters().list_dead_letters(request).await?.into_inner();
        Ok((page.dead_letters, page.next_page_token))
    });
    let dead_letters = listed.await.map_err(|status| Failure::from_status("list dead letters", &status))?;
    session.output.list(&dead_letters)
}

async fn get(id: String, session: &Session) -> Result<(), Failure> {
    let attempted = format!("get dead letter {id}");
    let request = v1::GetDeadLetterRequest { id };
    let found = session
        .call(&attempted, async |client| client.dead_letters().get_dead_letter(client.request(request)).await)
        .await?;
    session.output.record(&found.dead_letter.ok_or_else(|| Failure::incomplete(&attempted))?)
}

//! `fanfare event`: follow the log, or find one event in it.

use std::str::FromStr;

use clap::{Args, Subcommand};
use fanfare_client::time;
use fanfare_client::{CloudEventJson, DEFAULT_SOURCE};
use fanfare_proto::v1::{self, read_events_request::From};
use serde::Serialize;

use crate::{failure::Failure, output::json_text, session::Session};

#[derive(Debug, Subcommand)]
pub enum EventCommand {
    /// Print events as JSON lines, and follow new ones until ctrl-c
    Tail(TailArguments),
    /// Print one event
    Get(GetEventArguments),
}

#[derive(Args, Debug)]
pub struct TailArguments {
    /// Only this event type; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Where to begin: latest, earliest, a time (RFC 3339), or an offset with --partition
    #[arg(long, default_value = "latest")]
    from: ReadStart,
    /// Only this partition
    #[arg(long)]
    partition: Option<u32>,
    /// End after so many events
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    /// End at the end of the log
    #[arg(long)]
    no_follow: bool,
}

#[derive(Args, Debug)]
pub struct GetEventArguments {
    /// The event's id
    id: String,
    /// The event's source: an id is unique within it
    #[arg(long, value_name = "URI", default_value = DEFAULT_SOURCE)]
    source: String,
}

/// Start of a read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ReadStart {
    Latest,
    Earliest,
    Offset(u64),
    Time(prost_types::Timestamp),
}

impl FromStr for ReadStart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "latest" => Ok(Self::Latest),
            "earliest" => Ok(Self::Earliest),
            _ => text.parse().map(Self::Offset).or_else(|_| {
                let wanted = "latest, earliest, an offset, or a time such as 2026-01-31T12:00:00Z";
                time::parse(text).map(Self::Time).map_err(|_| format!("expected {wanted}"))
            }),
        }
    }
}

impl ReadStart {
    fn into_request(self) -> From {
        match self {
            Self::Latest => From::Latest(true),
            Self::Earliest => From::Earliest(true),
            Self::Offset(offset) => From::Offset(offset),
            Self::Time(time) => From::Time(time),
        }
    }
}

/// A stored event as it is printed: its position, and the event in CloudEvents' JSON format.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventLine<'a> {
    partition: u32,
    offset: u64,
    append_time: String,
    event: Option<CloudEventJson<'a>>,
}

/// A stored event on one line.
pub(crate) fn json_line(stored: &v1::StoredEvent) -> String {
    let line = EventLine {
        partition: stored.partition,
        offset: stored.offset,
        append_time: time::text(stored.append_time.as_ref()),
        event: stored.event.as_ref().map(CloudEventJson),
    };
    json_text(&line)
}

pub(crate) async fn run(command: EventCommand, session: &Session) -> Result<(), Failure> {
    match command {
        EventCommand::Tail(arguments) => tail(arguments, session).await,
        EventCommand::Get(arguments) => get(arguments, session).await,
    }
}

async fn tail(arguments: TailArguments, session: &Session) -> Result<(), Failure> {
    if matches!(arguments.from, ReadStart::Offset(_)) && arguments.partition.is_none() {
        return Err(Failure::usage("an offset counts within one partition", "add --partition NUMBER"));
    }
    let request = v1::ReadEventsRequest {
        partition: arguments.partition,
        follow: !arguments.no_follow,
        types: arguments.types,
        limit: arguments.limit.unwrap_or(0),
        from: Some(arguments.from.into_request()),
    };
    let failed = |status| Failure::from_status("read events", &status);
    let client = session.connect().await?;
    let mut stream = client.read_events(request).await.map_err(failed)?;
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let response = tokio::select! {
            biased;
            _ = &mut interrupted => return Ok(()),
            response = stream.message() => response.map_err(failed)?,
        };
        let Some(response) = response else { return Ok(()) };
        response.events.iter().try_for_each(|stored| session.output.line(&json_line(stored)))?;
    }
}

async fn get(arguments: GetEventArguments, session: &Session) -> Result<(), Failure> {
    let attempted = format!("get event {}", arguments.id);
    let request = v1::GetEventRequest { id: arguments.id, source: arguments.source };
    let response = session
        .call(&attempted, async |client| client.reader().get_event(client.request(request)).await)
        .await?;
    match response.event {
        Some(stored) => session.output.line(&json_line(&stored)),
        None => Err(Failure::incomplete(&attempted)),
    }
}

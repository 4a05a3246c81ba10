//! `fanfare bench publish`: how fast a node commits events.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use fanfare_client::Client;

use super::{
    event_pool::EventPool,
    fixture::{self, Fixture},
    load::{self, Load, LoadResult, Signals},
    payload,
    producer::REQUESTS_IN_FLIGHT_MAX,
};
use crate::{
    failure::{Exit, Failure},
    output::OutputFields,
    publish::read_file,
    session::Session,
    terminal::say,
};

const EVENT_TYPE: &str = "dev.fanfare.bench";
const CHECKED_EVENT_TYPE: &str = "dev.fanfare.bench.checked";
const SCHEMA_ID: &str = "Fanfare.Bench";

#[derive(Args, Debug)]
pub struct BenchPublishArguments {
    /// Producers, each with a publish stream of its own
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    producers: u32,
    /// Requests a producer has unanswered (closed loop)
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=REQUESTS_IN_FLIGHT_MAX as i64))]
    in_flight: u32,
    /// Events per request
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Events per second of all producers (open loop): latency counts from when an event was due
    #[arg(long, value_name = "PER-SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Length of the JSON payload
    #[arg(long, default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(i64::from(payload::SIZE_BYTES_MIN)..=i64::from(payload::SIZE_BYTES_MAX)))]
    size_bytes: u32,
    /// Partition keys
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    keys: u32,
    /// Measure for so long
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Run so long before measuring
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=600))]
    warmup_seconds: u32,
    /// End after so many events, warm-up included
    #[arg(long, value_name = "EVENTS", default_value_t = 1_000_000_000)]
    count: u64,
    /// Connections that the producers share
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    connections: u32,
    /// API keys, one per line, that the producers use in turn
    #[arg(long, value_name = "FILE")]
    keys_file: Option<PathBuf>,
    /// Have the node validate each event against the payload's JSON Schema
    #[arg(long)]
    schema: bool,
    /// Print that JSON Schema and end
    #[arg(long)]
    print_schema: bool,
}

impl BenchPublishArguments {
    fn load(&self) -> Load {
        Load {
            batch: self.batch,
            in_flight: self.in_flight as usize,
            rate: self.rate,
            warmup: Duration::from_secs(self.warmup_seconds.into()),
            measured: Duration::from_secs(self.seconds.into()),
            events_max: self.count,
        }
    }
}

pub(super) async fn run(arguments: BenchPublishArguments, session: &Session) -> Result<(), Failure> {
    if arguments.print_schema {
        return session.output.text(payload::SCHEMA);
    }
    let accounts = accounts(&arguments, session).await?;
    let clients = connect(&arguments, &accounts, session).await?;
    let mut fixtures = Vec::new();
    let outcome = tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Err(fixture::interrupted()),
        outcome = measure(&arguments, &clients, accounts.len(), &mut fixtures) => outcome,
    };
    for fixture in fixtures {
        fixture.remove().await;
    }
    let outcome = outcome?;
    session.output.fields(report(&arguments, accounts.len(), &outcome))?;
    if outcome.tally.committed == 0 {
        let reasons = outcome.tally.errors.keys().cloned().collect::<Vec<_>>().join("; ");
        return Err(Failure::new(
            Exit::Failed,
            format!("nothing was committed: {reasons}"),
            "publish one event to see the whole error: fanfare publish TYPE '{}'",
        ));
    }
    Ok(())
}

async fn measure(
    arguments: &BenchPublishArguments,
    clients: &[Client],
    accounts: usize,
    fixtures: &mut Vec<Fixture>,
) -> Result<LoadResult, Failure> {
    let event_type = if arguments.schema { CHECKED_EVENT_TYPE } else { EVENT_TYPE };
    for client in clients.iter().take(accounts) {
        fixtures.push(Fixture::new(client.clone()));
        let Some(fixture) = fixtures.last_mut() else { continue };
        if arguments.schema {
            fixture.schema(SCHEMA_ID).await?;
        }
        fixture.event_type(event_type, if arguments.schema { SCHEMA_ID } else { "" }).await?;
    }
    say(&format!("warming up {} s, then measuring {} s", arguments.warmup_seconds, arguments.seconds));
    let pool = EventPool::generate(&[event_type], arguments.keys, arguments.size_bytes, &mut rand::rng());
    load::drive(clients, arguments.load(), Arc::new(pool), None, &Signals::new()).await
}

/// The keys of the accounts that publish; none is a node without keys.
async fn accounts(
    arguments: &BenchPublishArguments,
    session: &Session,
) -> Result<Vec<Option<String>>, Failure> {
    let Some(path) = &arguments.keys_file else { return Ok(vec![session.connection.key.clone()]) };
    let text = read_file(path).await?;
    let keys = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut keys: Vec<_> = keys.map(|key| Some(key.to_owned())).collect();
    if keys.is_empty() {
        return Err(Failure::usage(format!("{} holds no key", path.display()), "write one API key per line"));
    }
    if keys.len() > arguments.producers as usize {
        say(&format!(
            "only the first {} of {} keys are used: one per producer",
            arguments.producers,
            keys.len()
        ));
        keys.truncate(arguments.producers as usize);
    }
    Ok(keys)
}

/// One client per producer; the first ones are of different accounts.
async fn connect(
    arguments: &BenchPublishArguments,
    accounts: &[Option<String>],
    session: &Session,
) -> Result<Vec<Client>, Failure> {
    let mut connections = Vec::new();
    for _ in 0..arguments.connections.min(arguments.producers) {
        connections.push(session.connect().await?);
    }
    let producers =
        connections.iter().cycle().zip(accounts.iter().cycle()).take(arguments.producers as usize);
    producers
        .map(|(connection, key)| match key {
            Some(key) => connection.with_key(key).map_err(Failure::from_connect),
            None => Ok(connection.clone()),
        })
        .collect()
}

fn report(arguments: &BenchPublishArguments, accounts: usize, outcome: &LoadResult) -> OutputFields {
    OutputFields::new()
        .with("bench", "publish")
        .with("mode", arguments.load().mode())
        .with("producers", &arguments.producers)
        .with("inFlight", &arguments.rate.is_none().then_some(arguments.in_flight))
        .with("batch", &arguments.batch)
        .with("rate", &arguments.rate)
        .with("sizeBytes", &arguments.size_bytes)
        .with("keys", &arguments.keys)
        .with("accounts", &accounts)
        .with("schema", &arguments.schema)
        .with("seconds", &load::rounded(outcome.span.as_secs_f64()))
        .with("eventsPerSecond", &outcome.events_per_second())
        .and(outcome.tally.latencies.fields())
        .and(outcome.errors())
}

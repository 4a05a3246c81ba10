//! Commands of a user, and the way from a command to an exit code.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use fanfare_client::{Client, Options};

use crate::{
    bench,
    context::{self, SavedConnection},
    dead_letter, event, event_type,
    failure::Failure,
    listen,
    output::{Format, Output},
    publish, schema, sink, subscription,
};

/// Commands that talk to a node. The binary adds those that run one.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Publish events: one from the command line or a file, or one per line of stdin
    Publish(publish::PublishArguments),
    /// Show new events, or forward them to a server under development
    Listen(listen::ListenArguments),
    /// Follow or find events
    #[command(subcommand)]
    Event(event::EventCommand),
    /// Event types: what producers publish and subscriptions choose
    #[command(subcommand)]
    Type(event_type::EventTypeCommand),
    /// JSON Schemas and their versions
    #[command(subcommand)]
    Schema(schema::SchemaCommand),
    /// Sinks: where events are delivered to
    #[command(subcommand)]
    Sink(sink::SinkCommand),
    /// Subscriptions: which event types go to which sink
    #[command(subcommand, alias = "sub")]
    Subscription(subscription::SubscriptionCommand),
    /// Dead letters: events that a subscription could not deliver
    #[command(subcommand, alias = "dlq")]
    Deadletter(dead_letter::DeadLetterCommand),
    /// Measure a node under load
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub struct GlobalOptions {
    /// Address of a node [env: FANFARE_ADDR] [default: the context's, else http://127.0.0.1:7070]
    #[arg(long, global = true, value_name = "URL")]
    pub addr: Option<String>,
    /// API key [env: FANFARE_KEY] [default: the context's]
    #[arg(long, global = true, value_name = "KEY", hide_default_value = true)]
    pub key: Option<String>,
    /// How to print data
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Longest wait for one answer
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout_seconds: u64,
}

/// Everything that a command works with.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: SavedConnection,
    pub(crate) output: Output,
    pub(crate) timeout: Duration,
}

impl Session {
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        self.connect_as(self.connection.key.clone()).await
    }

    pub(crate) async fn connect_as(&self, key: Option<String>) -> Result<Client, Failure> {
        let options = Options { addr: self.connection.addr.clone(), key, timeout: self.timeout };
        Client::connect(options).await.map_err(Failure::from_connect)
    }
}

/// Runs one command to its end. Errors are printed to stderr, the last line being what to do next.
pub async fn run(command: Command, global: GlobalOptions) -> ExitCode {
    let output = Output::new(global.output);
    let outcome = match session(&global, output) {
        Ok(session) => dispatch(command, &session).await,
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(global.output),
    }
}

fn session(global: &GlobalOptions, output: Output) -> Result<Session, Failure> {
    let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let connection = context::resolve(global.addr.as_deref(), global.key.as_deref(), environment)
        .map_err(|error| Failure::from_context(&error))?;
    Ok(Session { connection, output, timeout: Duration::from_secs(global.timeout_seconds) })
}

async fn dispatch(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Publish(arguments) => Box::pin(publish::run(arguments, session)).await,
        Command::Listen(arguments) => Box::pin(listen::run(arguments, session)).await,
        Command::Event(command) => event::run(command, session).await,
        Command::Type(command) => event_type::run(command, session).await,
        Command::Schema(command) => schema::run(command, session).await,
        Command::Sink(command) => sink::run(command, session).await,
        Command::Subscription(command) => subscription::run(command, session).await,
        Command::Deadletter(command) => dead_letter::run(command, session).await,
        Command::Bench(command) => bench::run(command, session).await,
    }
}

#[cfg(test)]
mod tests;

//! Commands of a user, and the way from a command to an exit code.

use std::process::ExitCode;

use clap::Subcommand;

use crate::{
    bench, context_command, dead_letter, event, event_type,
    failure::Failure,
    listen,
    output::Output,
    page::Limit,
    publish, schema,
    session::{GlobalOptions, Session},
    sink, status, subscription,
};

/// Commands of a client. The binary adds those that run a node.
#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(flatten)]
    Node(NodeCommand),
    /// Saved nodes and keys, and which of them commands use
    #[command(subcommand)]
    Context(context_command::ContextCommand),
}

/// Commands that talk to a node.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Every subscription on one screen: its state, what waits, and how long until something is lost
    Status(Limit),
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

/// Runs one command to its end. Errors are printed to stderr, the last line being what to do next.
pub async fn run(command: Command, global: GlobalOptions) -> ExitCode {
    let output = Output::new(global.output);
    let outcome = match command {
        // It repairs the saved contexts, so it must not need one.
        Command::Context(command) => context_command::run(command, &global, output),
        Command::Node(command) => match Session::open(&global, output) {
            Ok(session) => dispatch(command, &session).await,
            Err(failure) => Err(failure),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(global.output),
    }
}

async fn dispatch(command: NodeCommand, session: &Session) -> Result<(), Failure> {
    match command {
        NodeCommand::Status(limit) => status::run(&limit, session).await,
        NodeCommand::Publish(arguments) => Box::pin(publish::run(arguments, session)).await,
        NodeCommand::Listen(arguments) => Box::pin(listen::run(arguments, session)).await,
        NodeCommand::Event(command) => event::run(command, session).await,
        NodeCommand::Type(command) => event_type::run(command, session).await,
        NodeCommand::Schema(command) => schema::run(command, session).await,
        NodeCommand::Sink(command) => sink::run(command, session).await,
        NodeCommand::Subscription(command) => subscription::run(command, session).await,
        NodeCommand::Deadletter(command) => dead_letter::run(command, session).await,
        NodeCommand::Bench(command) => bench::run(command, session).await,
    }
}

#[cfg(test)]
mod tests;

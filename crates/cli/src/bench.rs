//! `fanfare bench`: the load generator. Every run is bounded in time and in events.

mod catch_up;
mod deliver;
mod fixture;
mod latency;
mod ledger;
mod load;
mod pacer;
mod payload;
mod pool;
mod producer;
mod publish;
mod receiver;
mod side;

use clap::Subcommand;

use crate::{command::Session, failure::Failure};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Publish as fast as events are committed, or at a rate; measures commits
    Publish(publish::Arguments),
    /// Publish to a webhook sink served by this process; measures publish to delivery
    Deliver(deliver::Arguments),
    /// Let a subscription with a backlog catch up; measures what the others feel of it
    CatchUp(catch_up::Arguments),
}

pub(crate) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Publish(arguments) => Box::pin(publish::run(arguments, session)).await,
        Command::Deliver(arguments) => Box::pin(deliver::run(arguments, session)).await,
        Command::CatchUp(arguments) => Box::pin(catch_up::run(arguments, session)).await,
    }
}

//! `fanfare bench`: the load generator. Every run is bounded in time and in events.

mod catch_up;
mod deliver;
mod delivery_run;
mod event_pool;
mod fixture;
mod latency;
mod ledger;
mod load;
mod pacer;
mod payload;
mod producer;
mod publish;
mod receiver;

use clap::Subcommand;

use crate::{failure::Failure, session::Session};

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Publish as fast as events are committed, or at a rate; measures commits
    Publish(publish::BenchPublishArguments),
    /// Publish to a webhook sink served by this process; measures publish to delivery
    Deliver(deliver::BenchDeliverArguments),
    /// Let a subscription with a backlog catch up; measures what the others feel of it
    CatchUp(catch_up::BenchCatchUpArguments),
}

pub(crate) async fn run(command: BenchCommand, session: &Session) -> Result<(), Failure> {
    match command {
        BenchCommand::Publish(arguments) => Box::pin(publish::run(arguments, session)).await,
        BenchCommand::Deliver(arguments) => Box::pin(deliver::run(arguments, session)).await,
        BenchCommand::CatchUp(arguments) => Box::pin(catch_up::run(arguments, session)).await,
    }
}

//! `fanfare`: the broker and its client in one program.

mod accept_loss;
mod account;
mod config;
mod data_directory;
mod descriptors;
mod dev;
mod disk_watch;
mod first_key;
mod init;
mod node;
mod private_files;
mod secret_file;
mod serve;
mod shutdown;
mod stopped_node;
mod telemetry;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

/// A self-hosted event-streaming broker: publish events, deliver them to sinks, lose none.
#[derive(Debug, Parser)]
#[command(name = "fanfare", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: fanfare_cli::GlobalOptions,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Start a node to try things out: loopback, sample events, a built-in receiver.
    Dev(dev::DevCommand),
    Init(init::InitCommand),
    /// Start a node from its configuration.
    Serve(serve::ServeCommand),
    /// Accounts of a node that is stopped: the tenants that it serves
    #[command(subcommand)]
    Account(account::AccountCommand),
    /// Work on the logs of a node that is stopped.
    Log(accept_loss::LogCommand),
    #[command(flatten)]
    Client(fanfare_cli::Command),
}

#[tokio::main]
async fn main() -> ExitCode {
    abort_on_panic();
    rustls::crypto::ring::default_provider().install_default().expect("the first and only crypto provider");
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Dev(command) => dev::run(command).await,
        Command::Init(command) => init::run(command, arguments.global.output).await,
        Command::Serve(command) => serve::run(command).await,
        Command::Account(command) => account::run(command, arguments.global.output).await,
        Command::Log(command) => accept_loss::run(command).await,
        Command::Client(command) => return fanfare_cli::run(command, arguments.global).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if terminal::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::say(&format!("fanfare: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// A task that dies alone looks like one that hangs. The release aborts by its profile; other builds do the same, so that
/// their tests show what the release does.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

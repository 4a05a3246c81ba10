//! `fanfare serve`: a node from its configuration.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::{
    config::{self, Config},
    data_directory,
    node::Node,
    private_files, shutdown, telemetry, terminal,
};

/// Starts the node that `fanfare init` founded.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeCommand {
    /// Configuration file (TOML); see deploy/config.example.toml for every key.
    #[arg(long, env = "FANFARE_CONFIG")]
    config: Option<PathBuf>,
    /// Overrides node.data_dir.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Overrides listen.grpc.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Read and check the configuration, print it with all defaults, and stop.
    #[arg(long)]
    check: bool,
}

/// Runs until SIGINT or SIGTERM, then stops in order.
///
/// # Errors
/// If the configuration is wrong, no node was founded in the directory, or it cannot start.
pub(crate) async fn run(command: ServeCommand) -> anyhow::Result<()> {
    let config = configuration(command.config.as_deref(), command.data_dir, command.listen)?;
    if command.check {
        return Ok(terminal::print(toml::to_string(&config)?.trim_end())?);
    }
    private_files::restrict_umask();
    telemetry::install(&config.telemetry)?;
    data_directory::check_founded(&config)?;
    let (egress, data_dir) = (config.egress_policy(), config.node.data_dir.clone());
    let node = Node::start(config, egress).await?;
    if let Err(incomplete) = data_directory::check_complete(&data_dir, node.catalog.view().accounts.len()) {
        node.shutdown().await;
        return Err(incomplete);
    }
    tracing::info!(grpc = %node.grpc, data_dir = %data_dir.display(), version = env!("CARGO_PKG_VERSION"), "ready");
    shutdown::requested().await;
    node.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

/// The configuration as file, environment and command line make it.
///
/// # Errors
/// If it is wrong.
pub(crate) fn configuration(
    file: Option<&Path>,
    data_dir: Option<PathBuf>,
    listen: Option<SocketAddr>,
) -> anyhow::Result<Config> {
    let overrides = [
        data_dir.map(|path| ("FANFARE_NODE__DATA_DIR".to_owned(), path.display().to_string())),
        listen.map(|address| ("FANFARE_LISTEN__GRPC".to_owned(), address.to_string())),
    ];
    let settings = std::env::vars().chain(overrides.into_iter().flatten());
    Ok(config::load(file, settings)?)
}

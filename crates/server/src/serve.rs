//! `fanfare serve`: a node from its configuration.

use std::{net::SocketAddr, path::PathBuf};

use crate::{config, first_key, node::Node, shutdown, telemetry};

/// Starts a node.
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
/// If the configuration is wrong or the node cannot start.
pub(crate) async fn run(command: ServeCommand) -> anyhow::Result<()> {
    let overrides = [
        command.data_dir.map(|path| ("FANFARE_NODE__DATA_DIR".to_owned(), path.display().to_string())),
        command.listen.map(|address| ("FANFARE_LISTEN__GRPC".to_owned(), address.to_string())),
    ];
    let settings = std::env::vars().chain(overrides.into_iter().flatten());
    let config = config::load(command.config.as_deref(), settings)?;
    if command.check {
        print!("{}", toml::to_string(&config)?);
        return Ok(());
    }
    telemetry::install(&config.telemetry)?;
    let (egress, data_dir) = (config.egress_policy(), config.node.data_dir.clone());
    let node = Node::start(config, egress).await?;
    first_key::ensure(&node.catalog, "default", &data_dir.join("first-key")).await?;
    tracing::info!(grpc = %node.grpc, data_dir = %data_dir.display(), version = env!("CARGO_PKG_VERSION"), "ready");
    shutdown::requested().await;
    node.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

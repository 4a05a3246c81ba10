//! `fanfare account`: more tenants. An operator's command on the data directory of a node that is stopped, because
//! an API key speaks for one tenant alone and must not make others.

use std::{path::PathBuf, sync::Arc};

use fanfare_catalog::{Account, NewKey};
use fanfare_cli::Format;
use fanfare_environment::Environment;
use fanfare_log::Store;
use fanfare_raft::Host;

use crate::{config::Config, data_directory, node, serve, stopped_node, terminal};

/// Account commands of an operator.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum AccountCommand {
    /// Make an account and print its API key, once; the node must be stopped
    Create(CreateAccountCommand),
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateAccountCommand {
    /// Name of the account.
    name: String,
    /// Configuration file (TOML) of the node.
    #[arg(long, env = "FANFARE_CONFIG")]
    config: Option<PathBuf>,
    /// Overrides node.data_dir.
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

/// Runs the command to its end.
///
/// # Errors
/// If the configuration is wrong or not the node's, there is no data directory, a node uses it, or the catalog does not
/// take the change.
pub(crate) async fn run(command: AccountCommand, format: Format) -> anyhow::Result<()> {
    let AccountCommand::Create(CreateAccountCommand { name, config, data_dir }) = command;
    let config = serve::configuration(config.as_deref(), data_dir, None)?;
    let (account, key) = create(&config, &name).await?;
    match format {
        Format::Table => {
            terminal::print(&format!("account  {}\nkey      {}", account.id, key.text.expose()))?;
        }
        Format::Json => {
            let made = serde_json::json!({ "account": account.id.to_string(), "key": key.text.expose() });
            terminal::print(&made.to_string())?;
        }
    }
    Ok(())
}

async fn create(config: &Config, name: &str) -> anyhow::Result<(Arc<Account>, NewKey)> {
    anyhow::ensure!(!name.trim().is_empty(), "the account needs a name");
    let store = stopped_node::open(config)?;
    let made = make(config, name, &store).await;
    tokio::task::spawn_blocking(move || store.close()).await?;
    made
}

async fn make(config: &Config, name: &str, store: &Store) -> anyhow::Result<(Arc<Account>, NewKey)> {
    check_partitions(config)?;
    let host = Host::without_peers(store.clone(), Environment::system());
    let catalog = node::open_catalog(config, &host).await?;
    let made = async {
        let account = catalog.create_account(name).await?;
        let key = catalog.create_key(account.id, "").await?;
        Ok((account, key))
    };
    let made = made.await;
    catalog.shutdown().await;
    made
}

/// The account is given one of the configured partitions; one that the node does not have would take no event, ever.
fn check_partitions(config: &Config) -> anyhow::Result<()> {
    let configured = config.publish.partitions;
    let made = data_directory::partitions_on_disk(&config.node.data_dir)?;
    anyhow::ensure!(
        made == configured,
        "publish.partitions is {configured}, but the node has {made}: give its configuration with --config, and start \
         it once after a change"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use fanfare_sinks::EgressPolicy;

    use super::*;
    use crate::{config::ByteSize, node::Node};

    #[tokio::test]
    async fn an_account_is_made_while_the_node_is_stopped_and_its_key_is_good_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.node.data_dir = folder.path().join("data");
        config.listen.grpc = ([127, 0, 0, 1], 0).into();
        config.storage.segment_bytes = ByteSize::mib(1);
        config.storage.retention_bytes = ByteSize::mib(64);
        config.storage.dead_letter_retention_bytes = ByteSize(1 << 30);
        config.storage.pool_segments_max = 1;
        config.publish.partitions = 1;
        let start = || Node::start(config.clone(), EgressPolicy::default());

        let missing = create(&config, "acme").await.map(drop).unwrap_err().to_string();
        assert!(missing.contains("--data-dir") && !config.node.data_dir.exists(), "{missing}");
        let node = start().await.unwrap();
        let running = create(&config, "acme").await.map(drop).unwrap_err().to_string();
        assert!(running.contains("in use by another process: stop it"), "{running}");
        node.shutdown().await;
        assert!(create(&config, " ").await.is_err(), "a name is needed");
        for partitions in [2, 12] {
            let mut other = config.clone();
            other.publish.partitions = partitions;
            let other = create(&other, "acme").await.map(drop).unwrap_err().to_string();
            assert!(other.contains("the node has 1") && other.contains("--config"), "{other}");
        }
        let made = [create(&config, "acme").await.unwrap(), create(&config, "other").await.unwrap()];
        let node = start().await.unwrap();
        for (account, key) in made {
            let tenant = node.catalog.authenticate(key.text.expose()).expect("the key is known");
            assert_eq!(tenant.account(), account.id);
        }
        node.shutdown().await;
    }
}

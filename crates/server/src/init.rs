//! `fanfare init`: founds a single node in an empty directory, with an account and its first key.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use fanfare_catalog::Account;
use fanfare_cli::Format;
use fanfare_environment::Environment;
use fanfare_log::Store;
use fanfare_model::Secret;
use fanfare_raft::Host;

use crate::{
    config::Config,
    data_directory::{self, Contents},
    first_key, node, private_files, serve, terminal,
};

/// File of the first account's key, in the data directory.
pub(crate) const KEY_FILE: &str = "first-key";

/// Found a single node: its data directory, its identity, its first account and key
///
/// The directory must be missing or empty. A founding that was interrupted is brought to its end by a repeat. The key is
/// printed, and kept in the file first-key of the data directory, which can be removed once the key is safe elsewhere.
#[derive(Debug, clap::Args)]
pub(crate) struct InitCommand {
    /// Configuration file (TOML) of the node.
    #[arg(long, env = "FANFARE_CONFIG")]
    config: Option<PathBuf>,
    /// Overrides node.data_dir.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Name of the first account.
    #[arg(long, default_value = "default")]
    account: String,
}

/// A founded node's first account.
struct Founded {
    account: Arc<Account>,
    key: Secret,
}

/// Runs the command to its end.
///
/// # Errors
/// If the configuration is wrong, the directory is not empty, or it cannot be written.
pub(crate) async fn run(command: InitCommand, format: Format) -> anyhow::Result<()> {
    let config = serve::configuration(command.config.as_deref(), command.data_dir, None)?;
    private_files::restrict_umask();
    let founded = found(&config, &command.account).await?;
    let (directory, account) = (config.node.data_dir.display().to_string(), founded.account.id.to_string());
    let key = founded.key.expose();
    match format {
        Format::Table => {
            terminal::print(&format!(
                "data directory  {directory}\naccount         {account}\nkey             {key}"
            ))?;
            terminal::say(&format!(
                "the key is kept in {directory}/{KEY_FILE} too\nnext: fanfare serve, with the same configuration"
            ));
        }
        Format::Json => {
            let line = serde_json::json!({ "dataDirectory": directory, "account": account, "key": key });
            terminal::print(&line.to_string())?;
        }
    }
    Ok(())
}

async fn found(config: &Config, name: &str) -> anyhow::Result<Founded> {
    let directory = &config.node.data_dir;
    data_directory::check_not_foreign(directory)?;
    let known = data_directory::contents(directory)? == Contents::Node;
    let store = node::open_store(config)?;
    let founded = first_account(config, name, &store).await;
    tokio::task::spawn_blocking(move || store.close()).await?;
    founded?.with_context(|| {
        let is = if known { "is a node's directory already" } else { "was founded meanwhile" };
        format!("{} {is}: nothing was changed; start the node with `fanfare serve`", directory.display())
    })
}

/// None if there is an account already.
async fn first_account(config: &Config, name: &str, store: &Store) -> anyhow::Result<Option<Founded>> {
    let host = Host::without_peers(store.clone(), Environment::system());
    let catalog = node::open_catalog(config, &host).await?;
    let founded = async {
        if !catalog.view().accounts.is_empty() {
            return Ok(None);
        }
        let file = config.node.data_dir.join(KEY_FILE);
        let founded = first_key::ensure(&catalog, name, &file).await?;
        Ok(founded.map(|(account, key)| Founded { account, key }))
    };
    let founded = founded.await;
    catalog.shutdown().await;
    founded
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn config(folder: &Path) -> Config {
        let mut config = Config::default();
        config.node.data_dir = folder.join("data");
        config
    }

    #[tokio::test]
    async fn a_node_is_founded_once_and_its_key_is_good() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        assert!(found(&config, "a name with blanks ").await.is_err(), "the account's name is checked");
        // The failure left a directory without an account, which the next founding brings to its end.
        let founded = found(&config, "acme").await.unwrap();
        let kept = fs::read_to_string(config.node.data_dir.join(KEY_FILE)).unwrap();
        assert_eq!(kept.trim(), founded.key.expose());

        let again = found(&config, "acme").await.map(drop).unwrap_err().to_string();
        assert!(again.contains("already") && again.contains("fanfare serve"), "{again}");
        assert_eq!(fs::read_to_string(config.node.data_dir.join(KEY_FILE)).unwrap(), kept, "the key stays");

        let store = node::open_store(&config).unwrap();
        let host = Host::without_peers(store.clone(), Environment::system());
        let catalog = node::open_catalog(&config, &host).await.unwrap();
        let tenant = catalog.authenticate(founded.key.expose()).expect("the key is known");
        assert_eq!(tenant.account(), founded.account.id);
        catalog.shutdown().await;
        tokio::task::spawn_blocking(move || store.close()).await.unwrap();
    }

    #[tokio::test]
    async fn files_of_others_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        fs::create_dir(&config.node.data_dir).unwrap();
        fs::write(config.node.data_dir.join("thesis.txt"), "mine").unwrap();
        let refused = found(&config, "acme").await.map(drop).unwrap_err().to_string();
        assert!(refused.contains("thesis.txt"), "{refused}");
        assert_eq!(fs::read_dir(&config.node.data_dir).unwrap().count(), 1);
    }
}

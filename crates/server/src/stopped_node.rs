//! The data directory of a node that is stopped, for what an operator does with it meanwhile.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, ensure};
use fanfare_log::Store;
use rustix::process::geteuid;

use crate::{config::Config, node, private_files};

/// Opens the data directory that the configuration names, as its owner.
///
/// # Errors
/// If it is none, is in use, belongs to another user, or cannot be opened. The text says which.
pub(crate) fn open(config: &Config) -> anyhow::Result<Store> {
    let directory = &config.node.data_dir;
    let identity = directory.join("identity");
    ensure!(
        identity.exists(),
        "{} is not a data directory: found a node there with `fanfare init`, or name another with --data-dir",
        directory.display()
    );
    let metadata = fs::metadata(&identity).with_context(|| format!("look at {}", identity.display()))?;
    check_user(directory, metadata.uid(), geteuid().as_raw())?;
    private_files::restrict_umask();
    node::open_store(config)
}

/// Refuses another user than the owner: the node could not open files of that user.
fn check_user(directory: &Path, owner: u32, user: u32) -> anyhow::Result<()> {
    ensure!(
        owner == user,
        "{} belongs to the user with id {owner}, and this is the user with id {user}, whose files the node could not \
         read: run this command as the user with id {owner}, such as with sudo -u '#{owner}'",
        directory.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_user_than_the_owner_is_told_whom_to_run_as() {
        let directory = Path::new("/var/lib/fanfare");
        check_user(directory, 65532, 65532).unwrap();
        for user in [0, 1000] {
            let refused = check_user(directory, 65532, user).unwrap_err().to_string();
            assert!(
                refused.contains("sudo -u '#65532'") && refused.contains("/var/lib/fanfare"),
                "{refused}"
            );
        }
    }
}

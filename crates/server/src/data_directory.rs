//! The data directory before it is opened: whose it is, and whether it fits the configuration.
//!
//! A node never founds itself by serving. A volume that is not mounted or a path with a typo looks like an empty
//! directory, and a new broker in its place would answer every client that its key is not valid.

use std::{fs, io, path::Path};

use anyhow::{Context, ensure};
use fanfare_catalog::View;
use fanfare_model::{PartitionId, Stream};
use fanfare_partition::log_name;

use crate::config::Config;

/// Written last when a directory is made, so that a directory with it is whole.
const IDENTITY: &str = "identity";
/// Names that a founding that did not come to its end may have left, and those that file systems and images bring.
const UNFINISHED: [&str; 11] = [
    "LOCK",
    "journal",
    "identity",
    "logs",
    "pool",
    "files",
    "catalog",
    "first-key",
    "dev-key",
    "lost+found",
    ".keep",
];
/// Endings of files that are written to take another's place.
const TEMPORARY: [&str; 2] = [".new", ".tmp"];

/// Contents of a path that is to be a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// Nothing, or the remains of a founding that was interrupted.
    Empty,
    /// A data directory.
    Node,
    /// A file that is not ours, and no identity.
    Foreign { name: String },
}

/// # Errors
/// If the directory cannot be listed.
pub(crate) fn contents(directory: &Path) -> anyhow::Result<Contents> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::Empty),
        Err(error) => return Err(error).with_context(|| format!("list {}", directory.display())),
    };
    let mut foreign = None;
    for entry in entries {
        let name = entry.with_context(|| format!("list {}", directory.display()))?.file_name();
        let name = name.to_string_lossy();
        if name == IDENTITY {
            return Ok(Contents::Node);
        }
        let stem = TEMPORARY.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
        if !UNFINISHED.contains(&stem) {
            foreign = Some(name.into_owned());
        }
    }
    Ok(foreign.map_or(Contents::Empty, |name| Contents::Foreign { name }))
}

/// # Errors
/// If no node was founded in the directory of the configuration, or its number of partitions would shrink.
pub(crate) fn check_founded(config: &Config) -> anyhow::Result<()> {
    let directory = &config.node.data_dir;
    match contents(directory)? {
        Contents::Node => check_partitions(config.publish.partitions, partitions_on_disk(directory)?),
        Contents::Empty => anyhow::bail!(
            "node.data_dir = {directory}: there is no node; mount its volume or correct the path, or found a new node \
             with `fanfare init --data-dir {directory}`",
            directory = directory.display()
        ),
        Contents::Foreign { name } => Err(foreign(directory, &name)),
    }
}

/// # Errors
/// If the node has no account yet: its founding was interrupted.
pub(crate) fn check_complete(directory: &Path, accounts: usize) -> anyhow::Result<()> {
    ensure!(
        accounts > 0,
        "{directory} was founded and has no account yet: bring that to its end with `fanfare init --data-dir {directory}`",
        directory = directory.display()
    );
    Ok(())
}

/// # Errors
/// If the directory holds files of others.
pub(crate) fn check_not_foreign(directory: &Path) -> anyhow::Result<()> {
    match contents(directory)? {
        Contents::Node | Contents::Empty => Ok(()),
        Contents::Foreign { name } => Err(foreign(directory, &name)),
    }
}

fn foreign(directory: &Path, name: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "{} is no data directory and holds {name:?}, which is not Fanfare's: nothing was written; name another \
         directory with --data-dir",
        directory.display()
    )
}

/// # Errors
/// If `configured` is lower than what the catalog has placed or given to an account.
pub(crate) fn check_catalog(configured: u16, view: &View) -> anyhow::Result<()> {
    let placed = view.cluster.replicas.iter().map(|replica| replica.partition);
    let placed =
        placed.filter(|partition| partition.stream == Stream::Events).map(|partition| partition.index);
    let shards = view.accounts.values().flat_map(|account| account.account.shard.partitions.iter().copied());
    check_partitions(configured, placed.chain(shards).max().map_or(0, |last| last + 1))
}

/// Number of partitions of `events` that the directory has logs for: one more than the highest of them.
///
/// # Errors
/// If the logs cannot be listed.
pub(crate) fn partitions_on_disk(directory: &Path) -> anyhow::Result<u16> {
    let logs = directory.join("logs");
    let entries = match fs::read_dir(&logs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error).with_context(|| format!("list {}", logs.display())),
    };
    let first = log_name(PartitionId::events(0));
    let prefix = first.strip_suffix('0').expect("the name of a log ends in its partition's number");
    let mut partitions = 0;
    for entry in entries {
        let name = entry.with_context(|| format!("list {}", logs.display()))?.file_name();
        let index = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse::<u16>().ok());
        partitions = partitions.max(index.map_or(0, |index| index.saturating_add(1)));
    }
    Ok(partitions)
}

/// Partitions that are not configured would be kept and neither led nor shown: their events would look lost.
fn check_partitions(configured: u16, known: u16) -> anyhow::Result<()> {
    ensure!(
        known <= configured,
        "publish.partitions is {configured}, and the node has {known}: partitions may be added and never taken away; \
         set publish.partitions = {known}, or give the node's own configuration with --config"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directory: &Path, partitions: u16) -> Config {
        let mut config = Config::default();
        config.node.data_dir = directory.to_owned();
        config.publish.partitions = partitions;
        config
    }

    #[test]
    fn only_a_directory_with_an_identity_is_served() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("data");
        let refused = |expected: &str| {
            let error = check_founded(&config(&directory, 1)).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("data"), "{error}");
        };
        refused("fanfare init --data-dir");
        assert!(!directory.exists(), "a refusal makes nothing");
        fs::create_dir(&directory).unwrap();
        refused("fanfare init --data-dir");
        fs::create_dir(directory.join("lost+found")).unwrap();
        fs::create_dir(directory.join("logs")).unwrap();
        refused("fanfare init --data-dir");
        fs::write(directory.join("holiday.jpg"), "").unwrap();
        refused("holiday.jpg");
        assert!(check_not_foreign(&directory).is_err());
        fs::write(directory.join("identity"), "").unwrap();
        check_founded(&config(&directory, 1)).expect("a data directory, whatever else lies there");
    }

    #[test]
    fn fewer_partitions_than_the_directory_has_are_refused_with_both_numbers() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("identity"), "").unwrap();
        for index in [0, 1, 9, 11] {
            fs::create_dir_all(folder.path().join("logs").join(log_name(PartitionId::events(index))))
                .unwrap();
        }
        fs::create_dir_all(folder.path().join("logs/dead-letters-40")).unwrap();
        for enough in [12, 13] {
            check_founded(&config(folder.path(), enough)).unwrap();
        }
        let error = check_founded(&config(folder.path(), 11)).unwrap_err().to_string();
        assert!(error.contains("publish.partitions is 11") && error.contains("the node has 12"), "{error}");
    }
}

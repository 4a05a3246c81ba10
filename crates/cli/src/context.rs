//! Which node to talk to and as whom: flags, then environment, then the context file that
//! `fanfare dev` writes.
//!
//! The file holds a key and is readable by its owner alone. Its key is sent to its address only.

use std::{
    fmt, fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// Default address of a node.
pub const DEFAULT_ADDR: &str = "http://127.0.0.1:7070";

/// A resolved address and key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SavedConnection {
    pub(crate) addr: String,
    pub(crate) key: Option<String>,
    /// The folder of the context file, for what else belongs to this context; none without a home.
    pub(crate) directory: Option<PathBuf>,
}

impl fmt::Debug for SavedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.as_ref().map(|_| "…");
        f.debug_struct("SavedConnection").field("addr", &self.addr).field("key", &key).finish_non_exhaustive()
    }
}

/// Reasons why a context file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContextError {
    #[error("read context file {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("parse context file {path}")]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
}

impl ContextError {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Read { path, .. } | Self::Parse { path, .. } => path,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContextFile {
    addr: String,
    key: String,
}

/// `FANFARE_CONTEXT_FILE`, else `fanfare/context.toml` under `XDG_CONFIG_HOME` or `~/.config`; none
/// if no home directory is known.
#[must_use]
pub fn default_path() -> Option<PathBuf> {
    path_from(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

/// Replaces the context file atomically, readable by its owner alone; makes the folder if needed.
pub fn write(path: &Path, addr: &str, key: &str) -> io::Result<()> {
    // A JSON string is a TOML basic string.
    let text = format!("addr = {}\nkey = {}\n", serde_json::to_string(addr)?, serde_json::to_string(key)?);
    write_private(path, text.as_bytes())
}

/// Replaces a file atomically, readable by its owner alone; makes the folder if needed.
pub(crate) fn write_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(directory) = directory {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let staged = path.with_extension(format!("{}.new", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&staged)
        .and_then(|mut file| file.write_all(contents))
        .and_then(|()| fs::rename(&staged, path));
    if written.is_err() {
        drop(fs::remove_file(&staged));
    }
    written
}

/// The connection that flags, environment and context file give, in this order.
pub(crate) fn resolve(
    addr: Option<&str>,
    key: Option<&str>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<SavedConnection, ContextError> {
    let addr = addr.map(str::to_owned).or_else(|| environment("FANFARE_ADDR"));
    let key = key.map(str::to_owned).or_else(|| environment("FANFARE_KEY"));
    let path = path_from(&environment);
    let directory = path.as_deref().and_then(Path::parent).map(Path::to_owned);
    if let (Some(addr), Some(key)) = (&addr, &key) {
        return Ok(SavedConnection { addr: addr.clone(), key: Some(key.clone()), directory });
    }
    let file = match &path {
        Some(path) => read(path)?,
        None => None,
    };
    let Some(file) = file else {
        return Ok(SavedConnection { addr: addr.unwrap_or_else(|| DEFAULT_ADDR.to_owned()), key, directory });
    };
    let same_node = addr.as_deref().is_none_or(|addr| same_address(addr, &file.addr));
    let key = key.or_else(|| same_node.then_some(file.key));
    Ok(SavedConnection { addr: addr.unwrap_or(file.addr), key, directory })
}

fn path_from(environment: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if let Some(path) = environment("FANFARE_CONTEXT_FILE") {
        return Some(path.into());
    }
    let base = environment("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| environment("HOME").map(|home| PathBuf::from(home).join(".config")))?;
    Some(base.join("fanfare").join("context.toml"))
}

fn read(path: &Path) -> Result<Option<ContextFile>, ContextError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ContextError::Read { path: path.to_owned(), source }),
    };
    toml::from_str(&text)
        .map(Some)
        .map_err(|source| ContextError::Parse { path: path.to_owned(), source: Box::new(source) })
}

fn same_address(left: &str, right: &str) -> bool {
    let bare = |address: &str| address.trim_start_matches("http://").trim_end_matches('/').to_owned();
    bare(left) == bare(right)
}

#[cfg(test)]
mod tests;

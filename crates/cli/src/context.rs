//! Which node to talk to and as whom: flags, then environment, then the selected context of the context file.
//!
//! The file holds keys and is readable by its owner alone. A key is sent to its context's address only.

mod file;

use std::{
    fmt,
    path::{Path, PathBuf},
};

pub use file::save;
pub(crate) use file::{Context, ContextError, change, check_name, read, write_private};

/// Default address of a node.
pub const DEFAULT_ADDR: &str = "http://127.0.0.1:7070";

/// A resolved address and key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SavedConnection {
    pub(crate) addr: String,
    pub(crate) key: Option<String>,
    /// The folder of the context file, for what else belongs to this user; none without a home.
    pub(crate) directory: Option<PathBuf>,
}

impl fmt::Debug for SavedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.as_ref().map(|_| "…");
        f.debug_struct("SavedConnection").field("addr", &self.addr).field("key", &key).finish_non_exhaustive()
    }
}

/// The parts of a connection that the command line names.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NamedConnection<'a> {
    pub(crate) context: Option<&'a str>,
    pub(crate) addr: Option<&'a str>,
    pub(crate) key: Option<&'a str>,
}

/// `FANFARE_CONTEXT_FILE`, else `fanfare/context.toml` under `XDG_CONFIG_HOME` or `~/.config`; none
/// if no home directory is known.
#[must_use]
pub fn default_path() -> Option<PathBuf> {
    path_from(environment)
}

/// A variable of the environment that is not empty.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The connection that flags, environment and context give, in this order. A context that a flag names comes before the
/// environment's address and key.
pub(crate) fn resolve(
    named: NamedConnection<'_>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<SavedConnection, ContextError> {
    let variable = |name| if named.context.is_some() { None } else { environment(name) };
    let addr = named.addr.map(str::to_owned).or_else(|| variable("FANFARE_ADDR"));
    let key = named.key.map(str::to_owned).or_else(|| variable("FANFARE_KEY"));
    let path = path_from(&environment);
    let directory = path.as_deref().and_then(Path::parent).map(Path::to_owned);
    if let (Some(addr), Some(key)) = (&addr, &key) {
        return Ok(SavedConnection { addr: addr.clone(), key: Some(key.clone()), directory });
    }
    let name = named.context.map(str::to_owned).or_else(|| environment("FANFARE_CONTEXT"));
    let Some(context) = chosen(path.as_deref(), name)? else {
        return Ok(SavedConnection { addr: addr.unwrap_or_else(|| DEFAULT_ADDR.to_owned()), key, directory });
    };
    let same_node = addr.as_deref().is_none_or(|addr| same_address(addr, &context.addr));
    let key = key.or_else(|| context.key.filter(|_| same_node));
    Ok(SavedConnection { addr: addr.unwrap_or(context.addr), key, directory })
}

/// The context `name`, else the selected one, if there is any.
fn chosen(path: Option<&Path>, name: Option<String>) -> Result<Option<Context>, ContextError> {
    let mut contexts = path.map(read).transpose()?.unwrap_or_default();
    match name.or_else(|| contexts.current.clone()) {
        None => Ok(None),
        Some(name) => match contexts.contexts.remove(&name) {
            Some(context) => Ok(Some(context)),
            None => Err(ContextError::unknown(&name, &contexts)),
        },
    }
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

fn same_address(left: &str, right: &str) -> bool {
    let bare = |address: &str| address.trim_start_matches("http://").trim_end_matches('/').to_owned();
    bare(left) == bare(right)
}

#[cfg(test)]
mod tests;

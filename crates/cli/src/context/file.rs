//! The context file: named addresses and keys, one of them selected.
//!
//! Each change reads the file, changes one context and replaces the file whole, under a lock: two commands at once do
//! not lose each other's key, which may be the only copy.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Name of the context that a file without names holds.
const UNNAMED: &str = "default";
const NAME_BYTES_MAX: usize = 64;

/// Every context of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one that commands use unless they name another.
    pub(crate) current: Option<String>,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// A node and a caller.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    pub(crate) addr: String,
    pub(crate) key: Option<String>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// Reasons why a context cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContextError {
    #[error("no home directory is known, so there is no context file")]
    NoHome,
    #[error("read context file {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("write context file {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("parse context file {path}")]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("there is no context {name:?}; {known}")]
    Unknown { name: String, known: String },
    #[error("there is a context {name:?} already")]
    Exists { name: String },
    #[error("{name:?} is no name of a context: letters, digits, '.', '_' and '-', at most 64")]
    Name { name: String },
}

impl ContextError {
    pub(crate) fn unknown(name: &str, contexts: &Contexts) -> Self {
        let names: Vec<&str> = contexts.contexts.keys().map(String::as_str).collect();
        let known =
            if names.is_empty() { "none is saved".into() } else { format!("saved: {}", names.join(", ")) };
        Self::Unknown { name: name.to_owned(), known }
    }
}

impl Contexts {
    /// The context `name`.
    pub(crate) fn named(&self, name: &str) -> Result<&Context, ContextError> {
        self.contexts.get(name).ok_or_else(|| ContextError::unknown(name, self))
    }
}

/// Saves the context `name`, which is the caller's own to replace. Selects it if none is selected. Gives the name of the
/// selected context.
///
/// # Errors
/// If the file cannot be read or written.
pub fn save(path: &Path, name: &str, addr: &str, key: &str) -> io::Result<String> {
    let context = Context { addr: addr.to_owned(), key: Some(key.to_owned()) };
    let saved = change(path, |contexts| {
        contexts.contexts.insert(name.to_owned(), context);
        Ok(contexts.current.get_or_insert_with(|| name.to_owned()).clone())
    });
    saved.map_err(io::Error::other)
}

/// Changes the file. Nothing is written if `change` refuses.
///
/// # Errors
/// If the file cannot be read or written, or `change` refuses.
pub(crate) fn change<T>(
    path: &Path,
    change: impl FnOnce(&mut Contexts) -> Result<T, ContextError>,
) -> Result<T, ContextError> {
    let failed = |source| ContextError::Write { path: path.to_owned(), source };
    let lock = lock(path).map_err(failed)?;
    let mut contexts = read(path)?;
    let result = change(&mut contexts)?;
    let text = toml::to_string(&contexts).expect("text and options are TOML");
    write_private(path, text.as_bytes()).map_err(failed)?;
    drop(lock);
    Ok(result)
}

/// The contexts of the file; none without one.
pub(crate) fn read(path: &Path) -> Result<Contexts, ContextError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contexts::default()),
        Err(source) => return Err(ContextError::Read { path: path.to_owned(), source }),
    };
    // An older program saved one context, without a name.
    if let Ok(unnamed) = toml::from_str::<Context>(&text) {
        let contexts = BTreeMap::from([(UNNAMED.to_owned(), unnamed)]);
        return Ok(Contexts { current: Some(UNNAMED.to_owned()), contexts });
    }
    toml::from_str(&text)
        .map_err(|source| ContextError::Parse { path: path.to_owned(), source: Box::new(source) })
}

/// # Errors
/// If `name` is not one that a context may have.
pub(crate) fn check_name(name: &str) -> Result<(), ContextError> {
    let allowed = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
        return Err(ContextError::Name { name: name.to_owned() });
    }
    Ok(())
}

/// Held until dropped. The lock is a file of its own, since the context file is replaced.
fn lock(path: &Path) -> io::Result<fs::File> {
    make_folder(path)?;
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.with_extension("lock"))?;
    file.lock()?;
    Ok(file)
}

fn make_folder(path: &Path) -> io::Result<()> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(folder) => fs::DirBuilder::new().recursive(true).mode(0o700).create(folder),
        None => Ok(()),
    }
}

/// Replaces a file atomically, readable by its owner alone; makes the folder if needed.
pub(crate) fn write_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    make_folder(path)?;
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

//! `fanfare context`: the saved nodes and keys, and which of them commands use.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::{
    context::{self, Context, ContextError, check_name},
    failure::Failure,
    output::{Output, OutputFields, OutputRecord},
    session::GlobalOptions,
    terminal::say,
};

#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// List the saved contexts; an asterisk marks the selected one
    List,
    /// Select the context that commands use
    Use {
        /// Name of a saved context
        name: String,
    },
    /// Show a context and where it is saved; the key only if asked for
    Show(ShowContextArguments),
    /// Save a context: --addr URL, and its key by --key-file or --key
    Add(AddContextArguments),
    /// Forget a context and its key
    Remove {
        /// Name of a saved context
        name: String,
    },
}

#[derive(Args, Debug)]
pub struct ShowContextArguments {
    /// Name of a saved context [default: the selected one]
    name: Option<String>,
    /// Print the whole key
    #[arg(long)]
    reveal: bool,
}

#[derive(Args, Debug)]
pub struct AddContextArguments {
    /// Name: letters, digits, '.', '_' and '-'
    name: String,
    /// File that holds the key, which a command line would show to others; - reads it from stdin
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    key_file: Option<PathBuf>,
    /// Overwrite a context of this name
    #[arg(long)]
    replace: bool,
    /// Select it
    #[arg(long)]
    select: bool,
}

/// A context as it is shown.
struct ShownContext {
    name: String,
    selected: bool,
    addr: String,
    /// Whole, or its beginning.
    key: String,
}

impl ShownContext {
    fn new(name: &str, current: Option<&str>, context: &Context) -> Self {
        let key = context.key.as_deref().map(masked).unwrap_or_default();
        Self { name: name.to_owned(), selected: current == Some(name), addr: context.addr.clone(), key }
    }
}

impl OutputRecord for ShownContext {
    const COLUMNS: &'static [&'static str] = &["", "NAME", "ADDRESS", "KEY"];

    fn row(&self) -> Vec<String> {
        let mark = if self.selected { "*" } else { "" };
        vec![mark.to_owned(), self.name.clone(), self.addr.clone(), self.key.clone()]
    }

    fn fields(&self) -> OutputFields {
        OutputFields::new()
            .with("name", &self.name)
            .with("selected", &self.selected)
            .with("addr", &self.addr)
            .with("key", &self.key)
    }
}

pub(crate) fn run(command: ContextCommand, global: &GlobalOptions, output: Output) -> Result<(), Failure> {
    let path = context::default_path().ok_or_else(|| Failure::from_context(&ContextError::NoHome))?;
    match command {
        ContextCommand::List => list(&path, output),
        ContextCommand::Use { name } => select(&path, &name),
        ContextCommand::Show(arguments) => show(&path, &arguments, output),
        ContextCommand::Add(arguments) => add(&path, arguments, global),
        ContextCommand::Remove { name } => remove(&path, &name),
    }
}

fn list(path: &Path, output: Output) -> Result<(), Failure> {
    let saved = context::read(path).map_err(|error| Failure::from_context(&error))?;
    let current = saved.current.as_deref();
    let shown = saved.contexts.iter().map(|(name, context)| ShownContext::new(name, current, context));
    output.list(&shown.collect::<Vec<_>>())
}

fn select(path: &Path, name: &str) -> Result<(), Failure> {
    let selected = context::change(path, |contexts| {
        let addr = contexts.named(name)?.addr.clone();
        contexts.current = Some(name.to_owned());
        Ok(addr)
    });
    let addr = selected.map_err(|error| Failure::from_context(&error))?;
    say(&format!("commands go to {addr} now"));
    Ok(())
}

fn show(path: &Path, arguments: &ShowContextArguments, output: Output) -> Result<(), Failure> {
    let saved = context::read(path).map_err(|error| Failure::from_context(&error))?;
    let name = arguments.name.clone().or_else(|| saved.current.clone()).ok_or_else(|| {
        Failure::usage("no context is selected", "name one, or select one with `fanfare context use NAME`")
    })?;
    let context = saved.named(&name).map_err(|error| Failure::from_context(&error))?;
    let mut shown = ShownContext::new(&name, saved.current.as_deref(), context);
    if let Some(key) = context.key.clone().filter(|_| arguments.reveal) {
        shown.key = key;
    }
    output.fields(shown.fields().with("file", &path.display().to_string()))
}

fn add(path: &Path, arguments: AddContextArguments, global: &GlobalOptions) -> Result<(), Failure> {
    let Some(addr) = global.addr.clone() else {
        return Err(Failure::usage("the context needs an address", "give --addr http://HOST:PORT"));
    };
    let key = match &arguments.key_file {
        Some(file) => Some(read_key(file)?),
        None => global.key.clone(),
    };
    let AddContextArguments { name, replace, select, .. } = arguments;
    let selected = context::change(path, |contexts| {
        check_name(&name)?;
        if !replace && contexts.contexts.contains_key(&name) {
            return Err(ContextError::Exists { name: name.clone() });
        }
        contexts.contexts.insert(name.clone(), Context { addr, key });
        if select || contexts.current.is_none() {
            contexts.current = Some(name.clone());
        }
        Ok(contexts.current.clone().unwrap_or_default())
    });
    match selected.map_err(|error| Failure::from_context(&error))? {
        selected if selected == name => say(&format!("saved {name}; commands use it now")),
        selected => say(&format!(
            "saved {name}; commands still use {selected}: `fanfare context use {name}`, or --context {name}"
        )),
    }
    Ok(())
}

fn remove(path: &Path, name: &str) -> Result<(), Failure> {
    let selected = context::change(path, |contexts| {
        contexts.named(name)?;
        contexts.contexts.remove(name);
        let selected = contexts.current.as_deref() == Some(name);
        contexts.current = contexts.current.take().filter(|current| current != name);
        Ok(selected)
    });
    let selected = selected.map_err(|error| Failure::from_context(&error))?;
    say(&format!("removed {name}{}", if selected { "; no context is selected now" } else { "" }));
    Ok(())
}

fn read_key(file: &Path) -> Result<String, Failure> {
    let read = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    let text = read.map_err(|error| {
        Failure::usage(format!("read the key {}: {error}", file.display()), "name a file that holds the key")
    })?;
    Ok(text.trim().to_owned())
}

/// The beginning of a key, which names it and gives nothing away.
fn masked(key: &str) -> String {
    let shown: String = key.chars().take(19).collect();
    if shown.len() < key.len() { format!("{shown}…") } else { "…".to_owned() }
}

#[cfg(test)]
mod tests;

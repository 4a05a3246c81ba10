//! Operator and developer client, client library and load generator.
//!
//! Talks to a node through its public API alone. Data goes to stdout, everything else to stderr; an
//! error ends with what to do next. The binary `fanfare` runs [`Command`] beside its own commands.

pub mod context;

mod command;
mod failure;
mod output;
mod session;
mod terminal;

mod context_command;

mod bench;
mod listen;
mod publish;

mod dead_letter;
mod event;
mod event_type;
mod schema;
mod sink;
mod status;
mod subscription;

mod age;
mod page;
mod signature;

pub use command::{Command, run};
pub use session::GlobalOptions;
pub use terminal::Format;

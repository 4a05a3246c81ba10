//! The settings and the connection that every command works with.

use std::time::Duration;

use clap::Args;
use fanfare_client::{Client, Options};
use tonic::{Response, Status};

use crate::{
    context::{self, NamedConnection, SavedConnection},
    failure::Failure,
    output::Output,
    terminal::Format,
};

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub struct GlobalOptions {
    /// Saved context that names the node and the key [env: FANFARE_CONTEXT] [default: the selected one]
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Address of a node [env: FANFARE_ADDR] [default: the context's, else http://127.0.0.1:7070]
    #[arg(long, global = true, value_name = "URL")]
    pub addr: Option<String>,
    /// API key [env: FANFARE_KEY] [default: the context's]
    #[arg(long, global = true, value_name = "KEY", hide_default_value = true)]
    pub key: Option<String>,
    /// How to print data
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Longest wait for one answer
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout_seconds: u64,
}

/// Everything that a command works with.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: SavedConnection,
    pub(crate) output: Output,
    pub(crate) timeout: Duration,
}

impl Session {
    /// The connection that the options, the environment or the saved context name; nothing is dialled yet.
    pub(crate) fn open(global: &GlobalOptions, output: Output) -> Result<Self, Failure> {
        let named = NamedConnection {
            context: global.context.as_deref(),
            addr: global.addr.as_deref(),
            key: global.key.as_deref(),
        };
        let connection =
            context::resolve(named, context::environment).map_err(|error| Failure::from_context(&error))?;
        Ok(Self { connection, output, timeout: Duration::from_secs(global.timeout_seconds) })
    }

    /// Sends one request on a connection of its own; a failure says what was attempted.
    pub(crate) async fn call<R>(
        &self,
        attempted: &str,
        send: impl AsyncFnOnce(Client) -> Result<Response<R>, Status>,
    ) -> Result<R, Failure> {
        let answered = send(self.connect().await?).await;
        answered.map(Response::into_inner).map_err(|status| Failure::from_status(attempted, &status))
    }

    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        self.connect_as(self.connection.key.clone()).await
    }

    pub(crate) async fn connect_as(&self, key: Option<String>) -> Result<Client, Failure> {
        let options = Options { addr: self.connection.addr.clone(), key, timeout: self.timeout };
        Client::connect(options).await.map_err(Failure::from_connect)
    }
}

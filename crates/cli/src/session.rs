//! The settings and the connection that every command works with.

use std::{error::Error, time::Duration};

use clap::Args;
use fanfare_client::{Client, Options};
use tonic::{Code, Response, Status};

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

/// Times that a request is sent which is carried out once.
const TRIES_MAX: u32 = 3;

/// True if the connection ended before the answer.
fn is_lost(status: &Status) -> bool {
    status.source().is_some() && matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
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

    /// As [`Self::call`], and again while no answer comes: for requests that are carried out once, however often they
    /// are sent.
    pub(crate) async fn call_again<R>(
        &self,
        attempted: &str,
        send: impl AsyncFn(Client) -> Result<Response<R>, Status>,
    ) -> Result<R, Failure> {
        let mut tries_left = TRIES_MAX - 1;
        loop {
            match send(self.connect().await?).await {
                Err(status) if is_lost(&status) && tries_left > 0 => tries_left -= 1,
                answer => {
                    return answer
                        .map(Response::into_inner)
                        .map_err(|status| Failure::from_status(attempted, &status));
                }
            }
        }
    }

    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        self.connect_as(self.connection.key.clone()).await
    }

    pub(crate) async fn connect_as(&self, key: Option<String>) -> Result<Client, Failure> {
        let options = Options { addr: self.connection.addr.clone(), key, timeout: self.timeout };
        Client::connect(options).await.map_err(Failure::from_connect)
    }
}

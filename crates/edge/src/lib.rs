//! The edge of the node: listener and limits, authentication, permissions, and the protocols of the public API.
//!
//! Protocols are thin: each converts requests to those of `control` and `ingest`, and results and errors back. Errors
//! become [`problem::Problem`]s in one table, which every protocol shares; nothing below this crate knows a status
//! code. Every call passes [`auth`], which denies what [`permission`] does not list.

mod auth;
mod permission;

mod page;
pub mod problem;

mod grpc;
mod listener;

pub use self::{
    grpc::{ServeError, Services, serve},
    listener::{CONNECTION_BYTES_MIN, ListenerLimits},
};

#[cfg(test)]
mod tests;

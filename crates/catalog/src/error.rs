//! Errors of changes to the catalog and of opening it.

use std::{fmt, io, path::PathBuf};

use crate::ViewStoreError;

/// A change was not made, or its outcome is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("{kind} {name} does not exist")]
    NotFound { kind: ObjectKind, name: String },
    #[error("{kind} {name} exists already")]
    Exists { kind: ObjectKind, name: String },
    /// `field` is the API's field path, such as `sink.webhook.destination`.
    #[error("{field}: {problem}")]
    Invalid { field: String, problem: String },
    /// `revision` is the stored one.
    #[error("{kind} {name} was changed by somebody else: read it again")]
    Stale { kind: ObjectKind, name: String, revision: u64 },
    /// The id stands for a request with other arguments.
    #[error("request_id {id} was used for another request: choose a new one")]
    RequestReused { id: String },
    #[error("{kind} {name} is used by {by}")]
    InUse { kind: ObjectKind, name: String, by: String },
    #[error("the account has reached its limit of {limit} {}", .kind.plural())]
    Limit { kind: ObjectKind, limit: u64 },
    /// Not made: a retry is safe.
    #[error("the catalog has no leader here")]
    Unavailable,
    /// Made or not: read before a retry.
    #[error("the outcome is unknown")]
    Unknown,
}

impl ChangeError {
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }
}

/// The kinds of objects in the catalog, as errors name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    Account,
    ApiKey,
    Broker,
    EventType,
    Schema,
    /// Counted in bytes.
    SchemaDocument,
    SchemaVersion,
    Sink,
    Subscription,
}

impl ObjectKind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::ApiKey => "key",
            Self::Broker => "broker",
            Self::EventType => "event type",
            Self::Schema => "schema",
            Self::SchemaDocument => "schema document",
            Self::SchemaVersion => "version of a schema",
            Self::Sink => "sink",
            Self::Subscription => "subscription",
        }
    }

    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Account => "accounts",
            Self::ApiKey => "keys",
            Self::Broker => "brokers",
            Self::EventType => "event types",
            Self::Schema => "schemas",
            Self::SchemaDocument => "bytes of schema documents",
            Self::SchemaVersion => "versions of a schema",
            Self::Sink => "sinks",
            Self::Subscription => "subscriptions",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The catalog does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("open the catalog")]
    Group(#[source] fanfare_raft::OpenError),
    #[error("open the catalog's log")]
    Log(#[source] fanfare_log::OpenError),
    /// The group failed while it started. `reason` names the entry and the remedy; empty if the disk failed, which is
    /// in the node's log.
    #[error("open the catalog: its group failed: {reason}")]
    Failed { reason: String },
    #[error("open the catalog: no leader within {waited_s} s")]
    NoLeader { waited_s: u64 },
    #[error("register this node in the catalog")]
    Join(#[source] ChangeError),
    #[error("open the catalog's view in {}", .directory.display())]
    ViewDirectory {
        directory: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("open the catalog's view in {}", .directory.display())]
    ViewStore {
        directory: PathBuf,
        #[source]
        source: ViewStoreError,
    },
}

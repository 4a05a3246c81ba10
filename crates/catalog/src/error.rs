//! Why the catalog refuses, and why it does not open.

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("{kind} {name} does not exist")]
    NotFound { kind: &'static str, name: String },
    #[error("{kind} {name} exists already")]
    Exists { kind: &'static str, name: String },
    /// `field` is the API's field path, e.g. `sink.webhook.destination`.
    #[error("{field}: {problem}")]
    Invalid { field: String, problem: String },
    /// `revision` is the one stored.
    #[error("{kind} {name} was changed by somebody else: read it again")]
    Stale { kind: &'static str, name: String, revision: u64 },
    #[error("{kind} {name} is used by {by}")]
    InUse { kind: &'static str, name: String, by: String },
    #[error("the account has reached its limit of {limit} {kind}")]
    Limit { kind: &'static str, limit: u64 },
    /// Certainly not made: retry.
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

/// Why the catalog does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("open the catalog")]
    Group(#[source] fanfare_raft::OpenError),
    #[error("open the catalog's log")]
    Log(#[source] fanfare_log::OpenError),
    #[error("open the catalog's store {path}: {message}")]
    Store { path: String, message: String },
}

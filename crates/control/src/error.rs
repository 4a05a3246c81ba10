//! Reasons why a request is not carried out.

use fanfare_catalog::{ChangeError, ObjectKind, json_schema::SchemaProblem};
use fanfare_delivery::{ReadError, RouteError};
use fanfare_model::{RedriveId, SubscriptionId};
use fanfare_sinks::ConfigError;

/// Reason why a request is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Field(#[from] FieldViolation),
    /// The account of the tenant does not exist any more.
    #[error("the account does not exist any more")]
    AccountGone,
    /// A change that the catalog did not make, or an object that it does not have.
    #[error(transparent)]
    Catalog(#[from] ChangeError),
    /// An object that the caller did not read as it is.
    #[error("{kind} {name} was changed by somebody else: read it again")]
    EtagMismatch { kind: ObjectKind, name: String, current: String },
    /// A document that is not a usable schema.
    #[error(transparent)]
    Document(#[from] SchemaProblem),
    /// A sink that could never deliver. The field is relative to the sink.
    #[error(transparent)]
    Sink(#[from] ConfigError),
    #[error("no dead letter {id:?} is kept")]
    DeadLetterUnknown { id: String },
    #[error("no redrive {id} is kept")]
    RedriveUnknown { id: RedriveId },
    #[error("a redrive or purge of subscription {subscription} runs, or too many of the account do")]
    RedriveRefused { subscription: SubscriptionId },
    /// An answer that needs a partition of another node.
    #[error("{0}: retry")]
    NotHere(#[from] RouteError),
    /// Committed data that cannot be read, and what follows from that for the request.
    #[error("{damage} ({consequence})")]
    Damaged { damage: ReadError, consequence: Unreadable },
}

/// One field of a request that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct FieldViolation {
    /// Path in the request, such as `sink.webhook.method`.
    pub field: String,
    /// A phrase that continues the field's name.
    pub problem: String,
}

/// Consequence of committed data that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// The outcomes of a subscription's events cannot be told.
    OutcomesUnknown,
    /// Some dead letters cannot be read.
    DeadLettersUnreadable,
}

impl FieldViolation {
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    pub fn required(field: impl Into<String>) -> Self {
        Self::new(field, "is required")
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::OutcomesUnknown => "what became of its events cannot be told",
            Self::DeadLettersUnreadable => "some dead letters cannot be read",
        })
    }
}

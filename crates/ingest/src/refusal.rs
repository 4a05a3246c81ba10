//! Reasons why an event is not committed; each tells the producer whether to change the event, to wait, or to stop.

use fanfare_catalog::json_schema::{DataProblem, SchemaProblem};
use fanfare_model::Offset;
use fanfare_partition::AppendError;

/// Reason why an event is not committed. Texts are for the producer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{field} {problem}")]
    Invalid { field: String, problem: String },
    #[error(
        "the event has {size_bytes} bytes; at most {limit_bytes} are allowed: send a reference to large data instead"
    )]
    TooLarge { size_bytes: usize, limit_bytes: usize },
    #[error("event type {event_type:?} does not exist in this account: create it first")]
    TypeUnknown { event_type: String },
    #[error("event type {event_type:?} is discontinued and no longer published: use another type")]
    TypeDiscontinued { event_type: String },
    #[error("{problem}")]
    Dataschema { problem: String },
    #[error("{problem} (schema {schema_id} version {version})")]
    Data { schema_id: String, version: u32, problem: DataProblem },
    #[error("schema {schema_id} version {version} cannot be used: {problem}; register a new version")]
    Schema { schema_id: String, version: u32, problem: SchemaProblem },
    #[error(
        "another event with this source and id was committed at partition {partition} offset {offset}: give each event an id of its own"
    )]
    Conflict { partition: u16, offset: Offset },
    /// The node holds as many bytes of unanswered requests as it may.
    #[error("the node is overloaded: retry after the time given")]
    Overloaded,
    /// An earlier event of the same partition on the stream was refused and is to be resent first.
    #[error(
        "an earlier event of this partition on this stream was refused: resend from there with resume = true"
    )]
    Behind,
    #[error("the node is shutting down: retry on another connection")]
    Draining,
    #[error(transparent)]
    Append(AppendError),
}

impl Refusal {
    /// An event that is wrong at `field`.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }

    /// True if the same event may be taken later, unchanged.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Overloaded | Self::Behind | Self::Draining => true,
            Self::Append(error) => error.is_retryable(),
            Self::Invalid { .. }
            | Self::TooLarge { .. }
            | Self::TypeUnknown { .. }
            | Self::TypeDiscontinued { .. }
            | Self::Dataschema { .. }
            | Self::Data { .. }
            | Self::Schema { .. }
            | Self::Conflict { .. } => false,
        }
    }
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::EarlierFailed { .. } => Self::Behind,
            error => Self::Append(error),
        }
    }
}

//! Problems: answers of the API other than success, the same for every protocol.
//!
//! A [`Condition`] is a row of the one table: gRPC code, HTTP status, Twilio code and retry advice. A [`Problem`] is a
//! condition with the message and details of one call. Every error of `control` and `ingest` becomes a problem in
//! [`mapping`]; a protocol only writes problems down.

mod mapping;
mod table;

use std::time::Duration;

pub use self::table::{Condition, Retry, Row};

/// One answer other than success.
#[derive(Debug)]
pub(crate) struct Problem {
    condition: Condition,
    /// Replaces the retry advice of the condition's row.
    retry: Option<Retry>,
    /// For people, and public: names nothing of the node.
    message: String,
    /// The one field of an event at fault: an attribute, `data`, or a part of it as `data#` and a JSON pointer.
    event_field: String,
    detail: Detail,
    /// For programs, beside the reason.
    metadata: Vec<(&'static str, String)>,
}

/// Machine-readable part of a problem.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    None,
    /// Fields of the request that are wrong.
    Fields(Vec<FieldProblem>),
    /// The object that the problem is about.
    Resource {
        kind: &'static str,
        name: String,
    },
    /// An object that stands in the way.
    Precondition {
        subject: String,
        description: String,
    },
    Quota {
        subject: &'static str,
        description: String,
    },
}

/// One field of a request that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldProblem {
    pub(crate) field: String,
    pub(crate) description: String,
}

impl FieldProblem {
    pub(crate) fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}

impl Problem {
    pub(crate) fn new(condition: Condition, message: impl Into<String>) -> Self {
        Self {
            condition,
            retry: None,
            message: message.into(),
            event_field: String::new(),
            detail: Detail::None,
            metadata: Vec::new(),
        }
    }

    pub(crate) fn key_missing() -> Self {
        Self::new(Condition::KeyMissing, "no API key: send `authorization: Bearer KEY`")
    }

    /// A request that is wrong at `field`.
    pub(crate) fn field(field: &str, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self::new(Condition::RequestInvalid, format!("{field}: {problem}"))
            .with_fields(vec![FieldProblem::new(field, problem)])
    }

    /// A request that is wrong at `field`, with a message that is a sentence of its own.
    pub(crate) fn request(condition: Condition, field: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let fields = vec![FieldProblem::new(field, &message)];
        Self::new(condition, message).with_fields(fields)
    }

    /// More than the node has room for.
    pub(crate) fn overloaded(message: impl Into<String>, retry_after: Duration) -> Self {
        Self::new(Condition::Overloaded, message).retry_after(retry_after)
    }

    pub(crate) fn with_fields(self, fields: Vec<FieldProblem>) -> Self {
        self.with_detail(Detail::Fields(fields))
    }

    pub(crate) fn with_detail(mut self, detail: Detail) -> Self {
        self.detail = detail;
        self
    }

    pub(crate) fn with_metadata(mut self, name: &'static str, value: impl ToString) -> Self {
        self.metadata.push((name, value.to_string()));
        self
    }

    /// Another time to retry than the condition's own.
    pub(crate) fn retry_after(mut self, after: Duration) -> Self {
        self.retry = Some(Retry::After(after));
        self
    }

    #[cfg(test)]
    pub(crate) fn condition(&self) -> &Condition {
        &self.condition
    }

    /// Row of the condition, with this problem's own time to retry.
    pub(crate) fn row(&self) -> Row {
        let row = self.condition.row();
        Row { retry: self.retry.unwrap_or(row.retry), ..row }
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn event_field(&self) -> &str {
        &self.event_field
    }

    pub(crate) fn detail(&self) -> &Detail {
        &self.detail
    }

    pub(crate) fn metadata(&self) -> &[(&'static str, String)] {
        &self.metadata
    }
}

//! Problems in gRPC: a status with google.rpc details, or the error of one event's result.

use std::{collections::HashMap, time::Duration};

use fanfare_proto::v1::PublishError;
use tonic::Status;
use tonic_types::{ErrorDetails, PreconditionViolation, QuotaViolation, StatusExt};

use crate::problem::{Detail, FieldProblem, Problem, Retry, Row};

/// Domain of every `ErrorInfo`.
const DOMAIN: &str = "fanfare";
/// A status travels in HTTP headers, of which clients take 8 KiB: most of its message, of a field's name, and of all
/// wrong fields together.
const MESSAGE_BYTES_MAX: usize = 1024;
const FIELD_BYTES_MAX: usize = 256;
const FIELDS_BYTES_MAX: usize = 3 << 10;

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        let row = problem.row();
        let metadata: HashMap<String, String> =
            problem.metadata().iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let mut details = ErrorDetails::with_error_info(row.reason.clone(), DOMAIN, metadata);
        match problem.detail() {
            Detail::None => {}
            Detail::Fields(fields) => add_fields(&mut details, fields),
            Detail::Resource { kind, name } => {
                details.set_resource_info(*kind, name, "", "");
            }
            Detail::Precondition { subject, description } => {
                let violation = PreconditionViolation::new(row.reason, subject, description);
                details.set_precondition_failure(vec![violation]);
            }
            Detail::Quota { subject, description } => {
                details.set_quota_failure(vec![QuotaViolation::new(*subject, description)]);
            }
        }
        if let Some(after) = retry_after(row.retry) {
            details.set_retry_info(Some(after));
        }
        Status::with_error_details(row.code, cut(problem.message(), MESSAGE_BYTES_MAX), details)
    }
}

/// The error of one event's result.
pub(super) fn publish_error(problem: &Problem) -> PublishError {
    let Row { code, reason, retry, .. } = problem.row();
    PublishError {
        code: code as i32,
        reason: reason.into_owned(),
        message: cut(problem.message(), MESSAGE_BYTES_MAX).to_owned(),
        field: cut(problem.event_field(), FIELD_BYTES_MAX).to_owned(),
        retry_after_ms: retry_after(retry).map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
    }
}

/// Adds as many wrong fields as have room together.
fn add_fields(details: &mut ErrorDetails, fields: &[FieldProblem]) {
    let mut room = FIELDS_BYTES_MAX;
    for problem in fields {
        let field = cut(&problem.field, FIELD_BYTES_MAX);
        let description = cut(&problem.description, MESSAGE_BYTES_MAX);
        let Some(left) = room.checked_sub(field.len() + description.len()) else { break };
        room = left;
        details.add_bad_request_violation(field, description);
    }
}

fn retry_after(retry: Retry) -> Option<Duration> {
    match retry {
        Retry::Never => None,
        Retry::After(after) => Some(after),
    }
}

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

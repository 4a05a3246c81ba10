//! Problems in gRPC: a status with google.rpc details, or the error of one event's result.

use std::{collections::HashMap, time::Duration};

use fanfare_proto::v1::PublishError;
use tonic::Status;
use tonic_types::{ErrorDetails, PreconditionViolation, QuotaViolation, StatusExt};

use crate::problem::{Detail, FieldProblem, Problem, Retry, Row};

/// Domain of every `ErrorInfo`.
const DOMAIN: &str = "fanfare.dev";
/// A status travels in HTTP headers, of which clients take 8 KiB: most of its message, which is there twice and may take
/// three bytes for each of its own; of a name; and of all wrong fields together.
const MESSAGE_BYTES_MAX: usize = 768;
const NAME_BYTES_MAX: usize = 256;
const DESCRIPTION_BYTES_MAX: usize = 512;
const FIELDS_BYTES_MAX: usize = 2 << 10;

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        let row = problem.row();
        let metadata: HashMap<String, String> =
            problem.metadata().iter().map(|(name, value)| ((*name).to_owned(), short(value))).collect();
        let mut details = ErrorDetails::with_error_info(row.reason.clone(), DOMAIN, metadata);
        match problem.detail() {
            Detail::None => {}
            Detail::Fields(fields) => add_fields(&mut details, fields),
            Detail::Resource { kind, name } => {
                details.set_resource_info(*kind, short(name), "", "");
            }
            Detail::Precondition { subject, description } => {
                let violation =
                    PreconditionViolation::new(row.reason, short(subject), description_of(description));
                details.set_precondition_failure(vec![violation]);
            }
            Detail::Quota { subject, description } => {
                details.set_quota_failure(vec![QuotaViolation::new(*subject, description_of(description))]);
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
        field: cut(problem.event_field(), NAME_BYTES_MAX).to_owned(),
        retry_after_ms: retry_after(retry).map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
    }
}

/// Adds as many wrong fields as have room together.
fn add_fields(details: &mut ErrorDetails, fields: &[FieldProblem]) {
    let mut room = FIELDS_BYTES_MAX;
    for problem in fields {
        let field = cut(&problem.field, NAME_BYTES_MAX);
        let description = cut(&problem.description, DESCRIPTION_BYTES_MAX);
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

/// A name or value that may be a client's own.
fn short(text: &str) -> String {
    cut(text, NAME_BYTES_MAX).to_owned()
}

fn description_of(text: &str) -> String {
    cut(text, DESCRIPTION_BYTES_MAX).to_owned()
}

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Condition;

    /// Headers that clients accept, less room for those of HTTP itself.
    const HEADERS_BYTES_MAX: usize = (8 << 10) - 256;

    #[test]
    fn status_fits_into_the_headers_that_clients_accept_whatever_it_repeats() {
        for long in ["x".repeat(2 << 20), "\u{1}".repeat(2 << 20), "ä".repeat(1 << 20)] {
            let fields = (0..100).map(|_| FieldProblem::new(long.clone(), long.clone())).collect();
            let details = [
                Detail::Fields(fields),
                Detail::Resource { kind: "event type", name: long.clone() },
                Detail::Precondition { subject: long.clone(), description: long.clone() },
            ];
            for detail in details {
                let problem = Problem::new(Condition::Unknown { kind: "event type" }, long.clone());
                let problem =
                    problem.with_detail(detail).with_metadata("first", &long).with_metadata("other", &long);
                let response = Status::from(problem).into_http::<()>();
                let headers = response.headers().iter();
                let bytes: usize = headers.map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
                assert!(bytes <= HEADERS_BYTES_MAX, "{bytes} bytes");
            }
        }
    }
}

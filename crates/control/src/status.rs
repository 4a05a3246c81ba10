//! The one place where refusals become gRPC statuses with google.rpc details.

use std::{collections::HashMap, time::Duration};

use fanfare_catalog::{ChangeError, json_schema::SchemaProblem};
use fanfare_delivery::ReconcileError;
use fanfare_partition::ReadError;
use fanfare_sinks::ConfigError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, PreconditionViolation, QuotaViolation, StatusExt};

const DOMAIN: &str = "fanfare";
const RETRY: Duration = Duration::from_millis(100);

/// A change that the catalog did not make, or an object that it does not have.
pub(crate) fn change_status(error: &ChangeError) -> Status {
    let message = error.to_string();
    match error {
        ChangeError::NotFound { kind, name } => {
            let mut details = because(&reason(kind.name(), "UNKNOWN"));
            details.set_resource_info(kind.name(), name, "", "");
            Status::with_error_details(Code::NotFound, message, details)
        }
        ChangeError::Exists { kind, name } => {
            let mut details = because(&reason(kind.name(), "EXISTS"));
            details.set_resource_info(kind.name(), name, "", "");
            let message = format!("{message}: update it, or choose another name");
            Status::with_error_details(Code::AlreadyExists, message, details)
        }
        ChangeError::Invalid { field, problem } => invalid(field, problem),
        ChangeError::Stale { revision, .. } => {
            let current = HashMap::from([("current".to_owned(), revision.to_string())]);
            let details = ErrorDetails::with_error_info("ETAG_MISMATCH", DOMAIN, current);
            Status::with_error_details(Code::Aborted, message, details)
        }
        ChangeError::InUse { kind, name, by } => {
            let reason = reason(kind.name(), "IN_USE");
            let mut details = because(&reason);
            let description = format!("it is used by {by}: change or delete that first");
            details.set_precondition_failure(vec![PreconditionViolation::new(&reason, name, &description)]);
            Status::with_error_details(
                Code::FailedPrecondition,
                format!("{kind} {name}: {description}"),
                details,
            )
        }
        ChangeError::Limit { kind, .. } => {
            let mut details = because(&reason(kind.plural(), "LIMIT"));
            details.set_quota_failure(vec![QuotaViolation::new(kind.plural(), &message)]);
            let message = format!("{message}: delete what is not needed, or ask the operator for more");
            Status::with_error_details(Code::ResourceExhausted, message, details)
        }
        ChangeError::Unavailable => {
            let mut details = because("NO_LEADER");
            details.set_retry_info(Some(RETRY));
            Status::with_error_details(Code::Unavailable, format!("{message}: retry"), details)
        }
        ChangeError::Unknown => {
            let message = "the change may or may not have been made: read before you retry";
            Status::with_error_details(Code::DeadlineExceeded, message, because("OUTCOME_UNKNOWN"))
        }
    }
}

/// A document that is no schema.
pub(crate) fn schema_status(problem: &SchemaProblem) -> Status {
    let (reason, field) = match problem {
        SchemaProblem::TooLarge { .. } => ("SCHEMA_TOO_LARGE", "document".to_owned()),
        SchemaProblem::RemoteReference { .. } => ("SCHEMA_REMOTE_REFERENCE", "document".to_owned()),
        SchemaProblem::NotJson { .. } | SchemaProblem::DanglingReference { .. } => {
            ("SCHEMA_INVALID", "document".to_owned())
        }
        SchemaProblem::Invalid { pointer, .. } if pointer.is_empty() => {
            ("SCHEMA_INVALID", "document".to_owned())
        }
        SchemaProblem::Invalid { pointer, .. } => ("SCHEMA_INVALID", format!("document#{pointer}")),
    };
    let mut details = because(reason);
    details.add_bad_request_violation(field, problem.to_string());
    Status::with_error_details(Code::InvalidArgument, problem.to_string(), details)
}

/// A sink that could never deliver.
pub(crate) fn sink_status(error: &ConfigError) -> Status {
    let field = format!("sink.{}", error.field);
    let mut details = because("SINK_INVALID");
    details.add_bad_request_violation(&field, &error.problem);
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {}", error.problem), details)
}

/// A change that is made, but not yet acted upon everywhere. A retry would make it twice.
pub(crate) fn reconcile_status(error: &ReconcileError) -> Status {
    let message = format!("the change is made, but {error}: read it, do not repeat it");
    Status::with_error_details(Code::DeadlineExceeded, message, because("ATTACH_PENDING"))
}

/// A request that is wrong at `field`.
pub(crate) fn invalid(field: &str, problem: impl Into<String>) -> Status {
    let problem = problem.into();
    let message = format!("{field}: {problem}");
    let mut details = because("REQUEST_INVALID");
    details.add_bad_request_violation(field, problem);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

pub(crate) fn page_token_invalid() -> Status {
    let problem =
        "is not a token of this list: take it from the last response, or leave it empty to begin again";
    let mut details = because("PAGE_TOKEN_INVALID");
    details.add_bad_request_violation("page_token", problem);
    Status::with_error_details(Code::InvalidArgument, format!("page_token: {problem}"), details)
}

pub(crate) fn unauthenticated() -> Status {
    let message = "no API key: send `authorization: Bearer KEY`";
    Status::with_error_details(Code::Unauthenticated, message, because("KEY_MISSING"))
}

pub(crate) fn stopping() -> Status {
    let mut details = because("DRAINING");
    details.set_retry_info(Some(RETRY));
    Status::with_error_details(
        Code::Unavailable,
        "the node is shutting down: retry on another connection",
        details,
    )
}

/// Committed data that cannot be read, and `effect`: what that means for the call. The operator is told which file, the
/// caller which partition.
pub(crate) fn data_loss(error: &ReadError, effect: &str) -> Status {
    tracing::error!(%error, "committed data cannot be read");
    let mut metadata = HashMap::new();
    let mut damaged = "a partition".to_owned();
    if let ReadError::DataLoss { partition, offsets, .. } = error {
        damaged = format!("partition {partition}");
        metadata.insert("partition".to_owned(), partition.to_string());
        if !offsets.is_empty() {
            metadata.insert("first_offset".to_owned(), offsets.start.to_string());
            metadata.insert("end_offset".to_owned(), offsets.end.to_string());
        }
    }
    let message = format!("{damaged} is damaged, so {effect}: tell the operator");
    let details = ErrorDetails::with_error_info("PARTITION_DAMAGED", DOMAIN, metadata);
    Status::with_error_details(Code::DataLoss, message, details)
}

pub(crate) fn not_found(reason: &str, message: String) -> Status {
    Status::with_error_details(Code::NotFound, message, because(reason))
}

fn because(reason: &str) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new())
}

/// Such as EVENT_TYPE_UNKNOWN.
fn reason(kind: &str, what: &str) -> String {
    format!("{}_{what}", kind.to_uppercase().replace([' ', '-'], "_"))
}

//! The one place where refusals become answers: gRPC statuses with google.rpc details, or a result's error.

use std::{collections::HashMap, ops::Range, time::Duration};

use fanfare_catalog::json_schema::{DataProblem, Violation};
use fanfare_model::{Offset, PartitionId};
use fanfare_partition::{AppendError, ReadError};
use fanfare_proto::v1::PublishError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::refusal::Refusal;

/// Domain of every `ErrorInfo`.
pub(crate) const DOMAIN: &str = "fanfare";
/// Reason of every answer about events that are lost.
const PARTITION_DAMAGED: &str = "PARTITION_DAMAGED";
const RETRY_MS: u64 = 100;
/// A full disk is not emptied within a moment.
const RETRY_DISK_FULL_MS: u64 = 5_000;

/// A status travels in HTTP headers, of which clients take 8 KiB: most of its message, of a field's name, and of what is
/// listed as wrong.
const MESSAGE_BYTES_MAX: usize = 1024;
const FIELD_BYTES_MAX: usize = 256;
const VIOLATIONS_BYTES_MAX: usize = 3 << 10;

/// A refusal in the API's terms.
struct Answer {
    code: Code,
    reason: &'static str,
    /// At fault: an attribute, `data`, or a place in it as `data#` and a JSON pointer.
    field: String,
    retry_after_ms: Option<u64>,
}

fn answer(refusal: &Refusal) -> Answer {
    let fix =
        |code, reason, field: &str| Answer { code, reason, field: field.to_owned(), retry_after_ms: None };
    let retry = |code, reason, after_ms| Answer {
        code,
        reason,
        field: String::new(),
        retry_after_ms: Some(after_ms),
    };
    match refusal {
        Refusal::Invalid { field, .. } => fix(Code::InvalidArgument, "EVENT_INVALID", field),
        Refusal::TooLarge { .. } => fix(Code::InvalidArgument, "EVENT_TOO_LARGE", "event"),
        Refusal::TypeUnknown { .. } => fix(Code::NotFound, "EVENT_TYPE_UNKNOWN", "type"),
        Refusal::TypeDiscontinued { .. } => fix(Code::FailedPrecondition, "EVENT_TYPE_DISCONTINUED", "type"),
        Refusal::Dataschema { .. } => fix(Code::InvalidArgument, "DATASCHEMA_UNKNOWN", "dataschema"),
        Refusal::Data { problem: DataProblem::Violations(found), .. } => {
            fix(Code::InvalidArgument, "SCHEMA_VIOLATION", &data_field(&found[0]))
        }
        Refusal::Data { .. } => fix(Code::InvalidArgument, "SCHEMA_VIOLATION", "data"),
        Refusal::Schema { .. } => fix(Code::FailedPrecondition, "SCHEMA_UNUSABLE", "type"),
        Refusal::Conflict { .. } => fix(Code::AlreadyExists, "EVENT_CONFLICT", "id"),
        Refusal::Overloaded => retry(Code::ResourceExhausted, "OVERLOADED", RETRY_MS),
        Refusal::Behind => retry(Code::Aborted, "ABORTED_BEHIND", 0),
        Refusal::Draining => retry(Code::Unavailable, "DRAINING", RETRY_MS),
        Refusal::Append(error) => match error {
            AppendError::Overloaded { retry_after_ms, .. } => {
                retry(Code::ResourceExhausted, "OVERLOADED", *retry_after_ms)
            }
            AppendError::NotLeader { .. } => retry(Code::Unavailable, "NO_LEADER", RETRY_MS),
            AppendError::EarlierFailed { .. } => retry(Code::Aborted, "ABORTED_BEHIND", 0),
            AppendError::Unknown { .. } => retry(Code::DeadlineExceeded, "OUTCOME_UNKNOWN", RETRY_MS),
            AppendError::DiskFull { .. } => retry(Code::ResourceExhausted, "DISK_FULL", RETRY_DISK_FULL_MS),
            AppendError::Stopped { .. } => fix(Code::Unavailable, "PARTITION_STOPPED", ""),
            AppendError::Damaged { .. } => fix(Code::DataLoss, PARTITION_DAMAGED, ""),
        },
    }
}

/// The data, or by JSON pointer a place in it.
fn data_field(violation: &Violation) -> String {
    match violation.pointer.as_str() {
        "" => "data".to_owned(),
        pointer => format!("data#{pointer}"),
    }
}

/// The error of one event's result.
pub(crate) fn publish_error(refusal: &Refusal) -> PublishError {
    let Answer { code, reason, field, retry_after_ms } = answer(refusal);
    PublishError {
        code: code as i32,
        reason: reason.to_owned(),
        message: cut(refusal.to_string(), MESSAGE_BYTES_MAX),
        field: cut(field, FIELD_BYTES_MAX),
        retry_after_ms,
    }
}

/// The status of a call that published one event.
pub(crate) fn publish_status(refusal: &Refusal) -> Status {
    let Answer { code, reason, field, retry_after_ms } = answer(refusal);
    let metadata = match refusal {
        Refusal::Append(AppendError::Damaged { partition, offsets }) => damage_metadata(*partition, offsets),
        _ => HashMap::new(),
    };
    let message = cut(refusal.to_string(), MESSAGE_BYTES_MAX);
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    if let Refusal::Data { problem: DataProblem::Violations(found), .. } = refusal {
        let mut room = VIOLATIONS_BYTES_MAX;
        for violation in found {
            let field = cut(data_field(violation), FIELD_BYTES_MAX);
            let size_bytes = field.len() + violation.message.len();
            if size_bytes > room {
                break;
            }
            room -= size_bytes;
            details.add_bad_request_violation(field, &violation.message);
        }
    } else if code == Code::InvalidArgument {
        details.add_bad_request_violation(cut(field, FIELD_BYTES_MAX), &message);
    }
    if let Some(after_ms) = retry_after_ms {
        details.set_retry_info(Some(Duration::from_millis(after_ms)));
    }
    Status::with_error_details(code, message, details)
}

fn cut(mut text: String, bytes_max: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

/// A request that is wrong as a whole.
pub(crate) fn invalid_request(reason: &'static str, field: &str, message: impl Into<String>) -> Status {
    let message = message.into();
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    details.add_bad_request_violation(field, &message);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// A stream whose answers were not read in time.
pub(crate) fn answers_not_taken() -> Status {
    let message = "no answers were read for too long: what became of the events behind the last answer is unknown; \
                   open a new stream and send them again, with the same ids";
    let details = ErrorDetails::with_error_info("ANSWERS_NOT_TAKEN", DOMAIN, HashMap::new());
    Status::with_error_details(Code::DeadlineExceeded, message, details)
}

/// What the node has no room for; `message` says of what.
#[must_use]
pub fn overloaded(message: impl Into<String>, retry_after: Duration) -> Status {
    let mut details = ErrorDetails::with_error_info("OVERLOADED", DOMAIN, HashMap::new());
    details.set_retry_info(Some(retry_after));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// A request larger than the server reads; what tonic answers by itself names neither limit nor way out.
pub(crate) fn request_too_large(limit_bytes: usize) -> Status {
    let message = format!("the request is larger than {limit_bytes} bytes: split it into several requests");
    invalid_request("REQUEST_TOO_LARGE", "events", message)
}

/// A read that cannot be answered from the log.
pub(crate) fn read_status(error: &ReadError) -> Status {
    match error {
        ReadError::OutOfRange { offset, log_start } => {
            let message =
                format!("offset {offset} is no longer kept: the log starts at {log_start}; read from there");
            out_of_range("OFFSET_TRUNCATED", message, ("log_start", log_start.to_string()))
        }
        ReadError::DataLoss { partition, detail, offsets } => {
            tracing::error!(%partition, detail, "committed events cannot be read");
            let metadata = damage_metadata(*partition, offsets);
            let details = ErrorDetails::with_error_info(PARTITION_DAMAGED, DOMAIN, metadata);
            let which = if offsets.is_empty() {
                String::new()
            } else {
                format!(" at offsets {}..{}", offsets.start, offsets.end)
            };
            let message =
                format!("committed events of partition {partition}{which} cannot be read: tell the operator");
            Status::with_error_details(Code::DataLoss, message, details)
        }
    }
}

/// For every tenant's eyes: the place in the partition, and nothing of the node.
fn damage_metadata(partition: PartitionId, offsets: &Range<Offset>) -> HashMap<String, String> {
    let mut metadata = HashMap::from([("partition".to_owned(), partition.to_string())]);
    if !offsets.is_empty() {
        metadata.insert("first_offset".to_owned(), offsets.start.to_string());
        metadata.insert("end_offset".to_owned(), offsets.end.to_string());
    }
    metadata
}

pub(crate) fn out_of_range(reason: &'static str, message: String, (name, value): (&str, String)) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::from([(name.to_owned(), value)]));
    Status::with_error_details(Code::OutOfRange, message, details)
}

pub(crate) fn not_found(reason: &'static str, message: String) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(Code::NotFound, message, details)
}

pub(crate) fn unauthenticated(reason: &'static str, message: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(Code::Unauthenticated, message, details)
}

//! Parts of the responses that the publish methods share: one event's result, and refusals of a whole request.

use fanfare_ingest::PublishOutcome;
use fanfare_proto::v1::PublishResult;
use tonic::Status;

use super::{status::publish_error, wire::RequestError};
use crate::problem::{Condition, Problem};

/// One event's result in a batch or on a stream.
pub(super) fn result(outcome: &PublishOutcome) -> PublishResult {
    match outcome {
        Ok(committed) => PublishResult {
            partition: committed.partition.into(),
            offset: committed.offset.0,
            duplicate: committed.duplicate,
            error: None,
        },
        Err(refusal) => {
            let error = publish_error(&Problem::from(refusal));
            PublishResult { error: Some(error), ..PublishResult::default() }
        }
    }
}

/// Bytes that are not a request of the service.
pub(super) fn malformed_request(error: &RequestError) -> Status {
    let condition = match error {
        RequestError::Malformed => Condition::RequestMalformed,
        RequestError::TooManyEvents => Condition::RequestTooLarge,
    };
    Problem::request(condition, "events", error.to_string()).into()
}

/// A request larger than the server reads; tonic's own answer names neither the limit nor what to do.
pub(super) fn request_too_large(limit_bytes: usize) -> Status {
    let message = format!("the request is larger than {limit_bytes} bytes: split it into several requests");
    Problem::request(Condition::RequestTooLarge, "events", message).into()
}

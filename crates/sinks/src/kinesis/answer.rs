//! The outcome of a request's events, from the service's answer or from the error that came instead.

use std::error::Error;

use aws_sdk_kinesis::{
    error::{ProvideErrorMetadata, SdkError},
    operation::put_records::{PutRecordsError, PutRecordsOutput},
    types::PutRecordsResultEntry,
};

use crate::{Failure, Outcome, egress::DialError, failure::root_cause};

/// One outcome for each of `count` records, by position.
pub(super) fn by_record(output: &PutRecordsOutput, count: usize) -> Vec<Outcome> {
    let results = output.records();
    if results.len() != count {
        let message = format!("the service answered for {} of {count} records", results.len());
        return vec![retry(Failure::new(Failure::PROTOCOL, &message)); count];
    }
    results.iter().map(record_outcome).collect()
}

fn record_outcome(result: &PutRecordsResultEntry) -> Outcome {
    let Some(code) = result.error_code() else { return Outcome::Delivered };
    let message = format!("{code}: {}", result.error_message().unwrap_or("no message"));
    match code {
        "ProvisionedThroughputExceededException" => throttled(Failure::new(Failure::THROTTLED, &message)),
        _ => retry(Failure::new(Failure::SERVICE, &message)),
    }
}

/// The outcome of all `count` records of a request that failed as a whole.
///
/// An invalid request does not name the invalid record. Only with one record is that record to blame.
pub(super) fn for_all(error: &SdkError<PutRecordsError>, count: usize) -> Outcome {
    let answered = match error {
        SdkError::ServiceError(answered) => answered,
        SdkError::TimeoutError(_) => return retry(Failure::new(Failure::TIMEOUT, "no answer in time")),
        _ => return Outcome::SinkDown { after: None, why: no_answer(error) },
    };
    let (status, error) = (answered.raw().status().as_u16(), answered.err());
    let code = error.code().unwrap_or("error without a code");
    let message = format!("{code}: {}", error.message().unwrap_or("no message"));
    let why = |class| Failure::new(class, &message).with_status(status);
    match code {
        "ProvisionedThroughputExceededException"
        | "LimitExceededException"
        | "KMSThrottlingException"
        | "ThrottlingException" => throttled(why(Failure::THROTTLED)),
        "InvalidArgumentException" | "ValidationException" | "SerializationException" => match count {
            1 => Outcome::Rejected { why: why(Failure::SERVICE) },
            _ => retry(why(Failure::SERVICE)),
        },
        "AccessDeniedException"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "MissingAuthenticationTokenException"
        | "UnrecognizedClientException" => Outcome::SinkDown { after: None, why: why(Failure::CREDENTIALS) },
        _ => Outcome::SinkDown { after: None, why: why(Failure::SERVICE) },
    }
}

fn throttled(why: Failure) -> Outcome {
    Outcome::Throttled { after: None, why }
}

fn retry(why: Failure) -> Outcome {
    Outcome::Retry { after: None, why }
}

/// Names the step that failed before an answer was read, without telling a tenant the addresses of a name.
fn no_answer(error: &SdkError<PutRecordsError>) -> Failure {
    if let Some(dial) = dial_error(error) {
        return match dial {
            DialError::Forbidden => Failure::new(Failure::ADDRESS_FORBIDDEN, &dial.to_string()),
            _ => Failure::new(Failure::DNS, "the endpoint's name does not resolve"),
        };
    }
    match error {
        SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => {
            Failure::new(Failure::CONNECT, "no connection to the endpoint")
        }
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => Failure::new(
            Failure::CREDENTIALS,
            &format!("no credentials for the stream: {}", root_cause(error)),
        ),
        _ => Failure::new(Failure::PROTOCOL, "the answer is not one of the Kinesis service"),
    }
}

fn dial_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a DialError> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(dial) = error.downcast_ref() {
            return Some(dial);
        }
        cause = error.source();
    }
    None
}

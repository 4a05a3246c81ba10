//! The table of conditions: what each is in gRPC, in HTTP and in Twilio's API, and whether a retry helps.

use std::{borrow::Cow, time::Duration};

use tonic::Code;

/// A condition other than success. Callers tell conditions apart by their reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    KeyMissing,
    KeyInvalid,
    PermissionDenied,

    RequestInvalid,
    RequestMalformed,
    RequestTooLarge,
    PageTokenInvalid,
    AnswersNotTaken,

    EventInvalid,
    EventTooLarge,
    EventTypeDiscontinued,
    DataschemaUnknown,
    SchemaViolation,
    SchemaUnusable,
    EventConflict,
    /// An earlier event of the stream is to be resent first.
    AbortedBehind,
    PublishOutcomeUnknown,

    PartitionUnknown,
    OffsetAhead,
    OffsetTruncated,

    Overloaded,
    DiskFull,
    RetainedBytesLimit,
    Draining,
    NoLeader,
    PartitionStopped,
    PartitionDamaged,

    /// `kind` is a noun of the API.
    Unknown {
        kind: &'static str,
    },
    Exists {
        kind: &'static str,
    },
    InUse {
        kind: &'static str,
    },
    /// `kind` is in plural.
    Limit {
        kind: &'static str,
    },
    EtagMismatch,
    RequestIdReused,
    ChangeOutcomeUnknown,
    SinkInvalid,
    SchemaInvalid,
    SchemaTooLarge,
    SchemaTooCostly,
    SchemaRemoteReference,
}

/// Advice on repeating the same request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// A repeat helps nothing, or may do harm.
    Never,
    After(Duration),
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Stable name of the condition, such as EVENT_TYPE_UNKNOWN.
    pub reason: Cow<'static, str>,
    pub code: Code,
    pub http_status: u16,
    /// Code of Twilio's API, where that has the condition.
    pub twilio_code: Option<u32>,
    pub retry: Retry,
}

const SOON: Retry = Retry::After(Duration::from_millis(100));
/// A full disk or log is not emptied within a moment.
const FULL: Retry = Retry::After(Duration::from_secs(5));

const NEVER: Retry = Retry::Never;

impl Condition {
    /// The condition's row.
    #[must_use]
    pub fn row(&self) -> Row {
        use Code::{
            Aborted, AlreadyExists, DataLoss, DeadlineExceeded, FailedPrecondition, InvalidArgument,
            NotFound, OutOfRange, ResourceExhausted, Unauthenticated, Unavailable,
        };
        let row = match self {
            Self::KeyMissing => fixed("KEY_MISSING", Unauthenticated, 401, NEVER),
            Self::KeyInvalid => fixed("KEY_INVALID", Unauthenticated, 401, NEVER),
            Self::PermissionDenied => fixed("PERMISSION_DENIED", Code::PermissionDenied, 403, NEVER),

            Self::RequestInvalid => fixed("REQUEST_INVALID", InvalidArgument, 400, NEVER),
            Self::RequestMalformed => fixed("REQUEST_MALFORMED", InvalidArgument, 400, NEVER),
            Self::RequestTooLarge => fixed("REQUEST_TOO_LARGE", InvalidArgument, 413, NEVER),
            Self::PageTokenInvalid => fixed("PAGE_TOKEN_INVALID", InvalidArgument, 400, NEVER),
            Self::AnswersNotTaken => fixed("ANSWERS_NOT_TAKEN", DeadlineExceeded, 504, NEVER),

            Self::EventInvalid => fixed("EVENT_INVALID", InvalidArgument, 400, NEVER),
            Self::EventTooLarge => fixed("EVENT_TOO_LARGE", InvalidArgument, 413, NEVER),
            Self::EventTypeDiscontinued => fixed("EVENT_TYPE_DISCONTINUED", FailedPrecondition, 400, NEVER),
            Self::DataschemaUnknown => fixed("DATASCHEMA_UNKNOWN", InvalidArgument, 400, NEVER),
            Self::SchemaViolation => fixed("SCHEMA_VIOLATION", InvalidArgument, 400, NEVER),
            Self::SchemaUnusable => fixed("SCHEMA_UNUSABLE", FailedPrecondition, 400, NEVER),
            Self::EventConflict => fixed("EVENT_CONFLICT", AlreadyExists, 409, NEVER),
            Self::AbortedBehind => fixed("ABORTED_BEHIND", Aborted, 409, Retry::After(Duration::ZERO)),
            Self::PublishOutcomeUnknown => fixed("OUTCOME_UNKNOWN", DeadlineExceeded, 504, SOON),

            Self::PartitionUnknown => fixed("PARTITION_UNKNOWN", InvalidArgument, 400, NEVER),
            Self::OffsetAhead => fixed("OFFSET_AHEAD", OutOfRange, 400, NEVER),
            Self::OffsetTruncated => fixed("OFFSET_TRUNCATED", OutOfRange, 400, NEVER),

            Self::Overloaded => fixed("OVERLOADED", ResourceExhausted, 429, SOON),
            Self::DiskFull => fixed("DISK_FULL", ResourceExhausted, 503, FULL),
            Self::RetainedBytesLimit => fixed("RETAINED_BYTES_LIMIT", ResourceExhausted, 429, FULL),
            Self::Draining => fixed("DRAINING", Unavailable, 503, SOON),
            Self::NoLeader => fixed("NO_LEADER", Unavailable, 503, SOON),
            Self::PartitionStopped => fixed("PARTITION_STOPPED", Unavailable, 503, NEVER),
            Self::PartitionDamaged => fixed("PARTITION_DAMAGED", DataLoss, 500, NEVER),

            Self::Unknown { kind } => of_kind(kind, "UNKNOWN", NotFound, 404),
            Self::Exists { kind } => of_kind(kind, "EXISTS", AlreadyExists, 409),
            Self::InUse { kind } => of_kind(kind, "IN_USE", FailedPrecondition, 400),
            // A limit is not a rate: the same request is refused until something is deleted.
            Self::Limit { kind } => of_kind(kind, "LIMIT", ResourceExhausted, 400),
            Self::EtagMismatch => fixed("ETAG_MISMATCH", Aborted, 412, NEVER),
            Self::RequestIdReused => fixed("REQUEST_ID_REUSED", AlreadyExists, 409, NEVER),
            Self::ChangeOutcomeUnknown => fixed("OUTCOME_UNKNOWN", DeadlineExceeded, 504, NEVER),
            Self::SinkInvalid => fixed("SINK_INVALID", InvalidArgument, 400, NEVER),
            Self::SchemaInvalid => fixed("SCHEMA_INVALID", InvalidArgument, 400, NEVER),
            Self::SchemaTooLarge => fixed("SCHEMA_TOO_LARGE", InvalidArgument, 400, NEVER),
            Self::SchemaTooCostly => fixed("SCHEMA_TOO_COSTLY", InvalidArgument, 400, NEVER),
            Self::SchemaRemoteReference => fixed("SCHEMA_REMOTE_REFERENCE", InvalidArgument, 400, NEVER),
        };
        Row { twilio_code: self.twilio_code(), ..row }
    }

    /// Source of the codes: Twilio's error dictionary of Event Streams (910xx, 911xx, 91201) and of its REST API
    /// (200xx, 204xx).
    fn twilio_code(&self) -> Option<u32> {
        match self {
            Self::KeyMissing | Self::KeyInvalid | Self::PermissionDenied => Some(20003),
            Self::RequestInvalid | Self::RequestMalformed | Self::RequestTooLarge => Some(20001),
            Self::PageTokenInvalid => Some(91002),
            Self::Overloaded => Some(20429),
            Self::Unknown { kind: "sink" } => Some(91001),
            Self::Unknown { kind: "subscription" } => Some(91102),
            Self::Unknown { kind: "event type" } => Some(91104),
            Self::Unknown { .. } => Some(20404),
            Self::Limit { kind: "sinks" } => Some(91003),
            Self::InUse { kind: "sink" } => Some(91007),
            Self::SinkInvalid => Some(91000),
            Self::SchemaInvalid
            | Self::SchemaTooLarge
            | Self::SchemaTooCostly
            | Self::SchemaRemoteReference => Some(91201),
            // Twilio has neither publishing nor reading, nor replicas.
            _ => None,
        }
    }
}

fn fixed(reason: &'static str, code: Code, http_status: u16, retry: Retry) -> Row {
    Row { reason: Cow::Borrowed(reason), code, http_status, twilio_code: None, retry }
}

/// A condition of any kind of object, such as EVENT_TYPE_UNKNOWN.
fn of_kind(kind: &str, suffix: &str, code: Code, http_status: u16) -> Row {
    let reason = format!("{}_{suffix}", kind.to_uppercase().replace(' ', "_"));
    Row { reason: Cow::Owned(reason), code, http_status, twilio_code: None, retry: NEVER }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Condition] = &[
        Condition::KeyMissing,
        Condition::KeyInvalid,
        Condition::PermissionDenied,
        Condition::RequestInvalid,
        Condition::RequestMalformed,
        Condition::RequestTooLarge,
        Condition::PageTokenInvalid,
        Condition::AnswersNotTaken,
        Condition::EventInvalid,
        Condition::EventTooLarge,
        Condition::EventTypeDiscontinued,
        Condition::DataschemaUnknown,
        Condition::SchemaViolation,
        Condition::SchemaUnusable,
        Condition::EventConflict,
        Condition::AbortedBehind,
        Condition::PublishOutcomeUnknown,
        Condition::PartitionUnknown,
        Condition::OffsetAhead,
        Condition::OffsetTruncated,
        Condition::Overloaded,
        Condition::DiskFull,
        Condition::RetainedBytesLimit,
        Condition::Draining,
        Condition::NoLeader,
        Condition::PartitionStopped,
        Condition::PartitionDamaged,
        Condition::Unknown { kind: "sink" },
        Condition::Exists { kind: "schema" },
        Condition::InUse { kind: "sink" },
        Condition::Limit { kind: "event types" },
        Condition::EtagMismatch,
        Condition::RequestIdReused,
        Condition::ChangeOutcomeUnknown,
        Condition::SinkInvalid,
        Condition::SchemaInvalid,
        Condition::SchemaTooLarge,
        Condition::SchemaTooCostly,
        Condition::SchemaRemoteReference,
    ];

    /// HTTP says whose fault a problem is and whether to repeat the request, and gRPC says the same.
    #[test]
    fn http_and_grpc_tell_the_same() {
        for condition in ALL {
            let Row { code, http_status, retry, .. } = condition.row();
            let is_callers_fault = match code {
                Code::Unavailable | Code::DeadlineExceeded | Code::DataLoss => false,
                Code::ResourceExhausted => *condition != Condition::DiskFull,
                _ => true,
            };
            assert_eq!((400..500).contains(&http_status), is_callers_fault, "{condition:?}");
            let says_retry = matches!(http_status, 429 | 503);
            if says_retry {
                let is_stopped = *condition == Condition::PartitionStopped;
                assert_eq!(retry != Retry::Never, !is_stopped, "{condition:?}");
            }
        }
    }

    #[test]
    fn reasons_name_kinds_in_upper_case() {
        let reasons: Vec<_> = [
            Condition::Unknown { kind: "event type" },
            Condition::InUse { kind: "sink" },
            Condition::Limit { kind: "event types" },
        ]
        .iter()
        .map(|condition| condition.row().reason)
        .collect();
        assert_eq!(reasons, ["EVENT_TYPE_UNKNOWN", "SINK_IN_USE", "EVENT_TYPES_LIMIT"]);
    }

    #[test]
    fn sinks_and_subscriptions_have_the_codes_of_twilio() {
        let table = [
            (Condition::KeyInvalid, 401, 20003),
            (Condition::RequestInvalid, 400, 20001),
            (Condition::Overloaded, 429, 20429),
            (Condition::PageTokenInvalid, 400, 91002),
            (Condition::SinkInvalid, 400, 91000),
            (Condition::Unknown { kind: "sink" }, 404, 91001),
            (Condition::Limit { kind: "sinks" }, 400, 91003),
            (Condition::InUse { kind: "sink" }, 400, 91007),
            (Condition::Unknown { kind: "subscription" }, 404, 91102),
            (Condition::Unknown { kind: "event type" }, 404, 91104),
            (Condition::Unknown { kind: "schema" }, 404, 20404),
        ];
        for (condition, http_status, code) in table {
            let row = condition.row();
            assert_eq!((row.http_status, row.twilio_code), (http_status, Some(code)), "{condition:?}");
        }
    }
}

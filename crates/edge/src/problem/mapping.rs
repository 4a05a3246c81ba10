//! Every error of `control` and `ingest` as a problem. Each match is exhaustive: a new variant does not compile until it
//! has a row.

use std::{ops::Range, time::Duration};

use fanfare_control::{
    ChangeError, ConfigError, ControlError, FieldViolation, ObjectKind, SchemaProblem, Unreadable,
};
use fanfare_ingest::{AppendError, DataProblem, ReadError, ReadRefusal, Refusal, Violation};
use fanfare_model::{Offset, PartitionId};

use super::{Condition, Detail, FieldProblem, Problem};

/// Reads end when their clients do, which cannot be foreseen.
const READS_RETRY: Duration = Duration::from_secs(5);

impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        let problem = |condition| Self::new(condition, refusal.to_string());
        let at = |condition, field: &str| problem(condition).at_event_field(field.to_owned());
        match refusal {
            Refusal::Invalid { field, .. } => at(Condition::EventInvalid, field).with_event_field_detail(),
            Refusal::TooLarge { .. } => at(Condition::EventTooLarge, "event").with_event_field_detail(),
            Refusal::TypeUnknown { .. } => {
                at(Condition::Unknown { kind: ObjectKind::EventType.name() }, "type")
            }
            Refusal::TypeDiscontinued { .. } => at(Condition::EventTypeDiscontinued, "type"),
            Refusal::Dataschema { .. } => {
                at(Condition::DataschemaUnknown, "dataschema").with_event_field_detail()
            }
            Refusal::Data { problem: DataProblem::Violations(violations), .. } => {
                let fields = violations
                    .iter()
                    .map(|violation| FieldProblem::new(data_field(violation), &violation.message));
                at(Condition::SchemaViolation, &violations.first().map(data_field).unwrap_or_default())
                    .with_fields(fields.collect())
            }
            Refusal::Data { .. } => at(Condition::SchemaViolation, "data").with_event_field_detail(),
            Refusal::Schema { .. } => at(Condition::SchemaUnusable, "type"),
            Refusal::Conflict { .. } => at(Condition::EventConflict, "id"),
            Refusal::Overloaded => problem(Condition::Overloaded),
            Refusal::Behind => problem(Condition::AbortedBehind),
            Refusal::Draining => problem(Condition::Draining),
            Refusal::Append(error) => match error {
                AppendError::Overloaded { retry_after_ms, .. } => {
                    problem(Condition::Overloaded).retry_after(Duration::from_millis(*retry_after_ms))
                }
                AppendError::NotLeader { .. } => problem(Condition::NoLeader),
                AppendError::EarlierFailed { .. } => problem(Condition::AbortedBehind),
                AppendError::Unknown { .. } => problem(Condition::PublishOutcomeUnknown),
                AppendError::DiskFull { .. } => problem(Condition::DiskFull),
                AppendError::OverQuota { .. } => problem(Condition::RetainedBytesLimit),
                AppendError::Stopped { .. } => problem(Condition::PartitionStopped),
                AppendError::Damaged { partition, offsets } => {
                    problem(Condition::PartitionDamaged).with_damage(*partition, offsets)
                }
            },
        }
    }
}

impl From<ReadRefusal> for Problem {
    fn from(refusal: ReadRefusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            ReadRefusal::PartitionUnknown { .. } => {
                Self::request(Condition::PartitionUnknown, "partition", message)
            }
            ReadRefusal::NotHere { .. } | ReadRefusal::Recovering { .. } => {
                Self::new(Condition::NoLeader, message)
            }
            ReadRefusal::PartitionMissing => Self::request(Condition::RequestInvalid, "partition", message),
            ReadRefusal::OffsetAhead { high_watermark, .. } => {
                Self::new(Condition::OffsetAhead, message).with_metadata("high_watermark", high_watermark)
            }
            ReadRefusal::TooManyReads { .. } => Self::overloaded(message, READS_RETRY),
            ReadRefusal::Draining => Self::from(&Refusal::Draining),
            ReadRefusal::Read(error) => of_read_error(&error),
        }
    }
}

/// A read that the log cannot answer. The operator learns the file, the caller the partition.
fn of_read_error(error: &ReadError) -> Problem {
    match error {
        ReadError::OutOfRange { offset, log_start } => {
            let message =
                format!("offset {offset} is no longer kept: the log starts at {log_start}; read from there");
            Problem::new(Condition::OffsetTruncated, message).with_metadata("log_start", log_start)
        }
        ReadError::DataLoss { partition, detail, offsets } => {
            tracing::error!(%partition, detail, "failed to read committed events; the read ends");
            let range = if offsets.is_empty() {
                String::new()
            } else {
                format!(" at offsets {}..{}", offsets.start, offsets.end)
            };
            let message =
                format!("committed events of partition {partition}{range} cannot be read: tell the operator");
            Problem::new(Condition::PartitionDamaged, message).with_damage(*partition, offsets)
        }
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Field(violation) => violation.into(),
            ControlError::AccountGone => Self::key_missing(),
            ControlError::Catalog(error) => of_change(error),
            ControlError::EtagMismatch { ref current, .. } => {
                Self::new(Condition::EtagMismatch, error.to_string()).with_metadata("current", current)
            }
            ControlError::Document(problem) => of_document(&problem),
            ControlError::Sink(ConfigError { field, problem }) => {
                let field = format!("sink.{field}");
                Self::new(Condition::SinkInvalid, format!("{field}: {problem}"))
                    .with_fields(vec![FieldProblem::new(field, problem)])
            }
            ControlError::DeadLetterUnknown { id } => {
                let message = format!("no dead letter {id:?} is kept: list them to see which are");
                Self::new(Condition::Unknown { kind: "dead letter" }, message)
            }
            ControlError::RedriveUnknown { id } => {
                let message = format!("no redrive {id} is kept: list them to see which are");
                Self::new(Condition::Unknown { kind: "redrive" }, message)
            }
            ControlError::RedriveRefused { subscription } => {
                let message = format!("{error}: wait for it, or cancel it");
                let subject = subscription.to_string();
                Self::new(Condition::InUse { kind: "dead letters" }, message.clone())
                    .with_detail(Detail::Precondition { subject, description: message })
            }
            ControlError::NotHere(error) => Self::new(Condition::NoLeader, format!("{error}: retry")),
            ControlError::Damaged { damage, consequence } => of_damage(&damage, consequence),
        }
    }
}

impl From<FieldViolation> for Problem {
    fn from(FieldViolation { field, problem }: FieldViolation) -> Self {
        Self::field(&field, problem)
    }
}

/// A change that the catalog did not make, or an object that it does not have.
fn of_change(error: ChangeError) -> Problem {
    let message = error.to_string();
    match error {
        ChangeError::NotFound { kind, name } => {
            let kind = kind.name();
            Problem::new(Condition::Unknown { kind }, message).with_detail(Detail::Resource { kind, name })
        }
        ChangeError::Exists { kind, name } => {
            let kind = kind.name();
            let message = format!("{message}: update it, or choose another name");
            Problem::new(Condition::Exists { kind }, message).with_detail(Detail::Resource { kind, name })
        }
        ChangeError::Invalid { field, problem } => Problem::field(&field, problem),
        ChangeError::Stale { .. } => Problem::new(Condition::EtagMismatch, message),
        ChangeError::RequestReused { .. } => {
            Problem::request(Condition::RequestIdReused, "request_id", message)
        }
        ChangeError::InUse { kind, name, by } => {
            let description = format!("it is used by {by}: change or delete that first");
            Problem::new(Condition::InUse { kind: kind.name() }, format!("{kind} {name}: {description}"))
                .with_detail(Detail::Precondition { subject: name, description })
        }
        ChangeError::Limit { kind, .. } => {
            let kind = kind.plural();
            let advice = format!("{message}: delete what is not needed, or ask the operator for more");
            Problem::new(Condition::Limit { kind }, advice)
                .with_detail(Detail::Quota { subject: kind, description: message })
        }
        ChangeError::Unavailable => Problem::new(Condition::NoLeader, format!("{message}: retry")),
        ChangeError::Unknown => {
            let message = "the change may or may not have been made: read before you retry";
            Problem::new(Condition::ChangeOutcomeUnknown, message)
        }
    }
}

/// A document that is not a usable schema.
fn of_document(problem: &SchemaProblem) -> Problem {
    let (condition, field) = match problem {
        SchemaProblem::TooLarge { .. } => (Condition::SchemaTooLarge, "document".to_owned()),
        SchemaProblem::TooCostly { .. } => (Condition::SchemaTooCostly, "document".to_owned()),
        SchemaProblem::RemoteReference { .. } => (Condition::SchemaRemoteReference, "document".to_owned()),
        SchemaProblem::NotJson { .. } | SchemaProblem::DanglingReference { .. } => {
            (Condition::SchemaInvalid, "document".to_owned())
        }
        SchemaProblem::Invalid { pointer, .. } if pointer.is_empty() => {
            (Condition::SchemaInvalid, "document".to_owned())
        }
        SchemaProblem::Invalid { pointer, .. } => (Condition::SchemaInvalid, format!("document#{pointer}")),
    };
    Problem::request(condition, &field, problem.to_string())
}

/// Committed data that a request needs and that cannot be read. The operator learns the file, the caller the partition.
fn of_damage(damage: &ReadError, consequence: Unreadable) -> Problem {
    tracing::error!(error = %damage, ?consequence, "failed to read committed data; the request is refused");
    match damage {
        ReadError::DataLoss { partition, offsets, .. } => {
            let message = format!("partition {partition} is damaged, so {consequence}: tell the operator");
            Problem::new(Condition::PartitionDamaged, message).with_damage(*partition, offsets)
        }
        ReadError::OutOfRange { .. } => {
            let message = format!("a partition is damaged, so {consequence}: tell the operator");
            Problem::new(Condition::PartitionDamaged, message)
        }
    }
}

impl Problem {
    fn at_event_field(mut self, field: String) -> Self {
        self.event_field = field;
        self
    }

    /// The event's field as the one field of the request that is wrong.
    fn with_event_field_detail(self) -> Self {
        let fields = vec![FieldProblem::new(self.event_field(), self.message())];
        self.with_fields(fields)
    }

    /// Public part of a damage: the place in the partition, and nothing of the node.
    fn with_damage(self, partition: PartitionId, offsets: &Range<Offset>) -> Self {
        let problem = self.with_metadata("partition", partition);
        if offsets.is_empty() {
            return problem;
        }
        problem.with_metadata("first_offset", offsets.start).with_metadata("end_offset", offsets.end)
    }
}

/// The data, or a part of it by JSON pointer.
fn data_field(violation: &Violation) -> String {
    match violation.pointer.as_str() {
        "" => "data".to_owned(),
        pointer => format!("data#{pointer}"),
    }
}

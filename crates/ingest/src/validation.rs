//! Validation of events against their account. One pass over the attributes, no allocation for a valid event.
//!
//! The data is validated by the caller: compiling a schema may have to wait.

use std::sync::Arc;

use fanfare_catalog::{AccountView, EventType, EventTypeStatus, Schema, json_schema::parse_dataschema};
use fanfare_model::{AttributeValue, Data, Event, EventError, EventIdHash, KeyHash};

use crate::refusal::Refusal;

const SPEC_VERSION: &str = "1.0";
/// Longest id of an event.
pub const ID_BYTES_MAX: usize = 256;
/// Longest source of an event.
pub const SOURCE_BYTES_MAX: usize = 512;
const SUBJECT_BYTES_MAX: usize = 1024;
/// Also the longest key that Kinesis takes.
const PARTITION_KEY_BYTES_MAX: usize = 256;
const ATTRIBUTES_MAX: usize = 64;
const ATTRIBUTE_NAME_BYTES_MAX: usize = 64;
/// Seconds of 0001-01-01T00:00:00Z up to 9999-12-31T23:59:59Z: the range of protobuf's Timestamp and of RFC 3339.
const TIME_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
const NANOS_PER_SECOND: i32 = 1_000_000_000;

/// A valid event, except for its data.
pub(crate) struct Checked<'event, 'view> {
    pub(crate) id: EventIdHash,
    pub(crate) key: KeyHash,
    pub(crate) data: Data<'event>,
    /// Schema that the data must satisfy.
    pub(crate) schema: Option<SchemaRef<'view>>,
}

/// One version of a schema.
#[derive(Clone, Copy)]
pub(crate) struct SchemaRef<'view> {
    pub(crate) schema: &'view Schema,
    /// Counted from 1; exists.
    pub(crate) version: u32,
}

impl<'view> SchemaRef<'view> {
    pub(crate) fn document(self) -> &'view Arc<str> {
        let index = usize::try_from(self.version - 1).expect("u32 fits in usize on this platform");
        &self.schema.versions[index].document
    }
}

/// Validation of one account's events against one view of the catalog.
pub(crate) struct Validation<'view> {
    view: &'view AccountView,
    event_bytes_max: usize,
    /// Type of the event before: neighbours mostly share it.
    last_type: Option<&'view EventType>,
}

impl<'view> Validation<'view> {
    pub(crate) fn new(view: &'view AccountView, event_bytes_max: usize) -> Self {
        Self { view, event_bytes_max, last_type: None }
    }

    pub(crate) fn check<'event>(&mut self, bytes: &'event [u8]) -> Result<Checked<'event, 'view>, Refusal> {
        if bytes.len() > self.event_bytes_max {
            return Err(Refusal::TooLarge { size_bytes: bytes.len(), limit_bytes: self.event_bytes_max });
        }
        let mut attributes = Attributes::default();
        let event = Event::parse_with(bytes, |name, value| attributes.check(name, value))?;
        if event.spec_version != SPEC_VERSION {
            let problem =
                format!("{:?} is not supported: send \"{SPEC_VERSION}\"", excerpt(event.spec_version));
            return Err(Refusal::invalid("spec_version", problem));
        }
        check_text("id", event.id, ID_BYTES_MAX)?;
        check_text("source", event.source, SOURCE_BYTES_MAX)?;
        let event_type = self.event_type(event.event_type)?;
        let key = attributes.partition_key.or(attributes.subject).unwrap_or(event.id);
        Ok(Checked {
            id: event.id_hash(),
            key: KeyHash::of(key),
            data: event.data,
            schema: self.schema(event_type, attributes.dataschema)?,
        })
    }

    fn event_type(&mut self, name: &str) -> Result<&'view EventType, Refusal> {
        if let Some(last) = self.last_type.filter(|last| last.name == name) {
            return Ok(last);
        }
        let Some(event_type) = self.view.event_types.get(name) else {
            return Err(Refusal::TypeUnknown { event_type: excerpt(name).to_owned() });
        };
        match event_type.status {
            EventTypeStatus::Available | EventTypeStatus::Deprecated | EventTypeStatus::Restricted => {}
            EventTypeStatus::Discontinued => {
                return Err(Refusal::TypeDiscontinued { event_type: event_type.name.clone() });
            }
        }
        self.last_type = Some(event_type);
        Ok(event_type)
    }

    /// The version that the event names in `dataschema`, else the latest. `dataschema` is not looked at for a type
    /// without a schema.
    fn schema(
        &self,
        event_type: &EventType,
        dataschema: Option<&str>,
    ) -> Result<Option<SchemaRef<'view>>, Refusal> {
        let Some(schema) = event_type.schema.as_ref().and_then(|id| self.view.schemas.get(id)) else {
            return Ok(None);
        };
        let latest = u32::try_from(schema.versions.len()).expect("versions are numbered by u32");
        let version = match dataschema.map(parse_dataschema) {
            None => latest,
            Some(Some((id, version))) if id == schema.id && version <= latest => version,
            Some(_) => {
                let problem = format!(
                    "dataschema {:?} is not a version of schema {} of type {:?}: leave it out or name \
                     urn:fanfare:schema:{}:N with N from 1 to {latest}",
                    excerpt(dataschema.unwrap_or_default()),
                    schema.id,
                    event_type.name,
                    schema.id,
                );
                return Err(Refusal::Dataschema { problem });
            }
        };
        Ok(Some(SchemaRef { schema, version }))
    }
}

/// Attributes that routing and the choice of the schema need; all others are only checked.
#[derive(Default)]
struct Attributes<'event> {
    partition_key: Option<&'event str>,
    subject: Option<&'event str>,
    dataschema: Option<&'event str>,
    count: usize,
}

impl<'event> Attributes<'event> {
    fn check(&mut self, name: &'event str, value: AttributeValue<'event>) -> Result<(), Refusal> {
        if self.count == ATTRIBUTES_MAX {
            let problem = format!("are more than {ATTRIBUTES_MAX}: move what is not context into the data");
            return Err(Refusal::invalid("attributes", problem));
        }
        self.count += 1;
        check_attribute_name(name)?;
        match name {
            "partitionkey" => self.partition_key = text_value(name, value, PARTITION_KEY_BYTES_MAX)?,
            "subject" => self.subject = text_value(name, value, SUBJECT_BYTES_MAX)?,
            "dataschema" => self.dataschema = text_value(name, value, SUBJECT_BYTES_MAX)?,
            "datacontenttype" => drop(text_value(name, value, ATTRIBUTE_NAME_BYTES_MAX * 4)?),
            "time" => check_time(value)?,
            _ => other_attribute(name, value)?,
        }
        Ok(())
    }
}

impl From<EventError> for Refusal {
    fn from(error: EventError) -> Self {
        match error {
            EventError::Malformed => Self::invalid("event", error.to_string()),
            EventError::NotText { field } => Self::invalid(field, "is not UTF-8"),
            EventError::Missing { field } => Self::invalid(field, "is required"),
            EventError::Twice { field } => Self::invalid(field, "is given twice: give one value"),
        }
    }
}

fn check_attribute_name(name: &str) -> Result<(), Refusal> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if name.is_empty() || name.len() > ATTRIBUTE_NAME_BYTES_MAX || !name.bytes().all(allowed) {
        let problem = format!(
            "has a name that CloudEvents does not allow: 1 to {ATTRIBUTE_NAME_BYTES_MAX} of a-z and 0-9"
        );
        return Err(Refusal::invalid(format!("attributes[{:?}]", excerpt(name)), problem));
    }
    if matches!(name, "id" | "source" | "specversion" | "type" | "data") {
        return Err(Refusal::invalid(format!("attributes[{name:?}]"), "belongs into the event's own field"));
    }
    Ok(())
}

fn check_text(field: &str, value: &str, bytes_max: usize) -> Result<(), Refusal> {
    if value.len() > bytes_max {
        return Err(Refusal::invalid(
            field,
            format!("has {} bytes; at most {bytes_max} are allowed", value.len()),
        ));
    }
    if has_control(value) {
        return Err(Refusal::invalid(field, "contains a control character"));
    }
    Ok(())
}

fn has_control(text: &str) -> bool {
    // No early exit, so that the compiler vectorises the loop. Outside ASCII only U+0080 to U+009F are control
    // characters, so the slow check runs for non-ASCII texts alone.
    let suspicious = |byte: u8| u8::from(!(b' '..0x7f).contains(&byte));
    text.bytes().fold(0, |flags, byte| flags | suspicious(byte)) != 0 && text.chars().any(char::is_control)
}

/// An empty text counts as absent, as everywhere in protobuf.
fn text_value<'event>(
    name: &str,
    value: AttributeValue<'event>,
    bytes_max: usize,
) -> Result<Option<&'event str>, Refusal> {
    let Some(value) = value.as_text() else { return Err(Refusal::invalid(name, "must be a text")) };
    check_text(name, value, bytes_max)?;
    Ok(Some(value).filter(|value| !value.is_empty()))
}

fn check_time(value: AttributeValue<'_>) -> Result<(), Refusal> {
    match value {
        AttributeValue::Timestamp { .. } => other_attribute("time", value),
        _ => Err(Refusal::invalid("time", "must be a timestamp (ce_timestamp)")),
    }
}

fn other_attribute(name: &str, value: AttributeValue<'_>) -> Result<(), Refusal> {
    match value {
        AttributeValue::String(value) | AttributeValue::Uri(value) | AttributeValue::UriReference(value) => {
            check_text(name, value, usize::MAX)
        }
        AttributeValue::Timestamp { seconds, nanos } => {
            match TIME_SECONDS.contains(&seconds) && (0..NANOS_PER_SECOND).contains(&nanos) {
                true => Ok(()),
                false => Err(Refusal::invalid(name, "is not a time of the years 1 to 9999")),
            }
        }
        AttributeValue::Boolean(_) | AttributeValue::Integer(_) | AttributeValue::Bytes(_) => Ok(()),
    }
}

/// Start of a caller's text, short enough to be repeated in a message.
fn excerpt(text: &str) -> &str {
    &text[..text.floor_char_boundary(128)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_all_of_unicode_are_detected() {
        for (text, expected) in [
            ("", false),
            ("an ordinary text of more than sixteen bytes ~", false),
            ("größer als 日本 🦀", false),
            ("\n", true),
            ("deleted\u{7f}", true),
            ("a long text whose last character is a next line\u{85}", true),
            ("\u{9f}", true),
            ("\u{a0}", false),
        ] {
            assert_eq!(has_control(text), expected, "{text:?}");
        }
    }
}

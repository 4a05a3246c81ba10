//! The event as it is stored: the bytes of one `io.cloudevents.v1.CloudEvent`, read in place.
//!
//! The producer's bytes go from publish to sink and are never re-encoded: this module only reads them.
//! Format: CloudEvents 1.0 protobuf format
//! (<https://github.com/cloudevents/spec/blob/main/cloudevents/formats/protobuf-format.md>).

use std::str;

use crate::{EventIdHash, KeyHash};

const VARINT_BYTES_MAX: usize = 10;
/// Bytes of a varint of 32 bits.
const SHORT_VARINT_BYTES_MAX: usize = 5;

/// One stored event, its context attributes and data borrowed from the stored bytes.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    bytes: &'a [u8],
    pub id: &'a str,
    pub source: &'a str,
    pub spec_version: &'a str,
    pub event_type: &'a str,
    pub data: Data<'a>,
}

/// The event's data, in the form in which the producer sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data<'a> {
    None,
    Binary(&'a [u8]),
    Text(&'a str),
    /// A serialized `google.protobuf.Any`.
    Proto(&'a [u8]),
}

/// A value of a CloudEvents attribute outside the four required ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttributeValue<'a> {
    Boolean(bool),
    Integer(i32),
    String(&'a str),
    Bytes(&'a [u8]),
    Uri(&'a str),
    UriReference(&'a str),
    Timestamp { seconds: i64, nanos: i32 },
}

impl<'a> AttributeValue<'a> {
    /// The text of a string or a URI; None for a value of another type.
    #[must_use]
    pub fn as_text(&self) -> Option<&'a str> {
        match *self {
            Self::String(text) | Self::Uri(text) | Self::UriReference(text) => Some(text),
            Self::Boolean(_) | Self::Integer(_) | Self::Bytes(_) | Self::Timestamp { .. } => None,
        }
    }
}

/// The defect of bytes that are not an event.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EventError {
    #[error("not a protobuf message of type io.cloudevents.v1.CloudEvent")]
    Malformed,
    #[error("{field} is not UTF-8")]
    NotText { field: &'static str },
    #[error("{field} is required")]
    Missing { field: &'static str },
    /// Readers of protobuf merge two messages in one field, so no part of the bytes is the value that they see.
    #[error("{field} is given twice")]
    Twice { field: &'static str },
}

impl<'a> Event<'a> {
    /// Reads the required attributes. Unknown fields are skipped and stay in the bytes. The last value of a field that is
    /// given several times counts, as in every protobuf reader.
    ///
    /// # Errors
    /// If the bytes are not a CloudEvent, one of id, source, spec_version and type is missing or empty, or `proto_data`
    /// is given twice.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EventError> {
        Self::scan(bytes, |_| Ok(()))
    }

    /// As [`Self::parse`], and in the same pass hands each of the other attributes to `visit`, in stored order. Bytes
    /// that this accepts are read by every protobuf reader, with the same values.
    ///
    /// # Errors
    /// As [`Self::parse`], if an attribute is malformed, and the errors of `visit`.
    pub fn parse_with<E: From<EventError>>(
        bytes: &'a [u8],
        mut visit: impl FnMut(&'a str, AttributeValue<'a>) -> Result<(), E>,
    ) -> Result<Self, E> {
        Self::scan(bytes, |entry| {
            let (name, value) = attribute(entry)?;
            visit(name, value)
        })
    }

    /// The type alone, of an event whose bytes were parsed before they were stored: whatever else the bytes hold is
    /// skipped and not looked into.
    ///
    /// # Errors
    /// If the bytes are not a protobuf message, or the type is missing, empty, or not UTF-8.
    pub fn type_of(bytes: &'a [u8]) -> Result<&'a str, EventError> {
        let mut last = None;
        let mut fields = Fields(bytes);
        while let Some(field) = fields.next()? {
            if let (4, Value::Bytes(value)) = field {
                last = Some(value);
            }
        }
        match text(last.unwrap_or_default(), "type")? {
            "" => Err(EventError::Missing { field: "type" }),
            event_type => Ok(event_type),
        }
    }

    fn scan<E: From<EventError>>(
        bytes: &'a [u8],
        mut entry: impl FnMut(&'a [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut event =
            Self { bytes, id: "", source: "", spec_version: "", event_type: "", data: Data::None };
        let mut fields = Fields(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(value)) => event.id = text(value, "id")?,
                (2, Value::Bytes(value)) => event.source = text(value, "source")?,
                (3, Value::Bytes(value)) => event.spec_version = text(value, "spec_version")?,
                (4, Value::Bytes(value)) => event.event_type = text(value, "type")?,
                (5, Value::Bytes(value)) => entry(value)?,
                (6, Value::Bytes(value)) => event.data = Data::Binary(value),
                (7, Value::Bytes(value)) => event.data = Data::Text(text(value, "text_data")?),
                (8, Value::Bytes(_)) if matches!(event.data, Data::Proto(_)) => {
                    return Err(EventError::Twice { field: "proto_data" }.into());
                }
                (8, Value::Bytes(value)) => {
                    check_any(value)?;
                    event.data = Data::Proto(value);
                }
                (1..=8, Value::Varint(_) | Value::Fixed) => return Err(EventError::Malformed.into()),
                _ => {}
            }
        }
        let required = [
            ("id", event.id),
            ("source", event.source),
            ("spec_version", event.spec_version),
            ("type", event.event_type),
        ];
        match required.iter().find(|(_, value)| value.is_empty()) {
            Some((field, _)) => Err(EventError::Missing { field }.into()),
            None => Ok(event),
        }
    }

    /// The stored bytes, exactly as the producer sent them.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The attributes beyond the required four, in stored order; malformed ones end the sequence with an error.
    pub fn attributes(
        &self,
    ) -> impl Iterator<Item = Result<(&'a str, AttributeValue<'a>), EventError>> + use<'a> {
        let mut fields = Fields(self.bytes);
        std::iter::from_fn(move || {
            loop {
                match fields.next() {
                    Ok(Some((5, Value::Bytes(entry)))) => return Some(attribute(entry)),
                    Ok(Some(_)) => {}
                    Ok(None) => return None,
                    Err(error) => {
                        fields.0 = &[];
                        return Some(Err(error));
                    }
                }
            }
        })
    }

    /// The last value of the attribute `name`, if it is given and well-formed.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<AttributeValue<'a>> {
        let mut found = None;
        let mut fields = Fields(self.bytes);
        while let Ok(Some((number, value))) = fields.next() {
            if let (5, Value::Bytes(entry)) = (number, value)
                && let Ok((key, value)) = attribute(entry)
                && key == name
            {
                found = Some(value);
            }
        }
        found
    }

    /// The text of the attribute `name`; see [`AttributeValue::as_text`].
    #[must_use]
    pub fn text_attribute(&self, name: &str) -> Option<&'a str> {
        self.attribute(name).and_then(|value| value.as_text()).filter(|text| !text.is_empty())
    }

    /// The partition key, which decides the partition and is the unit of order: `partitionkey`, else `subject`, else the
    /// id.
    #[must_use]
    pub fn partition_key(&self) -> &'a str {
        let (mut partition_key, mut subject) = (None, None);
        for (name, value) in self.attributes().flatten() {
            match name {
                "partitionkey" => partition_key = value.as_text().filter(|text| !text.is_empty()),
                "subject" => subject = value.as_text().filter(|text| !text.is_empty()),
                _ => {}
            }
        }
        partition_key.or(subject).unwrap_or(self.id)
    }

    #[must_use]
    pub fn key_hash(&self) -> KeyHash {
        KeyHash::of(self.partition_key())
    }

    #[must_use]
    pub fn id_hash(&self) -> EventIdHash {
        EventIdHash::of(self.source, self.id)
    }
}

fn text<'a>(bytes: &'a [u8], field: &'static str) -> Result<&'a str, EventError> {
    str::from_utf8(bytes).map_err(|_| EventError::NotText { field })
}

/// Refuses bytes that are not a `google.protobuf.Any`. The message inside may be of any format.
fn check_any(bytes: &[u8]) -> Result<(), EventError> {
    let mut fields = Fields(bytes);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Bytes(type_url)) => drop(text(type_url, "proto_data.type_url")?),
            (1 | 2, Value::Varint(_) | Value::Fixed) => return Err(EventError::Malformed),
            _ => {}
        }
    }
    Ok(())
}

fn attribute(entry: &[u8]) -> Result<(&str, AttributeValue<'_>), EventError> {
    let (mut name, mut value) = ("", None);
    let mut fields = Fields(entry);
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Value::Bytes(bytes)) => name = text(bytes, "attribute name")?,
            (2, Value::Bytes(_)) if value.is_some() => {
                return Err(EventError::Twice { field: "attribute value" });
            }
            (2, Value::Bytes(bytes)) => value = Some(attribute_value(bytes)?),
            _ => return Err(EventError::Malformed),
        }
    }
    // A value message without a set field is protobuf's default: no value was given at all.
    Ok((name, value.flatten().unwrap_or(AttributeValue::String(""))))
}

fn attribute_value(bytes: &[u8]) -> Result<Option<AttributeValue<'_>>, EventError> {
    let mut found = None;
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        found = Some(match (number, value) {
            (1, Value::Varint(value)) => AttributeValue::Boolean(value != 0),
            #[expect(
                clippy::cast_possible_truncation,
                reason = "protobuf stores an int32 sign-extended to 64 bits"
            )]
            (2, Value::Varint(value)) => AttributeValue::Integer(value as i32),
            (3, Value::Bytes(value)) => AttributeValue::String(text(value, "attribute")?),
            (4, Value::Bytes(value)) => AttributeValue::Bytes(value),
            (5, Value::Bytes(value)) => AttributeValue::Uri(text(value, "attribute")?),
            (6, Value::Bytes(value)) => AttributeValue::UriReference(text(value, "attribute")?),
            (7, Value::Bytes(_)) if matches!(found, Some(AttributeValue::Timestamp { .. })) => {
                return Err(EventError::Twice { field: "ce_timestamp" });
            }
            (7, Value::Bytes(value)) => timestamp(value)?,
            _ => return Err(EventError::Malformed),
        });
    }
    Ok(found)
}

#[expect(
    clippy::cast_possible_wrap,
    clippy::cast_possible_truncation,
    reason = "protobuf's encoding of int64 and int32"
)]
fn timestamp(bytes: &[u8]) -> Result<AttributeValue<'_>, EventError> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut fields = Fields(bytes);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Varint(value)) => seconds = value as i64,
            (2, Value::Varint(value)) => nanos = value as i32,
            _ => return Err(EventError::Malformed),
        }
    }
    Ok(AttributeValue::Timestamp { seconds, nanos })
}

/// The unread rest of a protobuf message.
struct Fields<'a>(&'a [u8]);

enum Value<'a> {
    Varint(u64),
    /// Four or eight bytes; no field of an event is of such a type.
    Fixed,
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    /// The next field and its number. Groups are refused: no encoder of this format writes them.
    #[inline]
    fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, EventError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.short_varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.fixed(8)?,
            2 => {
                let length = usize::try_from(self.short_varint()?).map_err(|_| EventError::Malformed)?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.fixed(4)?,
            _ => return Err(EventError::Malformed),
        };
        match key >> 3 {
            0 => Err(EventError::Malformed),
            number => Ok(Some((number, value))),
        }
    }

    /// A key or a length. Some readers take more than five bytes for one, others do not.
    #[inline]
    fn short_varint(&mut self) -> Result<u32, EventError> {
        let before = self.0.len();
        let value = self.varint()?;
        match before - self.0.len() <= SHORT_VARINT_BYTES_MAX {
            true => u32::try_from(value).map_err(|_| EventError::Malformed),
            false => Err(EventError::Malformed),
        }
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, EventError> {
        // Keys and most lengths take one byte, so the loop below is rarely needed.
        match self.0 {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.0 = rest;
                Ok((*byte).into())
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, EventError> {
        let mut value = 0;
        for (index, &byte) in self.0.iter().take(VARINT_BYTES_MAX).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                // The last byte has room for one bit of 64.
                let overflows = index == VARINT_BYTES_MAX - 1 && byte > 1;
                self.0 = &self.0[index + 1..];
                return if overflows { Err(EventError::Malformed) } else { Ok(value) };
            }
        }
        Err(EventError::Malformed)
    }

    fn fixed(&mut self, size_bytes: usize) -> Result<Value<'a>, EventError> {
        self.take(size_bytes).map(|_| Value::Fixed)
    }

    #[inline]
    fn take(&mut self, size_bytes: usize) -> Result<&'a [u8], EventError> {
        let (taken, rest) = self.0.split_at_checked(size_bytes).ok_or(EventError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests;

//! A stored event as CloudEvents JSON 1.0, structured mode
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>).
//!
//! Writes into one buffer. Data that is declared as JSON and is JSON is copied byte for byte: the producer's
//! signatures, hashes and formatting stay valid.

use base64::{Engine, engine::general_purpose::STANDARD};
use fanfare_model::{AttributeValue, Data, Event, EventError};
use jiff::fmt::temporal::DateTimePrinter;
use serde::de::IgnoredAny;

use crate::{Delivery, Failure};

/// The reason that a stored event cannot be written as JSON. Publishing refuses such events; a log may hold older
/// ones.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    #[error("the stored event is malformed: {0}")]
    Malformed(#[from] EventError),
    #[error("the attribute name {0:?} is reserved or not made of a-z and 0-9")]
    AttributeName(String),
    #[error("the attribute {0:?} is a time outside the years -9999 to 9999")]
    Time(String),
}

impl From<EncodeError> for Failure {
    fn from(error: EncodeError) -> Self {
        Self::new(Self::ENCODING, &error.to_string())
    }
}

/// Appends `delivery`'s event to `out` as one JSON object and returns the event.
///
/// # Errors
/// If the event cannot be expressed; `out` is then unchanged.
pub(crate) fn write_json<'a>(out: &mut Vec<u8>, delivery: &'a Delivery) -> Result<Event<'a>, EncodeError> {
    let start = out.len();
    let event = Event::parse(&delivery.bytes)?;
    let result = write_object(out, &event, delivery);
    if result.is_err() {
        out.truncate(start);
    }
    result.map(|()| event)
}

/// Bytes that [`write_json`] usually needs beyond the stored bytes.
pub(crate) const OVERHEAD_BYTES: usize = 256;

fn write_object(out: &mut Vec<u8>, event: &Event<'_>, delivery: &Delivery) -> Result<(), EncodeError> {
    out.extend_from_slice(b"{\"specversion\":");
    write_text(out, event.spec_version);
    for (name, text) in [("id", event.id), ("source", event.source), ("type", event.event_type)] {
        write_name(out, name);
        write_text(out, text);
    }
    let (mut content_type, mut has_time) = (None, false);
    for (name, value) in unique_attributes(event)? {
        match name {
            "dataschema" if delivery.dataschema.is_some() => continue,
            "datacontenttype" => content_type = value.as_text(),
            "time" => has_time = true,
            _ => {}
        }
        check_name(name)?;
        write_name(out, name);
        write_value(out, name, value)?;
    }
    if !has_time {
        write_name(out, "time");
        write_append_time(out, delivery)?;
    }
    if let Some(dataschema) = &delivery.dataschema {
        write_name(out, "dataschema");
        write_text(out, dataschema);
    }
    write_data(out, event.data, content_type);
    out.push(b'}');
    Ok(())
}

/// The attributes in stored order. A repeated name keeps its last value, as in maps of protobuf.
fn unique_attributes<'a>(event: &Event<'a>) -> Result<Vec<(&'a str, AttributeValue<'a>)>, EventError> {
    let mut attributes: Vec<(&str, AttributeValue<'_>)> = Vec::with_capacity(8);
    for attribute in event.attributes() {
        let (name, value) = attribute?;
        match attributes.iter_mut().find(|(other, _)| *other == name) {
            Some((_, last)) => *last = value,
            None => attributes.push((name, value)),
        }
    }
    Ok(attributes)
}

fn check_name(name: &str) -> Result<(), EncodeError> {
    let is_reserved = matches!(name, "specversion" | "id" | "source" | "type" | "data");
    let is_valid =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if is_reserved || !is_valid {
        return Err(EncodeError::AttributeName(name.chars().take(64).collect()));
    }
    Ok(())
}

/// `,"name":`; the name needs no escaping.
fn write_name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing a string to memory cannot fail");
}

fn write_value(out: &mut Vec<u8>, name: &str, value: AttributeValue<'_>) -> Result<(), EncodeError> {
    match value {
        AttributeValue::Boolean(flag) => out.extend_from_slice(if flag { b"true" } else { b"false" }),
        AttributeValue::Integer(number) => {
            serde_json::to_writer(out, &number).expect("writing a number to memory cannot fail");
        }
        AttributeValue::String(text) | AttributeValue::Uri(text) | AttributeValue::UriReference(text) => {
            write_text(out, text);
        }
        AttributeValue::Bytes(bytes) => write_base64(out, bytes),
        AttributeValue::Timestamp { seconds, nanos } => {
            let time =
                jiff::Timestamp::new(seconds, nanos).map_err(|_| EncodeError::Time(name.to_owned()))?;
            write_time(out, time, None);
        }
    }
    Ok(())
}

fn write_append_time(out: &mut Vec<u8>, delivery: &Delivery) -> Result<(), EncodeError> {
    let time = i64::try_from(delivery.append_time.0)
        .ok()
        .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
        .ok_or_else(|| EncodeError::Time("time".to_owned()))?;
    write_time(out, time, Some(3));
    Ok(())
}

/// RFC 3339 in UTC, with `digits` of the fraction, or with all of its digits.
fn write_time(out: &mut Vec<u8>, time: jiff::Timestamp, digits: Option<u8>) {
    out.push(b'"');
    DateTimePrinter::new()
        .precision(digits)
        .print_timestamp(&time, &mut *out)
        .expect("writing a time to memory cannot fail");
    out.push(b'"');
}

fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).expect("base64 needs 4 bytes for each 3");
    out.truncate(start + written);
    out.push(b'"');
}

/// JSON verbatim, other text as a JSON string, other bytes as base64. A protobuf `Any` counts as bytes.
fn write_data(out: &mut Vec<u8>, data: Data<'_>, content_type: Option<&str>) {
    let verbatim = match data {
        Data::None => return,
        Data::Text(text) => content_type.is_none_or(is_json) && is_well_formed(text),
        Data::Binary(bytes) => {
            content_type.is_some_and(is_json) && str::from_utf8(bytes).is_ok_and(is_well_formed)
        }
        Data::Proto(_) => false,
    };
    match data {
        Data::None => {}
        Data::Text(text) if verbatim => {
            write_name(out, "data");
            out.extend_from_slice(text.as_bytes());
        }
        Data::Binary(bytes) if verbatim => {
            write_name(out, "data");
            out.extend_from_slice(bytes);
        }
        Data::Text(text) => {
            write_name(out, "data");
            write_text(out, text);
        }
        Data::Binary(bytes) | Data::Proto(bytes) => {
            write_name(out, "data_base64");
            write_base64(out, bytes);
        }
    }
}

fn is_well_formed(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// True for media types with the subtype `json` or the suffix `+json`. Parameters do not matter.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let Some((_, subtype)) = essence.split_once('/') else { return false };
    subtype.eq_ignore_ascii_case("json")
        || subtype.len() > 5
            && subtype.is_char_boundary(subtype.len() - 5)
            && subtype[subtype.len() - 5..].eq_ignore_ascii_case("+json")
}

#[cfg(test)]
mod tests;

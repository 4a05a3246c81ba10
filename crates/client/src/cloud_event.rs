//! CloudEvents' JSON format (<https://github.com/cloudevents/spec>, formats/json-format.md).

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use fanfare_proto::cloudevents::v1::{
    CloudEvent,
    cloud_event::{CloudEventAttributeValue, Data, cloud_event_attribute_value::Attr},
};
use serde::{
    Serialize, Serializer,
    ser::{Error, SerializeMap},
};
use serde_json::value::RawValue;

use crate::time;

/// An event that serializes in CloudEvents' JSON format. JSON data is passed on byte for byte.
#[derive(Clone, Copy, Debug)]
pub struct CloudEventJson<'a>(pub &'a CloudEvent);

impl Serialize for CloudEventJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("specversion", &event.spec_version)?;
        map.serialize_entry("id", &event.id)?;
        map.serialize_entry("source", &event.source)?;
        map.serialize_entry("type", &event.r#type)?;
        for (name, value) in event.attributes.iter().collect::<BTreeMap<_, _>>() {
            serialize_attribute(&mut map, name, value)?;
        }
        match &event.data {
            None => {}
            Some(Data::TextData(text)) => serialize_text(&mut map, text, holds_json(event))?,
            Some(Data::BinaryData(bytes)) => match str::from_utf8(bytes) {
                Ok(text) if holds_json(event) => serialize_text(&mut map, text, true)?,
                _ => map.serialize_entry("data_base64", &BASE64_STANDARD.encode(bytes))?,
            },
            Some(Data::ProtoData(any)) => {
                map.serialize_entry("data_base64", &BASE64_STANDARD.encode(&any.value))?
            }
        }
        map.end()
    }
}

fn serialize_attribute<M: SerializeMap>(
    map: &mut M,
    name: &str,
    value: &CloudEventAttributeValue,
) -> Result<(), M::Error> {
    match &value.attr {
        None => Ok(()),
        Some(Attr::CeBoolean(value)) => map.serialize_entry(name, value),
        Some(Attr::CeInteger(value)) => map.serialize_entry(name, value),
        Some(Attr::CeString(value) | Attr::CeUri(value) | Attr::CeUriRef(value)) => {
            map.serialize_entry(name, value)
        }
        Some(Attr::CeBytes(value)) => map.serialize_entry(name, &BASE64_STANDARD.encode(value)),
        Some(Attr::CeTimestamp(value)) => map.serialize_entry(name, &time::text(Some(value))),
    }
}

fn serialize_text<M: SerializeMap>(map: &mut M, text: &str, as_json: bool) -> Result<(), M::Error> {
    // A line feed is blank to JSON but ends the value where values are lines.
    let one_line = !text.contains(['\n', '\r']);
    match serde_json::from_str::<&RawValue>(text) {
        Ok(raw) if as_json && one_line => map.serialize_entry("data", raw),
        Ok(_) if as_json => {
            let value: serde_json::Value = serde_json::from_str(text).map_err(M::Error::custom)?;
            map.serialize_entry("data", &value)
        }
        _ => map.serialize_entry("data", text),
    }
}

/// True if the content type is JSON or missing.
fn holds_json(event: &CloudEvent) -> bool {
    let content_type = event.attributes.get("datacontenttype").and_then(|value| value.attr.as_ref());
    match content_type {
        Some(Attr::CeString(content_type)) => {
            let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            media_type == "application/json" || media_type == "text/json" || media_type.ends_with("+json")
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::EventBuilder;

    fn json(event: &CloudEvent) -> String {
        serde_json::to_string(&CloudEventJson(event)).unwrap()
    }

    fn event() -> EventBuilder {
        EventBuilder::new("t").id("1").source("/s")
    }

    #[test]
    fn each_kind_of_data_is_shown_as_the_format_says() {
        const HEAD: &str = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t""#;
        let cases = [
            (event().build(), String::from("}")),
            (
                event().json("{\"a\": 1.50}").unwrap().subject("x").build(),
                r#","datacontenttype":"application/json","subject":"x","data":{"a": 1.50}}"#.to_owned(),
            ),
            (
                event().json("{\n\"a\":1}").unwrap().build(),
                r#","datacontenttype":"application/json","data":{"a":1}}"#.to_owned(),
            ),
            (
                event().bytes(Bytes::from_static(b"[1]"), "application/vnd.x+json; v=1").build(),
                r#","datacontenttype":"application/vnd.x+json; v=1","data":[1]}"#.to_owned(),
            ),
            (
                event().bytes(Bytes::from_static(b"\xff"), "image/png").build(),
                r#","datacontenttype":"image/png","data_base64":"/w=="}"#.to_owned(),
            ),
            (event().attribute("n", Attr::CeInteger(-3)).build(), r#","n":-3}"#.to_owned()),
        ];
        for (event, tail) in cases {
            assert_eq!(json(&event), format!("{HEAD}{tail}"));
        }
    }
}

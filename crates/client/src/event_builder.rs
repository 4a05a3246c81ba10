//! Makes CloudEvents: the required attributes are always there, the data stays as it was given.

use std::collections::HashMap;

use bytes::Bytes;
use fanfare_proto::cloudevents::v1::{
    CloudEvent,
    cloud_event::{CloudEventAttributeValue, Data, cloud_event_attribute_value::Attr},
};
use serde::de::IgnoredAny;
use uuid::Uuid;

/// Source of events that name none.
pub const DEFAULT_SOURCE: &str = "fanfare-cli";

/// A CloudEvent in the making. Unless given, the id is a fresh UUIDv7 and the source `fanfare-cli`.
///
/// No `time` is set by itself: repeating a publish under the same id must give the same event.
#[derive(Clone, Debug)]
pub struct EventBuilder {
    event: CloudEvent,
}

impl EventBuilder {
    #[must_use]
    pub fn new(event_type: impl Into<String>) -> Self {
        Self {
            event: CloudEvent {
                id: Uuid::now_v7().to_string(),
                source: DEFAULT_SOURCE.to_owned(),
                spec_version: "1.0".to_owned(),
                r#type: event_type.into(),
                attributes: HashMap::new(),
                data: None,
            },
        }
    }

    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.event.id = id.into();
        self
    }

    #[must_use]
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.event.source = source.into();
        self
    }

    #[must_use]
    pub fn subject(self, subject: impl Into<String>) -> Self {
        self.attribute("subject", Attr::CeString(subject.into()))
    }

    /// Decides the partition and the order in place of the subject.
    #[must_use]
    pub fn partition_key(self, key: impl Into<String>) -> Self {
        self.attribute("partitionkey", Attr::CeString(key.into()))
    }

    /// Names the schema version the data is meant for.
    #[must_use]
    pub fn dataschema(self, uri: impl Into<String>) -> Self {
        self.attribute("dataschema", Attr::CeUri(uri.into()))
    }

    #[must_use]
    pub fn attribute(mut self, name: impl Into<String>, value: Attr) -> Self {
        self.event.attributes.insert(name.into(), CloudEventAttributeValue { attr: Some(value) });
        self
    }

    /// Data as JSON text, kept byte for byte; refused if it is not JSON.
    pub fn json(mut self, text: impl Into<String>) -> Result<Self, serde_json::Error> {
        let text = text.into();
        serde_json::from_str::<IgnoredAny>(&text)?;
        self.event.data = Some(Data::TextData(text));
        Ok(self.attribute("datacontenttype", Attr::CeString("application/json".to_owned())))
    }

    /// Data as bytes of the given media type.
    #[must_use]
    pub fn bytes(mut self, data: Bytes, content_type: impl Into<String>) -> Self {
        self.event.data = Some(Data::BinaryData(data));
        self.attribute("datacontenttype", Attr::CeString(content_type.into()))
    }

    #[must_use]
    pub fn build(self) -> CloudEvent {
        self.event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_attributes_are_there_and_ids_differ() {
        let (first, second) = (EventBuilder::new("a.b").build(), EventBuilder::new("a.b").build());
        assert_ne!(first.id, second.id);
        assert_eq!(Uuid::parse_str(&first.id).unwrap().get_version_num(), 7);
        assert_eq!((first.spec_version.as_str(), first.source.as_str()), ("1.0", "fanfare-cli"));
        assert!(first.attributes.is_empty() && first.data.is_none());
    }

    #[test]
    fn json_is_kept_byte_for_byte_and_nothing_else_passes() {
        let text = "{ \"amount\": 1.50 }";
        let event = EventBuilder::new("a.b").json(text).unwrap().build();
        assert_eq!(event.data, Some(Data::TextData(text.to_owned())));
        let content_type = event.attributes["datacontenttype"].attr.clone();
        assert_eq!(content_type, Some(Attr::CeString("application/json".to_owned())));
        for bad in ["", "{", "{} {}", "nul"] {
            assert!(EventBuilder::new("a.b").json(bad).is_err(), "{bad:?} was taken");
        }
    }
}

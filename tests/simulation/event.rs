//! The events of a simulation: all of an event follows from its id.

use fanfare_proto::cloudevents::v1::{
    CloudEvent,
    cloud_event::{CloudEventAttributeValue, Data, cloud_event_attribute_value::Attr},
};
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

pub(crate) const SOURCE: &str = "/simulation";
/// The producers are of these accounts in turn.
pub(crate) const ACCOUNTS: u32 = 2;
/// The keys of a producer follow those of the one before.
pub(crate) const KEYS_PER_PRODUCER: u32 = 4;
/// Types of events; a key has events of one type.
pub(crate) const TYPES: [&str; 2] = ["order.placed", "order.paid"];

/// The event number `number` of a key; the first is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EventName {
    pub(crate) key: u32,
    pub(crate) number: u32,
}

impl EventName {
    pub(crate) fn id(self) -> String {
        format!("k{}-{}", self.key, self.number)
    }

    pub(crate) fn parse(id: &str) -> Option<Self> {
        let (key, number) = id.strip_prefix('k')?.split_once('-')?;
        Some(Self { key: key.parse().ok()?, number: number.parse().ok()? })
    }

    /// Number of the account that publishes the key's events.
    pub(crate) fn account(self) -> u32 {
        self.key / KEYS_PER_PRODUCER % ACCOUNTS
    }

    pub(crate) fn event_type(self) -> &'static str {
        TYPES[self.key as usize % TYPES.len()]
    }

    /// The event as its producer sends it.
    pub(crate) fn encode(self) -> Vec<u8> {
        self.encode_as(0)
    }

    /// Another event under the same id, for another `version`.
    pub(crate) fn encode_as(self, version: u64) -> Vec<u8> {
        let id = self.id();
        let hash = xxh3_64(id.as_bytes());
        let length = 16 + usize::try_from(hash % 1_000).expect("a small number");
        // One attribute: several would be encoded in the order of a hash map.
        let key = CloudEventAttributeValue { attr: Some(Attr::CeString(format!("key-{}", self.key))) };
        let event = CloudEvent {
            id,
            source: SOURCE.to_owned(),
            spec_version: "1.0".to_owned(),
            r#type: self.event_type().to_owned(),
            attributes: [("partitionkey".to_owned(), key)].into(),
            data: Some(Data::TextData(format!("{version}{}", "x".repeat(length)))),
        };
        event.encode_to_vec()
    }
}

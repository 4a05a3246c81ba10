//! The events of a simulation: all of an event follows from its account and its id.

use std::fmt;

use fanfare_proto::cloudevents::v1::{
    CloudEvent,
    cloud_event::{CloudEventAttributeValue, Data, cloud_event_attribute_value::Attr},
};
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

pub(crate) const SOURCE: &str = "/simulation";
/// The producers are of these accounts in turn. There is one more than partitions: two share one, with the same keys and
/// ids.
pub(crate) const ACCOUNTS: u32 = 3;
/// The keys of a producer follow those of the one before of its account.
pub(crate) const KEYS_PER_PRODUCER: u32 = 4;
/// The key of the events that are published at the end, until everything is settled: their delivery proves that rejected
/// ones are at fault themselves.
pub(crate) const CLOSING_KEY: u32 = 1_000;
/// Types of events; a key has events of one type.
pub(crate) const TYPES: [&str; 2] = ["order.placed", "order.paid"];

/// The event number `number` of an account's key; the first is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EventName {
    pub(crate) account: u32,
    pub(crate) key: u32,
    pub(crate) number: u32,
}

impl EventName {
    pub(crate) fn id(self) -> String {
        format!("k{}-{}", self.key, self.number)
    }

    /// The event of `account` with this id.
    pub(crate) fn parse(account: u32, id: &str) -> Option<Self> {
        let (key, number) = id.strip_prefix('k')?.split_once('-')?;
        Some(Self { account, key: key.parse().ok()?, number: number.parse().ok()? })
    }

    pub(crate) fn event_type(self) -> &'static str {
        TYPES[self.key as usize % TYPES.len()]
    }

    fn partition_key(self) -> String {
        format!("key-{}", self.key)
    }

    fn data(self, version: u64) -> String {
        let length = 16 + usize::try_from(xxh3_64(self.id().as_bytes()) % 1_000).expect("a small number");
        format!("{version} of account {} {}", self.account, "x".repeat(length))
    }

    /// True if `body` is the event as CloudEvents JSON, with a time added, and nothing else.
    pub(crate) fn is_json(self, body: &serde_json::Value) -> bool {
        let expected = serde_json::json!({
            "specversion": "1.0",
            "id": self.id(),
            "source": SOURCE,
            "type": self.event_type(),
            "partitionkey": self.partition_key(),
            "time": body["time"],
            "data": self.data(0),
        });
        body["time"].is_string() && *body == expected
    }

    /// The event as its producer sends it.
    pub(crate) fn encode(self) -> Vec<u8> {
        self.encode_as(0)
    }

    /// Another event under the same id, for another `version`.
    pub(crate) fn encode_as(self, version: u64) -> Vec<u8> {
        // One attribute: several would be encoded in the order of a hash map.
        let key = CloudEventAttributeValue { attr: Some(Attr::CeString(self.partition_key())) };
        let event = CloudEvent {
            id: self.id(),
            source: SOURCE.to_owned(),
            spec_version: "1.0".to_owned(),
            r#type: self.event_type().to_owned(),
            attributes: [("partitionkey".to_owned(), key)].into(),
            data: Some(Data::TextData(self.data(version))),
        };
        event.encode_to_vec()
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} of account {}", self.id(), self.account)
    }
}

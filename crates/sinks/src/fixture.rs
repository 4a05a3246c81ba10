//! Stored events for this crate's tests, encoded by hand because this crate has no generated protobuf types.

use bytes::Bytes;
use fanfare_environment::Environment;
use fanfare_model::{AccountId, Event, Offset, Timestamp};

use crate::{
    Delivery,
    egress::{AccountBudget, ConnectionLimits, EgressBudget},
};

pub(crate) const APPEND_TIME: Timestamp = Timestamp(1_784_635_200_007);

pub(crate) const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);

/// The budget of a node that has only this account.
pub(crate) fn budget() -> AccountBudget {
    EgressBudget::new(ConnectionLimits::default(), Environment::system()).of(ACCOUNT)
}

/// A minimal event with JSON data. `number` makes the id.
pub(crate) fn delivery(number: u64) -> Delivery {
    let stored = EventBuilder::new(&format!("evt-{number}"), "/orders", "com.acme.order.paid")
        .text("datacontenttype", "application/json")
        .data_text(&format!(r#"{{"number": {number}}}"#));
    Delivery { offset: Offset(number), ..stored.delivery() }
}

/// Builds the protobuf bytes of a CloudEvent.
pub(crate) struct EventBuilder(Vec<u8>);

impl EventBuilder {
    pub(crate) fn new(id: &str, source: &str, event_type: &str) -> Self {
        Self(Vec::new()).field(1, id).field(2, source).field(3, "1.0").field(4, event_type)
    }

    pub(crate) fn text(self, name: &str, value: &str) -> Self {
        self.attribute(name, &Self(Vec::new()).field(3, value).0)
    }

    pub(crate) fn boolean(self, name: &str, value: bool) -> Self {
        self.attribute(name, &[1 << 3, value.into()])
    }

    pub(crate) fn integer(self, name: &str, value: i32) -> Self {
        let mut bytes = vec![2 << 3];
        push_varint(&mut bytes, i64::from(value).cast_unsigned());
        self.attribute(name, &bytes)
    }

    pub(crate) fn bytes(self, name: &str, value: &[u8]) -> Self {
        self.attribute(name, &Self(Vec::new()).field(4, value).0)
    }

    pub(crate) fn uri(self, name: &str, value: &str) -> Self {
        self.attribute(name, &Self(Vec::new()).field(5, value).0)
    }

    pub(crate) fn time(self, name: &str, seconds: i64, nanos: u32) -> Self {
        let mut timestamp = vec![1 << 3];
        push_varint(&mut timestamp, seconds.cast_unsigned());
        timestamp.push(2 << 3);
        push_varint(&mut timestamp, nanos.into());
        self.attribute(name, &Self(Vec::new()).field(7, &timestamp).0)
    }

    pub(crate) fn data_text(self, data: &str) -> Self {
        self.field(7, data)
    }

    pub(crate) fn data_bytes(self, data: &[u8]) -> Self {
        self.field(6, data)
    }

    pub(crate) fn data_proto(self, data: &[u8]) -> Self {
        self.field(8, data)
    }

    pub(crate) fn delivery(self) -> Delivery {
        let bytes = Bytes::from(self.0);
        let key = Event::parse(&bytes).expect("the fixture is an event").key_hash();
        Delivery { bytes, offset: Offset(0), partition: 0, key, append_time: APPEND_TIME, dataschema: None }
    }

    fn attribute(self, name: &str, value: &[u8]) -> Self {
        let entry = Self(Vec::new()).field(1, name).field(2, value).0;
        self.field(5, entry)
    }

    fn field(mut self, number: u8, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.0.push(number << 3 | 2);
        push_varint(&mut self.0, value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a varint is made of the low bits")]
fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

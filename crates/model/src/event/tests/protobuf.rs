//! Bytes that the reader in place accepts are bytes that a generated reader decodes, to the same values.

use std::collections::HashMap;

use fanfare_proto::cloudevents::v1::{
    CloudEvent,
    cloud_event::{CloudEventAttributeValue, Data as DecodedData, cloud_event_attribute_value::Attr},
};
use prost::{Message, bytes::Bytes};
use prost_types::{Any, Timestamp};

use super::*;

/// Cases of one run; the seeds are their numbers.
const CASES: u64 = 60_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }
}

fn attribute_value(random: &mut Random) -> CloudEventAttributeValue {
    let text = random.pick(&["", "customer-7", "größer", "日本"]).to_owned();
    let attr = match random.below(9) {
        0 => Attr::CeBoolean(true),
        1 => Attr::CeInteger(random.pick(&[0, 1, -1, i32::MIN, i32::MAX])),
        2 => Attr::CeBytes(Bytes::from_static(b"\xff\0")),
        3 => Attr::CeUri(text),
        4 => Attr::CeUriRef(text),
        5 => Attr::CeTimestamp(Timestamp { seconds: random.pick(&[0, -1, i64::MAX]), nanos: 999_999_999 }),
        6 => return CloudEventAttributeValue { attr: None },
        _ => Attr::CeString(text),
    };
    CloudEventAttributeValue { attr: Some(attr) }
}

fn encoded(random: &mut Random) -> Vec<u8> {
    let data = match random.below(5) {
        0 => None,
        1 => Some(DecodedData::BinaryData(Bytes::from(vec![0xfe; random.below(200)]))),
        2 => Some(DecodedData::TextData(random.pick(&["", "{\"a\":1}", "größer"]).to_owned())),
        _ => Some(DecodedData::ProtoData(Any {
            type_url: random.pick(&["", "type.example/shop.Order"]).to_owned(),
            value: vec![8; random.below(4)],
        })),
    };
    let attributes = ["subject", "time", "größe"].into_iter().take(random.below(4));
    let event = CloudEvent {
        id: "e-1".to_owned(),
        source: "/shop".to_owned(),
        spec_version: "1.0".to_owned(),
        r#type: random.pick(&["order.paid", "größe"]).to_owned(),
        attributes: attributes.map(|name| (name.to_owned(), attribute_value(random))).collect(),
        data,
    };
    let mut bytes = event.encode_to_vec();
    if random.below(3) == 0 {
        // A field of a later version of the format.
        bytes.extend(random.pick(&[
            &b"\x48\xac\x02"[..],
            b"\x4a\x02\xff\xff",
            b"\x4d\x01\x02\x03\x04",
            b"\x49\x01\x02\x03\x04\x05\x06\x07\x08",
        ]));
    }
    bytes
}

/// Keys, lengths and numbers that a mutation puts in, each odd in its own way.
const SPLICES: &[&[u8]] = &[
    b"\x00",
    b"\x03",
    b"\x07",
    b"\x0b\x0c",
    b"\x4b\x08\x01\x4c",
    b"\x0c",
    b"\xff",
    b"\x80\x00",
    b"\x8a\x80\x80\x80\x00\x00",
    b"\x8a\x80\x80\x80\x80\x00\x00",
    b"\xfa\xff\xff\xff\x0f\x00",
    b"\xfa\xff\xff\xff\x1f\x00",
    b"\x82\x80\x80\x80\x20\x00",
    b"\x48\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x48\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
    b"\x48\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x42\x04\x0a\x02\xff\xfe",
    b"\x42\x02\x08\x01",
    b"\x42\x03\x0a\x01x",
    b"\x42\x03\x12\x01x",
    b"\x42\x00",
    b"\x32\x01x",
    b"\x3a\x01\xff",
    b"\x2a\x06\x0a\x01s\x12\x01\x00",
    b"\x2a\x07\x0a\x01s\x12\x02\x08\x05",
    b"\x2a\x0d\x0a\x01s\x12\x08\x3a\x02\x08\x01\x3a\x02\x10\x01",
    b"\x2a\x0b\x0a\x01s\x12\x02\x10\x07\x12\x02\x10\x08",
    b"\x2a\x0e\x0a\x01s\x12\x09\x11\x01\x02\x03\x04\x05\x06\x07\x08",
];

fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..=random.below(3) {
        let position = random.below(bytes.len() + 1);
        match random.below(7) {
            0 if position < bytes.len() => bytes[position] ^= 1 << random.below(8),
            1 if position < bytes.len() => bytes[position] = random.pick(&[0, 1, 0x7f, 0x80, 0xff, 0x0a]),
            2 if position < bytes.len() => drop(bytes.remove(position)),
            3 => bytes.truncate(position),
            4 => drop(bytes.splice(position..position, random.pick(SPLICES).iter().copied())),
            5 => bytes.extend(random.pick(SPLICES)),
            // A part of the message again, at its end.
            _ => bytes.extend_from_within(position..),
        }
    }
}

fn decoded_value(value: AttributeValue<'_>) -> Attr {
    match value {
        AttributeValue::Boolean(value) => Attr::CeBoolean(value),
        AttributeValue::Integer(value) => Attr::CeInteger(value),
        AttributeValue::String(value) => Attr::CeString(value.to_owned()),
        AttributeValue::Bytes(value) => Attr::CeBytes(Bytes::copy_from_slice(value)),
        AttributeValue::Uri(value) => Attr::CeUri(value.to_owned()),
        AttributeValue::UriReference(value) => Attr::CeUriRef(value.to_owned()),
        AttributeValue::Timestamp { seconds, nanos } => Attr::CeTimestamp(Timestamp { seconds, nanos }),
    }
}

fn decoded_data(data: Data<'_>) -> Option<DecodedData> {
    Some(match data {
        Data::None => return None,
        Data::Binary(bytes) => DecodedData::BinaryData(Bytes::copy_from_slice(bytes)),
        Data::Text(text) => DecodedData::TextData(text.to_owned()),
        Data::Proto(any) => DecodedData::ProtoData(Any::decode(any).unwrap()),
    })
}

/// True if the reader in place accepts the bytes; then the generated one must, and see the same.
fn accepted(bytes: &[u8]) -> bool {
    let mut attributes = HashMap::new();
    let event = Event::parse_with(bytes, |name, value| {
        attributes.insert(name.to_owned(), decoded_value(value));
        Ok::<(), EventError>(())
    });
    let Ok(event) = event else { return false };
    let decoded = CloudEvent::decode(bytes).unwrap_or_else(|error| panic!("{bytes:02x?}: {error}"));
    let texts = [event.id, event.source, event.spec_version, event.event_type];
    assert_eq!(texts, [&decoded.id, &decoded.source, &decoded.spec_version, &decoded.r#type], "{bytes:02x?}");
    assert_eq!(decoded_data(event.data), decoded.data, "{bytes:02x?}");
    let no_value = || Attr::CeString(String::new());
    let expected: HashMap<_, _> = (decoded.attributes.into_iter())
        .map(|(name, value)| (name, value.attr.unwrap_or_else(no_value)))
        .collect();
    assert_eq!(attributes, expected, "{bytes:02x?}");
    true
}

#[test]
fn accepted_bytes_are_decoded_by_a_generated_reader_to_the_same_values() {
    let (mut accepted_count, mut refused_count) = (0, 0);
    for seed in 0..CASES {
        let mut random = Random(seed);
        let mut bytes = encoded(&mut random);
        assert!(accepted(&bytes), "as encoded: {bytes:02x?}");
        mutate(&mut random, &mut bytes);
        match accepted(&bytes) {
            true => accepted_count += 1,
            false => refused_count += 1,
        }
    }
    assert!(accepted_count > CASES / 20, "{accepted_count} accepted, {refused_count} refused");
    assert!(refused_count > CASES / 20, "{accepted_count} accepted, {refused_count} refused");
}

#[test]
fn bytes_that_some_readers_refuse_are_refused() {
    for (extra, expected) in [
        (&b"\x42\x04\xde\xad\xbe\xef"[..], EventError::Malformed),
        (b"\x42\x03\x0a\x01\xff", EventError::NotText { field: "proto_data.type_url" }),
        (b"\x42\x02\x10\x01", EventError::Malformed),
        (b"\x42\x03\x0a\x01a\x42\x03\x12\x01b", EventError::Twice { field: "proto_data" }),
        // Numbers of fields: 0, 2^29 and 2^61.
        (b"\x02\x00", EventError::Malformed),
        (b"\x82\x80\x80\x80\x10\x00", EventError::Malformed),
        (b"\x82\x80\x80\x80\x80\x80\x80\x80\x80\x01\x00", EventError::Malformed),
        // Varints: a key and a length of six bytes, a value of 65 bits, and one of eleven bytes.
        (b"\xca\x80\x80\x80\x80\x00\x00", EventError::Malformed),
        (b"\x4a\x80\x80\x80\x80\x80\x00", EventError::Malformed),
        (b"\x48\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", EventError::Malformed),
        (b"\x48\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", EventError::Malformed),
        // Groups: alone, in pairs, and of another field.
        (b"\x4b", EventError::Malformed),
        (b"\x4b\x4c", EventError::Malformed),
        (b"\x4b\x54", EventError::Malformed),
        // Numbers in the wrong form: a boolean of eight bytes, and seconds of four.
        (b"\x2a\x0e\x0a\x01a\x12\x09\x09\x01\x00\x00\x00\x00\x00\x00\x00", EventError::Malformed),
        (b"\x2a\x0c\x0a\x01a\x12\x07\x3a\x05\x0d\x01\x00\x00\x00", EventError::Malformed),
        (
            b"\x2a\x0b\x0a\x01a\x12\x02\x10\x07\x12\x02\x10\x08",
            EventError::Twice { field: "attribute value" },
        ),
        (
            b"\x2a\x0d\x0a\x01a\x12\x08\x3a\x02\x08\x01\x3a\x02\x10\x01",
            EventError::Twice { field: "ce_timestamp" },
        ),
    ] {
        let bytes = order(extra);
        let parsed = Event::parse_with(&bytes, |_, _| Ok::<(), EventError>(()));
        assert_eq!(parsed.unwrap_err(), expected, "{extra:02x?}");
    }
    // The largest field, the largest number, and a message of another format in an Any.
    for extra in [
        &b"\xfa\xff\xff\xff\x0f\x00"[..],
        b"\x48\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x42\x06\x0a\x01a\x12\x01\xff",
        b"\x42\x03\x0a\x01a\x32\x00\x42\x03\x0a\x01b",
    ] {
        assert!(accepted(&order(extra)), "{extra:02x?}");
    }
}

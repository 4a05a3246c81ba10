use super::*;

mod protobuf;

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).unwrap();
    assert!(length < 0x80, "one-byte varint");
    [&[number << 3 | 2, length], bytes].concat()
}

fn string_attribute(name: &str, value: &str) -> Vec<u8> {
    field(5, &[field(1, name.as_bytes()), field(2, &field(3, value.as_bytes()))].concat())
}

fn order(extra: &[u8]) -> Vec<u8> {
    [field(1, b"e-1"), field(2, b"/shop"), field(3, b"1.0"), field(4, b"order.paid"), extra.to_vec()].concat()
}

#[test]
fn reads_attributes_and_data_in_place() {
    let bytes = order(&[string_attribute("subject", "customer-7"), field(7, br#"{"a":1}"#)].concat());
    let event = Event::parse(&bytes).unwrap();
    assert_eq!((event.id, event.source, event.event_type), ("e-1", "/shop", "order.paid"));
    assert_eq!(event.data, Data::Text(r#"{"a":1}"#));
    assert_eq!(event.text_attribute("subject"), Some("customer-7"));
    assert_eq!(event.partition_key(), "customer-7");
    assert_eq!(event.bytes(), bytes);
}

#[test]
fn the_partition_key_is_the_extension_then_the_subject_then_the_id() {
    let bytes = order(&[]);
    assert_eq!(Event::parse(&bytes).unwrap().partition_key(), "e-1");
    let bytes = order(&[string_attribute("subject", "s"), string_attribute("partitionkey", "k")].concat());
    assert_eq!(Event::parse(&bytes).unwrap().partition_key(), "k");
}

#[test]
fn every_required_attribute_is_demanded_by_name() {
    for (missing, name) in [(1, "id"), (2, "source"), (3, "spec_version"), (4, "type")] {
        let bytes: Vec<u8> =
            (1..=4).filter(|number| *number != missing).flat_map(|number| field(number, b"x")).collect();
        assert_eq!(Event::parse(&bytes).unwrap_err(), EventError::Missing { field: name });
    }
}

#[test]
fn the_type_alone_is_the_type_that_parsing_finds() {
    let bytes = order(&[field(7, b"{}"), field(4, b"order.repaid")].concat());
    assert_eq!(Event::type_of(&bytes), Ok("order.repaid"), "the last one counts");
    assert_eq!(Event::parse(&bytes).unwrap().event_type, "order.repaid");
    for (bytes, expected) in [
        (field(4, b""), EventError::Missing { field: "type" }),
        (field(1, b"e-1"), EventError::Missing { field: "type" }),
        (field(4, b"\xff"), EventError::NotText { field: "type" }),
        (b"\x22\x7fx".to_vec(), EventError::Malformed),
    ] {
        assert_eq!(Event::type_of(&bytes), Err(expected));
    }
}

#[test]
fn one_pass_shows_the_same_attributes_as_reading_them_later() {
    let bytes = order(
        &[string_attribute("subject", "s"), field(7, b"{}"), string_attribute("subject", "t")].concat(),
    );
    let mut shown = Vec::new();
    let event = Event::parse_with(&bytes, |name, value| {
        shown.push((name, value));
        Ok::<(), EventError>(())
    });
    assert_eq!(shown, event.unwrap().attributes().collect::<Result<Vec<_>, _>>().unwrap());
    assert_eq!(shown.len(), 2);
    let malformed = order(&field(5, &field(3, b"x")));
    assert!(Event::parse(&malformed).is_ok());
    let shown = Event::parse_with(&malformed, |_, _| Ok::<(), EventError>(()));
    assert_eq!(shown.unwrap_err(), EventError::Malformed);
}

#[test]
fn no_cut_or_flipped_byte_makes_it_panic() {
    let bytes = order(&[string_attribute("subject", "customer-7"), field(7, b"{}")].concat());
    for cut in 0..bytes.len() {
        if let Ok(event) = Event::parse(&bytes[..cut]) {
            assert!(event.attributes().count() <= 1);
        }
    }
    for position in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[position] ^= 1 << bit;
            let event_type = Event::type_of(&flipped);
            if let Ok(event) = Event::parse(&flipped) {
                assert!(!event.partition_key().is_empty());
                assert_eq!(event_type, Ok(event.event_type));
            }
        }
    }
}

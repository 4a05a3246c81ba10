use serde_json::{Value, json};

use super::*;
use crate::fixture::EventBuilder;

fn text_of(stored: EventBuilder) -> String {
    let mut out = Vec::new();
    write_json(&mut out, &stored.delivery()).unwrap();
    String::from_utf8(out).unwrap()
}

fn json_of(stored: EventBuilder) -> Value {
    serde_json::from_str(&text_of(stored)).unwrap()
}

fn order() -> EventBuilder {
    EventBuilder::new("1", "/orders", "com.acme.order.paid")
}

#[test]
fn minimal_event_gets_its_append_time_and_no_data() {
    assert_eq!(
        text_of(order()),
        r#"{"specversion":"1.0","id":"1","source":"/orders","type":"com.acme.order.paid","time":"2026-07-21T12:00:00.007Z"}"#
    );
}

#[test]
fn every_attribute_keeps_its_type() {
    let stored = order()
        .text("subject", "a \"b\"\n\u{1}ü")
        .uri("dataschema", "https://schemas.example/1")
        .time("time", 1_784_635_200, 120_000_000)
        .boolean("flag", true)
        .boolean("unset", false)
        .integer("count", -7)
        .bytes("raw", &[0xfb, 0xff, 0])
        .text("datacontenttype", "application/json")
        .data_text("[1]");
    assert_eq!(
        json_of(stored),
        json!({
            "specversion": "1.0", "id": "1", "source": "/orders", "type": "com.acme.order.paid",
            "subject": "a \"b\"\n\u{1}ü", "dataschema": "https://schemas.example/1",
            "time": "2026-07-21T12:00:00.12Z", "flag": true, "unset": false, "count": -7, "raw": "+/8A",
            "datacontenttype": "application/json", "data": [1],
        })
    );
}

#[test]
fn json_data_is_copied_byte_for_byte() {
    let data = " {\"b\" : 1.0, \"a\":[1e400,12345678901234567890123], \"a\":\"\\u00e9\\/\"}\n";
    for content_type in
        ["application/json", "Application/JSON; charset=utf-8", "application/vnd.acme+json", "text/json"]
    {
        for stored in [
            order().text("datacontenttype", content_type).data_text(data),
            order().text("datacontenttype", content_type).data_bytes(data.as_bytes()),
        ] {
            let text = text_of(stored);
            assert!(text.ends_with(&format!(",\"data\":{data}}}")), "{content_type}: {text}");
        }
    }
    let undeclared = text_of(order().data_text(data));
    assert!(undeclared.ends_with(&format!(",\"data\":{data}}}")), "{undeclared}");
}

#[test]
fn malformed_json_data_cannot_change_the_surrounding_object() {
    for bad in ["", "{", "1 2", "{}, \"id\":\"2\"", "\u{feff}{}", "{\"a\":1}}", "nul", "'a'", "\"\n\""] {
        let declared = json_of(order().text("datacontenttype", "application/json").data_text(bad));
        assert_eq!(declared["data"], json!(bad));
        assert_eq!(declared["id"], "1");
        let bytes = json_of(order().text("datacontenttype", "application/json").data_bytes(bad.as_bytes()));
        assert_eq!(bytes["data_base64"], json!(STANDARD.encode(bad)));
    }
    let not_utf8 = json_of(order().text("datacontenttype", "application/json").data_bytes(b"\"\xff\""));
    assert_eq!(not_utf8["data_base64"], json!("Iv8i"));
}

#[test]
fn other_data_is_a_string_or_base64() {
    for (content_type, stored, member, value) in [
        ("text/plain", order().data_text("{}"), "data", json!("{}")),
        ("application/xml", order().data_text("<a/>"), "data", json!("<a/>")),
        ("application/jsonp", order().data_text("[]"), "data", json!("[]")),
        ("json", order().data_text("[]"), "data", json!("[]")),
        ("é+json", order().data_text("[]"), "data", json!("[]")),
        ("text/plain", order().data_bytes(b"{}"), "data_base64", json!("e30=")),
        ("application/protobuf", order().data_proto(b"\x0a\x01a"), "data_base64", json!("CgFh")),
    ] {
        let event = json_of(stored.text("datacontenttype", content_type));
        assert_eq!(event[member], value, "{content_type}");
    }
    assert_eq!(json_of(order().data_bytes(b"{}"))["data_base64"], json!("e30="));
}

#[test]
fn pinned_schema_replaces_the_producers_schema() {
    let delivery = crate::Delivery {
        dataschema: Some("urn:fanfare:schema:orders:2".into()),
        ..order().text("dataschema", "urn:fanfare:schema:orders:1").data_text("1").delivery()
    };
    let mut out = Vec::new();
    write_json(&mut out, &delivery).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.matches("dataschema").count(), 1);
    assert!(text.contains(r#""dataschema":"urn:fanfare:schema:orders:2""#), "{text}");
}

#[test]
fn repeated_attribute_appears_once_with_its_last_value() {
    let text = text_of(order().text("subject", "first").text("region", "eu").text("subject", "last"));
    assert_eq!(text.matches("subject").count(), 1);
    assert!(text.contains(r#""subject":"last","region":"eu""#), "{text}");
}

#[test]
fn inexpressible_event_is_an_error_and_leaves_the_buffer_unchanged() {
    for stored in [
        order().text("id", "2"),
        order().text("data", "2"),
        order().text("data_base64", "2"),
        order().text("a\":1,\"b", "2"),
        order().text("", "2"),
        order().text("Upper", "2"),
        order().time("time", i64::MAX, 0),
    ] {
        let mut out = b"before".to_vec();
        assert!(write_json(&mut out, &stored.delivery()).is_err());
        assert_eq!(out, b"before");
    }
    let torn = crate::Delivery { bytes: bytes::Bytes::from_static(b"\xff"), ..order().delivery() };
    assert!(matches!(write_json(&mut Vec::new(), &torn), Err(EncodeError::Malformed(_))));
}

proptest::proptest! {
    #[test]
    fn any_text_survives_as_json(id in ".+", subject in ".+", data in ".*") {
        let event = json_of(EventBuilder::new(&id, "/s", "t").text("subject", &subject).text("datacontenttype", "text/plain").data_text(&data));
        proptest::prop_assert_eq!(&event["id"], &json!(id));
        proptest::prop_assert_eq!(&event["subject"], &json!(subject));
        proptest::prop_assert_eq!(&event["data"], &json!(data));
    }
}

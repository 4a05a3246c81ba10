use fanfare_proto::{cloudevents::v1::CloudEvent, v1};
use prost::Message;

use super::*;

fn event(id: &str) -> CloudEvent {
    CloudEvent {
        id: id.into(),
        source: "/s".into(),
        spec_version: "1.0".into(),
        r#type: "t".into(),
        ..Default::default()
    }
}

#[test]
fn requests_are_read_as_the_generated_messages_write_them() {
    let events = vec![event("a"), CloudEvent::default(), event("c")];
    let expected: Vec<_> = events.iter().map(Message::encode_to_vec).collect();

    let batch = v1::PublishBatchRequest { events: events.clone() }.encode_to_vec();
    let request = Request::parse(batch.into()).unwrap();
    assert_eq!(request.events().collect::<Vec<_>>(), expected);

    let stream = v1::PublishStreamRequest { sequence: u64::MAX, resume: true, events }.encode_to_vec();
    let request = Request::parse_stream(stream.into()).unwrap();
    assert_eq!(request.events().collect::<Vec<_>>(), expected);
    assert_eq!((request.sequence, request.resume), (u64::MAX, true));

    let empty = Request::parse_stream(Bytes::new()).unwrap();
    assert_eq!((empty.len(), empty.sequence, empty.resume), (0, 0, false));
}

#[test]
fn cut_or_flipped_requests_never_panic_and_ranges_stay_inside() {
    let stream = v1::PublishStreamRequest { sequence: 7, resume: true, events: vec![event("a"), event("b")] };
    let bytes = stream.encode_to_vec();
    for cut in 0..bytes.len() {
        if let Ok(request) = Request::parse_stream(Bytes::copy_from_slice(&bytes[..cut])) {
            assert!(request.events().map(<[u8]>::len).sum::<usize>() <= cut);
        }
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[cut] ^= 1 << bit;
            if let Ok(request) = Request::parse_stream(flipped.into()) {
                assert!(request.events().map(<[u8]>::len).sum::<usize>() <= bytes.len());
            }
        }
    }
    assert_eq!(Request::parse(Bytes::from_static(b"\x08\x01")).unwrap_err(), RequestError::Malformed);
}

#[test]
fn a_request_of_countless_tiny_events_is_refused() {
    let bytes = [0x0a, 0x00].repeat(EVENTS_MAX + 1);
    assert_eq!(Request::parse(bytes.into()).unwrap_err(), RequestError::TooManyEvents);
}

#[test]
fn responses_are_read_by_the_generated_messages() {
    let time = prost_types::Timestamp { seconds: 5, nanos: 6 };
    let stored = StoredEvent {
        partition: 3,
        offset: 9,
        append_time: Some(time),
        event: event("a").encode_to_vec().into(),
    };
    let read = v1::ReadEventsResponse::decode(
        &ReadEventsResponse { events: vec![stored.clone()] }.encode_to_vec()[..],
    );
    let got = v1::GetEventResponse::decode(&GetEventResponse { event: Some(stored) }.encode_to_vec()[..]);
    let expected =
        v1::StoredEvent { partition: 3, offset: 9, append_time: Some(time), event: Some(event("a")) };
    assert_eq!(read.unwrap().events, std::slice::from_ref(&expected));
    assert_eq!(got.unwrap().event, Some(expected));
}

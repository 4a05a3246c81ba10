use bytes::Bytes;
use fanfare_ingest::Refusal;
use fanfare_proto::v1::{PublishBatchRequest, PublishRequest, PublishResponse, PublishResult};
use prost::Message;

use super::*;
use crate::grpc::EVENTS_MAX;

const ORDER_SCHEMA: &str = r#"{"type": "object", "required": ["id"], "properties":
    {"id": {"type": "integer"}, "lines": {"items": {"type": "object", "required": ["sku"]}}}}"#;

pub(super) async fn publish(caller: &Caller, event: CloudEvent) -> Result<PublishResponse, Status> {
    let request = PublishRequest { event: Some(event) };
    let response =
        timeout(DEADLINE, caller.publisher.clone().publish(request)).await.expect("it answers in time");
    response.map(tonic::Response::into_inner)
}

async fn publish_batch(caller: &Caller, events: Vec<CloudEvent>) -> Result<Vec<PublishResult>, Status> {
    let request = PublishBatchRequest { events };
    let response =
        timeout(DEADLINE, caller.publisher.clone().publish_batch(request)).await.expect("it answers in time");
    response.map(|response| response.into_inner().results)
}

#[tokio::test]
async fn a_new_event_has_the_next_offset_and_a_repeat_the_first_one() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let partition = caller.partition.into();
    for offset in 0..3 {
        let answer = publish(&caller, event(&format!("e{offset}"))).await.unwrap();
        assert_eq!(answer, PublishResponse { partition, offset, duplicate: false });
    }
    let repeat = publish(&caller, event("e1")).await.unwrap();
    assert_eq!(repeat, PublishResponse { partition, offset: 1, duplicate: true });
    let conflict = publish(&caller, json(event("e1"), "{}")).await.unwrap_err();
    assert_eq!(told(&conflict), (Code::AlreadyExists, "EVENT_CONFLICT".to_owned(), false));
    assert_eq!(publish(&caller, event("e3")).await.unwrap().offset, 3);
}

#[tokio::test]
async fn bad_events_are_refused_by_code_reason_and_field() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let long = |bytes: usize| "x".repeat(bytes);
    let invalid = (Code::InvalidArgument, "EVENT_INVALID");
    let many = (0..65).fold(event("e"), |event, nth| with(event, &format!("a{nth}"), Attr::CeInteger(nth)));
    let table = [
        ("id", CloudEvent { id: String::new(), ..event("e") }, invalid),
        ("id", event(&long(257)), invalid),
        ("id", event("a\nb"), invalid),
        ("source", CloudEvent { source: String::new(), ..event("e") }, invalid),
        ("source", CloudEvent { source: long(513), ..event("e") }, invalid),
        ("spec_version", CloudEvent { spec_version: String::new(), ..event("e") }, invalid),
        ("spec_version", CloudEvent { spec_version: "0.3".to_owned(), ..event("e") }, invalid),
        ("type", CloudEvent { r#type: String::new(), ..event("e") }, invalid),
        ("partitionkey", with(event("e"), "partitionkey", text(&long(257))), invalid),
        ("partitionkey", with(event("e"), "partitionkey", Attr::CeInteger(1)), invalid),
        ("subject", with(event("e"), "subject", text("a\u{0}b")), invalid),
        ("time", with(event("e"), "time", text("2026-01-01T00:00:00Z")), invalid),
        (
            "time",
            with(
                event("e"),
                "time",
                Attr::CeTimestamp(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }),
            ),
            invalid,
        ),
        ("extension", with(event("e"), "extension", text("\u{7f}")), invalid),
        ("attributes[\"Upper\"]", with(event("e"), "Upper", text("x")), invalid),
        ("attributes[\"\"]", with(event("e"), "", text("x")), invalid),
        ("attributes[\"type\"]", with(event("e"), "type", text("x")), invalid),
        ("attributes", many, invalid),
        ("event", json(event("e"), &long(10_000)), (Code::InvalidArgument, "EVENT_TOO_LARGE")),
        ("", CloudEvent { r#type: "none".to_owned(), ..event("e") }, (Code::NotFound, "EVENT_TYPE_UNKNOWN")),
        (
            "",
            CloudEvent { r#type: "old".to_owned(), ..event("e") },
            (Code::FailedPrecondition, "EVENT_TYPE_DISCONTINUED"),
        ),
    ];
    for (field, bad, (code, reason)) in table {
        let status = publish(&caller, bad.clone()).await.unwrap_err();
        assert_eq!(told(&status), (code, reason.to_owned(), false), "{field}: {status}");
        let named = Vec::from_iter((!field.is_empty()).then(|| field.to_owned()));
        assert_eq!(fields(&status), named, "{status}");
        let results = publish_batch(&caller, vec![bad]).await.unwrap();
        let error = results[0].error.as_ref().unwrap();
        assert_eq!((error.code, error.reason.as_str()), (code as i32, reason));
        assert_eq!(error.field, if field.is_empty() { "type" } else { field });
        assert_eq!(error.retry_after_ms, None);
    }
    assert_eq!(publish(&caller, event("good")).await.unwrap().offset, 0, "nothing refused was appended");
    let none = caller.publisher.clone().publish(PublishRequest { event: None }).await.unwrap_err();
    assert_eq!((told(&none).1.as_str(), fields(&none)), ("EVENT_INVALID", vec!["event".to_owned()]));
}

#[tokio::test]
async fn valid_attributes_of_every_kind_are_accepted() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let time = prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5 };
    let full = [
        ("subject", text("order/1")),
        ("partitionkey", text("")),
        ("time", Attr::CeTimestamp(time)),
        ("datacontenttype", text("application/json")),
        ("dataschema", Attr::CeUri("https://acme.example/order.json".to_owned())),
        ("flag", Attr::CeBoolean(true)),
        ("count", Attr::CeInteger(-1)),
        ("blob", Attr::CeBytes(Bytes::from_static(&[0, 255]))),
    ];
    let full = full.into_iter().fold(event("full"), |event, (name, value)| with(event, name, value));
    assert_eq!(publish(&caller, full).await.unwrap().offset, 0);
}

#[tokio::test]
async fn a_batch_answers_each_event_in_order() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    publish(&caller, event("known")).await.unwrap();
    let events = vec![
        event("a"),
        CloudEvent { r#type: "none".to_owned(), ..event("b") },
        event("known"),
        json(event("known"), "1"),
        event("c"),
        event("a"),
    ];
    let results = publish_batch(&caller, events).await.unwrap();
    let outcomes: Vec<_> = results
        .iter()
        .map(|result| match &result.error {
            None => (result.offset, result.duplicate, ""),
            Some(error) => (0, false, error.reason.as_str()),
        })
        .collect();
    assert_eq!(
        outcomes,
        [
            (1, false, ""),
            (0, false, "EVENT_TYPE_UNKNOWN"),
            (0, true, ""),
            (0, false, "EVENT_CONFLICT"),
            (2, false, ""),
            (1, true, "")
        ]
    );
    assert_eq!(publish_batch(&caller, vec![]).await.unwrap(), []);
}

#[tokio::test]
async fn data_is_validated_against_the_version_that_the_event_names() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    node.catalog.create_schema(caller.tenant, "Order", "", "{\"type\": \"object\"}").await.unwrap();
    node.catalog.create_schema(caller.tenant, "Other", "", "{}").await.unwrap();
    node.event_type(&caller, "order", Some("Order"), EventTypeStatus::Available).await;
    let order = |id: &str, data: &str| json(CloudEvent { r#type: "order".to_owned(), ..event(id) }, data);
    let naming = |event, uri: &str| with(event, "dataschema", Attr::CeUri(uri.to_owned()));
    publish(&caller, order("1", "{}")).await.unwrap();
    node.catalog.create_schema_version(caller.tenant, "Order", ORDER_SCHEMA).await.unwrap();

    let latest = publish(&caller, order("2", "{}")).await.unwrap_err();
    assert_eq!(told(&latest), (Code::InvalidArgument, "SCHEMA_VIOLATION".to_owned(), false));
    assert_eq!(fields(&latest), ["data"]);
    assert!(latest.message().contains("Order version 2"), "{latest}");
    publish(&caller, naming(order("2", "{}"), "urn:fanfare:schema:Order:1")).await.unwrap();
    publish(&caller, naming(order("3", "{\"id\": 3}"), "urn:fanfare:schema:Order:2")).await.unwrap();

    let nested = publish(&caller, order("4", r#"{"id": "4", "lines": [{"sku": 1}, {}]}"#)).await.unwrap_err();
    let mut found = fields(&nested);
    found.sort();
    assert_eq!(found, ["data#/id", "data#/lines/1"]);
    let results = publish_batch(&caller, vec![order("5", r#"{"id": 5, "lines": [{}]}"#)]).await.unwrap();
    assert_eq!(results[0].error.as_ref().unwrap().field, "data#/lines/0");

    for data in ["", "{", "[".repeat(65).as_str()] {
        let status = publish(&caller, order("6", data)).await.unwrap_err();
        assert_eq!(told(&status).1, "SCHEMA_VIOLATION", "{data}");
        assert_eq!(fields(&status), ["data"]);
    }
    for uri in [
        "urn:fanfare:schema:Order:3",
        "urn:fanfare:schema:Order:0",
        "urn:fanfare:schema:Other:1",
        "https://a/b",
    ] {
        let status = publish(&caller, naming(order("7", "{\"id\": 7}"), uri)).await.unwrap_err();
        assert_eq!(told(&status), (Code::InvalidArgument, "DATASCHEMA_UNKNOWN".to_owned(), false), "{uri}");
        assert_eq!(fields(&status), ["dataschema"]);
    }
}

#[tokio::test]
async fn violations_at_long_pointers_fit_into_the_status() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let schema = r#"{"additionalProperties": {"type": "integer"}}"#;
    node.catalog.create_schema(caller.tenant, "Numbers", "", schema).await.unwrap();
    node.event_type(&caller, "numbers", Some("Numbers"), EventTypeStatus::Available).await;
    let data = format!("{{\"{}\": \"x\", \"{}\": \"x\"}}", "ä".repeat(2_000), "b".repeat(2_000));
    let event = json(CloudEvent { r#type: "numbers".to_owned(), ..event("e") }, &data);
    let status = publish(&caller, event.clone()).await.unwrap_err();
    assert_eq!(told(&status), (Code::InvalidArgument, "SCHEMA_VIOLATION".to_owned(), false));
    assert!(status.message().len() <= 1024 && status.details().len() <= 4096, "{status}");
    assert_eq!(fields(&status).len(), 2);
    assert!(fields(&status).iter().all(|field| field.starts_with("data#/") && field.len() <= 256));
    let error = publish_batch(&caller, vec![event]).await.unwrap()[0].error.clone().unwrap();
    assert!(error.message.len() <= 1024 && error.field.len() <= 256, "{error:?}");
}

#[tokio::test]
async fn calls_without_a_live_key_are_unauthenticated() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let request = || PublishRequest { event: Some(event("e")) };
    let missing = PublisherServiceClient::new(node.channel.clone()).publish(request()).await.unwrap_err();
    assert_eq!(told(&missing), (Code::Unauthenticated, "KEY_MISSING".to_owned(), false));
    let mut forged = caller.key.clone();
    let last = if forged.pop() == Some('0') { '1' } else { '0' };
    forged.push(last);
    for key in ["", "nonsense", forged.as_str()] {
        let wrong = node.publisher(key).publish(request()).await.unwrap_err();
        assert_eq!(told(&wrong), (Code::Unauthenticated, "KEY_INVALID".to_owned(), false), "{key}");
    }
    assert_eq!(publish(&caller, event("e")).await.unwrap().offset, 0);
}

#[tokio::test]
async fn the_same_id_in_another_account_is_another_event() {
    let node = Node::new().await;
    let (acme, bell) = (node.caller("acme").await, node.caller("bell").await);
    assert!(!publish(&acme, event("e")).await.unwrap().duplicate);
    assert!(!publish(&bell, json(event("e"), "{}")).await.unwrap().duplicate);
    node.event_type(&acme, "own", None, EventTypeStatus::Available).await;
    let status = publish(&bell, CloudEvent { r#type: "own".to_owned(), ..event("f") }).await.unwrap_err();
    assert_eq!(told(&status).1, "EVENT_TYPE_UNKNOWN", "types are the account's own");
}

#[tokio::test]
async fn a_partition_without_a_leader_asks_to_retry() {
    let node = Node::new().await;
    let homeless = homeless(&node).await;
    let status = publish(&homeless, event("e")).await.unwrap_err();
    assert_eq!(told(&status), (Code::Unavailable, "NO_LEADER".to_owned(), true));
    let results = publish_batch(&homeless, vec![event("e"), event("f")]).await.unwrap();
    let errors: Vec<_> = results.iter().map(|result| result.error.as_ref().unwrap()).collect();
    assert!(errors.iter().all(|error| error.reason == "NO_LEADER" && error.retry_after_ms.is_some()));
}

/// An account whose partition this node does not have.
pub(super) async fn homeless(node: &Node) -> Caller {
    for name in ["first", "second", "third"] {
        let caller = node.caller(name).await;
        if caller.partition >= PARTITIONS_HERE {
            return caller;
        }
    }
    panic!("shards are given round robin");
}

#[tokio::test]
async fn too_large_requests_name_the_limit() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let large = (0..100).map(|nth| json(event(&nth.to_string()), &"x".repeat(9000))).collect();
    let status = publish_batch(&caller, large).await.unwrap_err();
    assert_eq!(told(&status), (Code::InvalidArgument, "REQUEST_TOO_LARGE".to_owned(), false));
    assert!(status.message().contains("50000"), "{status}");
    let tiny = vec![CloudEvent::default(); EVENTS_MAX + 1];
    let status = publish_batch(&caller, tiny).await.unwrap_err();
    assert_eq!(told(&status).1, "REQUEST_TOO_LARGE");
    assert!(status.message().contains("10000"), "{status}");
}

#[tokio::test]
async fn publishes_beyond_the_inflight_bytes_are_overloaded() {
    let one = Bytes::from(json(event("big"), &"x".repeat(6000)).encode_to_vec());
    let limit = u32::try_from(one.len()).unwrap() * 2;
    let node = Node::with(IngestLimits { inflight_bytes_max: limit, ..LIMITS }).await;
    let caller = node.caller("acme").await;
    let publishes = (0..10).map(|nth| {
        let bytes = json(event(&format!("{nth:03}")), &"x".repeat(6000)).encode_to_vec();
        let (node, caller) = (&node, &caller);
        async move { node.ingest.publish(caller.tenant, [&bytes[..]].into_iter()).await }
    });
    let outcomes =
        timeout(DEADLINE, futures_util::future::join_all(publishes)).await.expect("all are answered");
    let outcomes: Vec<_> =
        outcomes.iter().map(|outcome| outcome[0].as_ref().map(|committed| committed.offset.0)).collect();
    assert!(matches!(outcomes[..2], [Ok(0), Ok(1)]), "{outcomes:?}");
    assert!(outcomes[2..].iter().all(|outcome| matches!(outcome, Err(Refusal::Overloaded))), "{outcomes:?}");
    let again = node.ingest.publish(caller.tenant, [&one[..]].into_iter()).await;
    assert_eq!(again[0].as_ref().unwrap().offset.0, 2, "there is room again");
}

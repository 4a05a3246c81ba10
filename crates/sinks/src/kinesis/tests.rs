use base64::{Engine, engine::general_purpose::STANDARD};
use fanfare_environment::Environment;
use fanfare_model::SinkConfig;
use fanfare_testkit::{Answer, ReceivedRequest, Receiver, answer_with};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::{
    Factory,
    fixture::{self, EventBuilder, delivery},
};

const ARN: &str = "arn:aws:kinesis:eu-central-1:123456789012:stream/orders";
const ROLE: &str = "arn:aws:iam::210987654321:role/writer";

fn config(endpoint: &str) -> KinesisConfig {
    KinesisConfig {
        arn: ARN.to_owned(),
        role_arn: None,
        external_id: None,
        endpoint_override: Some(endpoint.to_owned()),
        timeout_ms: 15_000,
    }
}

fn dev() -> EgressPolicy {
    EgressPolicy { allow_cidrs: vec![], allow_http: true, allow_loopback: true, allow_node_credentials: true }
}

fn sink(config: &KinesisConfig, policy: &EgressPolicy) -> Kinesis {
    let endpoint = config.endpoint_override.clone().unwrap();
    let access = StreamAccess::new(config, policy).unwrap().with_fixed_credentials(endpoint);
    Kinesis {
        access,
        client: OnceCell::new(),
        budget: fixture::budget(),
        timeout: timeout_of(config).unwrap(),
    }
}

/// A service that answers `PutRecords`. `failing` gives the error code of an event by its id.
async fn service(failing: impl Fn(&str) -> Option<&'static str> + Send + Sync + 'static) -> Receiver {
    Receiver::start(move |seen| put_records(seen, &failing)).await
}

fn put_records(seen: &ReceivedRequest, failing: &impl Fn(&str) -> Option<&'static str>) -> Answer {
    assert_eq!(seen.headers["x-amz-target"], "Kinesis_20131202.PutRecords");
    let results: Vec<Value> = records(seen)
        .iter()
        .map(|(_, event)| match failing(event["id"].as_str().unwrap()) {
            Some(code) => json!({"ErrorCode": code, "ErrorMessage": "message of the service"}),
            None => json!({"SequenceNumber": "1", "ShardId": "shardId-000000000000"}),
        })
        .collect();
    let failed = results.iter().filter(|result| result.get("ErrorCode").is_some()).count();
    answer_with(200, json!({"FailedRecordCount": failed, "Records": results}).to_string())
}

/// Partition key and event of each record of a request.
fn records(seen: &ReceivedRequest) -> Vec<(String, Value)> {
    let request: Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(request["StreamARN"], ARN);
    let records = request["Records"].as_array().unwrap();
    records
        .iter()
        .map(|record| {
            let data = STANDARD.decode(record["Data"].as_str().unwrap()).unwrap();
            (record["PartitionKey"].as_str().unwrap().to_owned(), serde_json::from_slice(&data).unwrap())
        })
        .collect()
}

fn class(outcome: &Outcome) -> (&'static str, &'static str) {
    match outcome {
        Outcome::Delivered => ("delivered", ""),
        Outcome::Retry { why, .. } => ("retry", why.class),
        Outcome::Throttled { why, .. } => ("throttled", why.class),
        Outcome::Rejected { why } => ("rejected", why.class),
        Outcome::SinkDown { why, .. } => ("down", why.class),
    }
}

#[tokio::test]
async fn each_record_has_its_own_outcome_by_position() {
    let service = service(|id| match id {
        "evt-2" => Some("ProvisionedThroughputExceededException"),
        "evt-4" => Some("InternalFailure"),
        _ => None,
    })
    .await;
    let sink = sink(&config(&format!("http://{}", service.address())), &dev());
    let unencodable = EventBuilder::new("bad", "/orders", "t").text("Upper", "x").delivery();
    let huge = EventBuilder::new("huge", "/orders", "t").data_text(&"x".repeat(RECORD_BYTES_MAX)).delivery();
    let events = vec![delivery(1), unencodable, delivery(2), huge, delivery(3), delivery(4)];
    let outcomes = sink.attempt(events).await;
    assert_eq!(
        outcomes.iter().map(class).collect::<Vec<_>>(),
        [
            ("delivered", ""),
            ("rejected", Failure::ENCODING),
            ("throttled", Failure::THROTTLED),
            ("rejected", Failure::TOO_LARGE),
            ("delivered", ""),
            ("retry", Failure::SERVICE),
        ]
    );
    assert!(sink.attempt(vec![]).await.is_empty());
    assert_eq!(service.requests().len(), 1, "nothing is retried by the sink");
}

#[tokio::test]
async fn record_is_the_event_under_its_own_key() {
    let service = service(|_| None).await;
    let sink = sink(&config(&format!("http://{}", service.address())), &dev());
    let keyed =
        EventBuilder::new("a", "/orders", "t").text("partitionkey", "customer 7").data_text("{}").delivery();
    let long_key = "é".repeat(257);
    let overlong = EventBuilder::new("b", "/orders", "t").text("subject", &long_key).delivery();
    let hash = format!("{:016x}", overlong.key.0);
    assert_eq!(sink.attempt(vec![keyed, overlong]).await, [Outcome::Delivered, Outcome::Delivered]);
    let records = records(&service.last_request());
    assert_eq!(records[0].0, "customer 7");
    assert_eq!((&records[0].1["id"], &records[0].1["data"]), (&json!("a"), &json!({})));
    assert_eq!((records[1].0.as_str(), &records[1].1["subject"]), (hash.as_str(), &json!(long_key)));
}

#[tokio::test]
async fn answer_for_another_number_of_records_settles_none() {
    let body =
        json!({"FailedRecordCount": 0, "Records": [{"SequenceNumber": "1", "ShardId": "s"}]}).to_string();
    let service = Receiver::start(move |_| answer_with(200, body.clone())).await;
    let sink = sink(&config(&format!("http://{}", service.address())), &dev());
    let outcomes = sink.attempt(vec![delivery(1), delivery(2)]).await;
    assert_eq!(outcomes.iter().map(class).collect::<Vec<_>>(), [("retry", Failure::PROTOCOL); 2]);
}

#[tokio::test]
async fn request_refused_as_a_whole_has_one_outcome() {
    for (status, code, events, expected) in [
        (400, "ProvisionedThroughputExceededException", 2, ("throttled", Failure::THROTTLED)),
        (400, "KMSThrottlingException", 1, ("throttled", Failure::THROTTLED)),
        (400, "ResourceNotFoundException", 1, ("down", Failure::SERVICE)),
        (400, "KMSDisabledException", 1, ("down", Failure::SERVICE)),
        (400, "AccessDeniedException", 1, ("down", Failure::CREDENTIALS)),
        (400, "UnrecognizedClientException", 2, ("down", Failure::CREDENTIALS)),
        (400, "InvalidArgumentException", 1, ("rejected", Failure::SERVICE)),
        (400, "InvalidArgumentException", 2, ("retry", Failure::SERVICE)),
        (500, "InternalFailure", 1, ("down", Failure::SERVICE)),
        (503, "ServiceUnavailable", 2, ("down", Failure::SERVICE)),
    ] {
        let body = json!({"__type": code, "message": "message of the service"}).to_string();
        let service = Receiver::start(move |_| answer_with(status, body.clone())).await;
        let sink = sink(&config(&format!("http://{}", service.address())), &dev());
        let outcomes = sink.attempt((0..events).map(delivery).collect()).await;
        assert_eq!(outcomes.len() as u64, events);
        for outcome in &outcomes {
            assert_eq!(class(outcome), expected, "{code}");
            let (Outcome::Retry { why, .. }
            | Outcome::Throttled { why, .. }
            | Outcome::Rejected { why }
            | Outcome::SinkDown { why, .. }) = outcome
            else {
                panic!("{code} is a failure")
            };
            assert_eq!(
                (why.status, why.message.as_str()),
                (status, format!("{code}: message of the service").as_str())
            );
        }
        assert_eq!(service.requests().len(), 1, "{code} was retried by the SDK");
    }
}

#[tokio::test]
async fn sink_is_down_without_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let outcomes = sink(&config(&refused), &dev()).attempt(vec![delivery(1)]).await;
    assert_eq!(class(&outcomes[0]), ("down", Failure::CONNECT));
    let outcomes = sink(&config("http://no-such-host.invalid:4567"), &dev()).attempt(vec![delivery(1)]).await;
    assert_eq!(class(&outcomes[0]), ("down", Failure::DNS));
}

#[tokio::test]
async fn endpoint_that_resolves_to_a_forbidden_address_is_not_dialled() {
    let service = service(|_| None).await;
    let endpoint = config(&format!("http://localhost:{}", service.address().port()));
    let public_only = EgressPolicy { allow_loopback: false, ..dev() };
    let outcomes = sink(&endpoint, &public_only).attempt(vec![delivery(1)]).await;
    assert_eq!(class(&outcomes[0]), ("down", Failure::ADDRESS_FORBIDDEN));
    assert_eq!(service.connections(), 0);
    assert_eq!(sink(&endpoint, &dev()).attempt(vec![delivery(1)]).await, [Outcome::Delivered]);
}

#[tokio::test]
async fn role_is_assumed_with_its_external_id() {
    let service = Receiver::start(|seen| match seen.headers.get("x-amz-target") {
        Some(_) => put_records(seen, &|_| None),
        None => answer_with(
            200,
            "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
             <Credentials><AccessKeyId>ASSUMED</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
             <SessionToken>token</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration></Credentials>\
             </AssumeRoleResult></AssumeRoleResponse>",
        ),
    })
    .await;
    let role = KinesisConfig {
        role_arn: Some(ROLE.to_owned()),
        external_id: Some("tenant-7".to_owned()),
        ..config(&format!("http://{}", service.address()))
    };
    let sink = sink(&role, &dev());
    for _ in 0..2 {
        assert_eq!(sink.attempt(vec![delivery(1)]).await, [Outcome::Delivered]);
    }
    let seen = service.requests();
    let request_body = String::from_utf8_lossy(&seen[0].body).into_owned();
    for part in ["Action=AssumeRole&", "role%2Fwriter", "ExternalId=tenant-7", "RoleSessionName=fanfare"] {
        assert!(request_body.contains(part), "{request_body}");
    }
    assert_eq!(seen.len(), 3, "credentials are kept between attempts");
    for put in &seen[1..] {
        assert!(put.headers["authorization"].to_str().unwrap().contains("Credential=ASSUMED/"));
        assert_eq!(put.headers["x-amz-security-token"], "token");
    }
}

#[tokio::test]
async fn sink_is_down_if_its_role_cannot_be_assumed() {
    let service = Receiver::start(|_| {
        answer_with(
            403,
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
             <Code>AccessDenied</Code><Message>not authorized to perform: sts:AssumeRole</Message></Error>\
             </ErrorResponse>",
        )
    })
    .await;
    let role =
        KinesisConfig { role_arn: Some(ROLE.to_owned()), ..config(&format!("http://{}", service.address())) };
    let outcomes = sink(&role, &dev()).attempt(vec![delivery(1)]).await;
    assert_eq!(class(&outcomes[0]), ("down", Failure::CREDENTIALS));
    let Outcome::SinkDown { why, .. } = &outcomes[0] else { panic!("the class was checked") };
    assert!(why.message.contains("AccessDenied"), "{}", why.message);
}

#[test]
fn requests_are_split_at_the_limits_of_the_service() {
    let cut = |sizes: &[usize]| -> Vec<usize> {
        let entry = || {
            let entry = PutRecordsRequestEntryBuilder::default().data(Blob::new([])).partition_key("k");
            entry.build().unwrap()
        };
        let records = sizes.iter().enumerate();
        let records = records.map(|(index, &bytes)| Record { index, bytes, entry: entry() }).collect();
        requests(records).iter().map(Vec::len).collect()
    };
    assert!(cut(&[]).is_empty());
    assert_eq!(cut(&[1; 500]), [500]);
    assert_eq!(cut(&[1; 501]), [500, 1]);
    assert_eq!(cut(&[RECORD_BYTES_MAX; 5]), [5]);
    assert_eq!(
        cut(&[
            RECORD_BYTES_MAX,
            RECORD_BYTES_MAX,
            RECORD_BYTES_MAX,
            RECORD_BYTES_MAX,
            RECORD_BYTES_MAX - 1,
            2
        ]),
        [5, 1]
    );
}

#[tokio::test]
async fn node_credentials_are_used_only_if_the_operator_allows_it() {
    let service = service(|_| None).await;
    let endpoint = format!("http://{}", service.address());
    let closed = EgressPolicy { allow_node_credentials: false, ..dev() };
    let roleless = config(&endpoint);
    let error = Kinesis::check(&roleless, &closed).unwrap_err();
    assert_eq!(error.field, "kinesis.role_arn");
    assert!(error.problem.contains("sinks.kinesis.allow_node_credentials"), "{}", error.problem);
    // A configuration that was stored while the operator allowed it is refused when the sink is built.
    let stored = SinkConfig::Kinesis(roleless.clone());
    let refused = Factory::new(closed.clone(), Environment::system())
        .build(fixture::ACCOUNT, &stored)
        .map(drop)
        .unwrap_err();
    assert_eq!(refused.field, "kinesis.role_arn");
    let with_role = KinesisConfig { role_arn: Some(ROLE.to_owned()), ..roleless };
    assert_eq!(Kinesis::check(&with_role, &closed), Ok(()));
    assert!(Factory::new(dev(), Environment::system()).build(fixture::ACCOUNT, &stored).is_ok());
    assert_eq!(service.connections(), 0);
}

#[test]
fn invalid_configuration_names_its_field() {
    let good = KinesisConfig { endpoint_override: None, ..config("") };
    let policy = EgressPolicy { allow_node_credentials: true, ..EgressPolicy::default() };
    assert_eq!(Kinesis::check(&good, &policy), Ok(()));
    let with_role = |role: &str, external_id: Option<&str>| KinesisConfig {
        role_arn: Some(role.to_owned()),
        external_id: external_id.map(str::to_owned),
        ..good.clone()
    };
    assert_eq!(Kinesis::check(&with_role(ROLE, Some("a+b=c,d.e@f:g/h-i_j")), &policy), Ok(()));
    for (bad, field) in [
        (KinesisConfig { arn: "orders".to_owned(), ..good.clone() }, "kinesis.arn"),
        (KinesisConfig { timeout_ms: 99, ..good.clone() }, "kinesis.timeout_ms"),
        (KinesisConfig { timeout_ms: 30_001, ..good.clone() }, "kinesis.timeout_ms"),
        (with_role("writer", None), "kinesis.role_arn"),
        (with_role("arn:aws-cn:iam::210987654321:role/writer", None), "kinesis.role_arn"),
        (with_role(ROLE, Some("a")), "kinesis.external_id"),
        (with_role(ROLE, Some("a b")), "kinesis.external_id"),
        (KinesisConfig { external_id: Some("id".to_owned()), ..good.clone() }, "kinesis.external_id"),
        (config("http://example.com:4567"), "kinesis.endpoint_override"),
        (config("https://169.254.169.254"), "kinesis.endpoint_override"),
        (config("https://user:secret@example.com"), "kinesis.endpoint_override"),
        (config("https://example.com/path"), "kinesis.endpoint_override"),
    ] {
        assert_eq!(Kinesis::check(&bad, &policy).unwrap_err().field, field, "{bad:?}");
    }
}

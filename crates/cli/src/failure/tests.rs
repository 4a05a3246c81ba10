use std::time::Duration;

use fanfare_client::{Client, EventBuilder, Options};
use fanfare_proto::v1::PublishError;
use tokio::{io::AsyncReadExt, net::TcpListener};
use tokio_util::task::TaskTracker;

use super::*;

#[test]
fn every_code_has_an_exit_and_a_next_step() {
    let expected = [
        (Code::Cancelled, Exit::Failed),
        (Code::Unknown, Exit::Failed),
        (Code::InvalidArgument, Exit::Failed),
        (Code::DeadlineExceeded, Exit::Unavailable),
        (Code::NotFound, Exit::NotFound),
        (Code::AlreadyExists, Exit::Conflict),
        (Code::PermissionDenied, Exit::Auth),
        (Code::ResourceExhausted, Exit::Unavailable),
        (Code::FailedPrecondition, Exit::Conflict),
        (Code::Aborted, Exit::Conflict),
        (Code::OutOfRange, Exit::Conflict),
        (Code::Unimplemented, Exit::Failed),
        (Code::Internal, Exit::Failed),
        (Code::Unavailable, Exit::Unavailable),
        (Code::DataLoss, Exit::Failed),
        (Code::Unauthenticated, Exit::Auth),
    ];
    for (code, exit) in expected {
        let failure = Failure::from_status("get sink DG1", &Status::new(code, "it is so"));
        assert_eq!(failure.exit(), exit, "{code:?}");
        assert_eq!(failure.message, "get sink DG1: it is so", "{code:?}");
        assert!(!failure.next.is_empty(), "{code:?}");
    }
}

#[test]
fn exit_codes_are_the_documented_numbers() {
    let exits = [Exit::Failed, Exit::Usage, Exit::NotFound, Exit::Conflict, Exit::Unavailable, Exit::Auth];
    assert_eq!(exits.map(|exit| exit as u8), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn details_name_the_field_the_reason_and_when_to_retry() {
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("/total", "\"x\" is not a number");
    details.set_error_info(
        "SCHEMA_VIOLATION",
        "fanfare.dev",
        [("schema".to_owned(), "Acme.Order".to_owned())],
    );
    details.set_retry_info(Some(Duration::from_millis(1500)));
    let status = Status::with_error_details(Code::InvalidArgument, "data does not fit", details);
    let failure = Failure::from_status("publish a.b", &status);
    assert_eq!(
        failure.summary(),
        "publish a.b: data does not fit (SCHEMA_VIOLATION); /total: \"x\" is not a number; \
         schema = Acme.Order; a retry can help after 1500 ms"
    );
    assert!(failure.next.contains("schema get"), "{}", failure.next);
    let json: serde_json::Value = serde_json::from_str(&failure.as_json()).unwrap();
    assert_eq!(json["error"]["reason"], "SCHEMA_VIOLATION");
    assert_eq!(json["error"]["exit"], 1);
}

#[test]
fn what_the_message_says_is_not_repeated_below_it() {
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("", "\"total\" is required");
    details.add_bad_request_violation("", "\"id\" is required");
    let status = Status::with_error_details(Code::InvalidArgument, "no: \"total\" is required", details);
    let summary = Failure::from_status("publish a.b", &status).summary();
    assert_eq!(summary, "publish a.b: no: \"total\" is required; \"id\" is required");
}

#[test]
fn a_refused_event_is_told_as_a_single_publish_would_tell_it() {
    let error = PublishError {
        code: Code::NotFound as i32,
        reason: "EVENT_TYPE_UNKNOWN".to_owned(),
        message: "no event type a.b".to_owned(),
        field: "type".to_owned(),
        retry_after_ms: None,
    };
    let failure = Failure::from_publish_error("publish a.b", &error);
    assert_eq!(failure.exit(), Exit::NotFound);
    assert_eq!(failure.summary(), "publish a.b: no event type a.b (EVENT_TYPE_UNKNOWN); at type");
    assert!(failure.next.contains("type create"), "{}", failure.next);
}

#[test]
fn a_reader_that_went_away_is_no_failure() {
    let failure = Failure::from_output(io::Error::from(io::ErrorKind::BrokenPipe));
    assert_eq!(format!("{:?}", failure.report(Format::Table)), format!("{:?}", ExitCode::SUCCESS));
    assert!(!Failure::from_output(io::Error::from(io::ErrorKind::StorageFull)).silent);
}

#[tokio::test]
async fn unreachable_node_is_unavailable_and_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let options = Options { addr: addr.clone(), key: None, timeout: Duration::from_secs(5) };
    let failure = Failure::from_connect(Client::connect(options).await.unwrap_err());
    assert_eq!(failure.exit(), Exit::Unavailable);
    let summary = failure.summary();
    assert!(summary.contains(&addr) && summary.contains("refused"), "{summary}");
}

#[tokio::test]
async fn connection_lost_during_a_call_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = format!("http://{}", listener.local_addr().unwrap());
    TaskTracker::new().spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
    });
    let client =
        Client::connect(Options { addr, key: None, timeout: Duration::from_secs(30) }).await.unwrap();
    let status = client.publish(EventBuilder::new("t").build()).await.unwrap_err();
    let failure = Failure::from_status("publish t", &status);
    assert_eq!(failure.exit(), Exit::Unavailable, "{failure:?} of {status:?}");
    assert!(failure.summary().contains("the connection was lost"), "{failure:?}");
}

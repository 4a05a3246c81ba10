use std::os::unix::fs::PermissionsExt;

use std::{convert::Infallible, sync::Arc};

use fanfare_proto::cloudevents::v1::CloudEvent;
use http::Response;
use http_body_util::Empty;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::task::TaskTracker;

use super::*;
use fanfare_client::EventBuilder;

#[test]
fn the_secret_stays_the_same_and_is_private() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("fanfare");
    let first = stable_secret(Some(&directory)).unwrap();
    let second = stable_secret(Some(&directory)).unwrap();
    assert_eq!(first.expose(), second.expose());
    let mode = fs::metadata(directory.join(SECRET_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_damaged_secret_is_named_and_kept() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(SECRET_FILE);
    fs::write(&path, "whsec_short").unwrap();
    let failure = stable_secret(Some(home.path())).err().unwrap();
    assert!(failure.summary().contains(SECRET_FILE), "{}", failure.summary());
    assert_eq!(fs::read_to_string(&path).unwrap(), "whsec_short");
}

#[test]
fn only_plain_http_is_forwarded_to() {
    assert!(forward_target("http://localhost:3000/hook").is_ok());
    for bad in ["https://localhost/", "localhost:3000", "http://", "ftp://x/", "/hook"] {
        assert!(forward_target(bad).is_err(), "{bad} was taken");
    }
}

/// Headers and body of each request, answered with `status`.
async fn receiver(status: u16) -> (Url, mpsc::Receiver<(http::HeaderMap, Bytes)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?a=1", listener.local_addr().unwrap()).parse().unwrap();
    let (seen, requests) = mpsc::channel(16);
    let seen = Arc::new(seen);
    TaskTracker::new().spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(|request: Request<hyper::body::Incoming>| {
            let seen = seen.clone();
            async move {
                assert_eq!(request.uri(), "/hook?a=1");
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                seen.send((parts.headers, body)).await.unwrap();
                let response = Response::builder().status(status).body(Empty::<Bytes>::new()).unwrap();
                Ok::<_, Infallible>(response)
            }
        });
        http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
    });
    (url, requests)
}

fn event() -> CloudEvent {
    EventBuilder::new("a.b").id("e1").source("/s").json("{\"total\": 1.50}").unwrap().build()
}

#[tokio::test]
async fn an_event_is_forwarded_signed_and_its_status_told() {
    let (target, mut requests) = receiver(503).await;
    let secret = Secret::random();
    let forwarder = Forwarder::new(target, secret.clone());
    let body = serde_json::to_vec(&CloudEventJson(&event())).unwrap();
    assert_eq!(forwarder.forward("e1", body.clone()).await, Ok(503));
    let (headers, received) = requests.recv().await.unwrap();
    assert_eq!(received, body);
    assert!(received.ends_with(b"\"data\":{\"total\": 1.50}}"));
    assert_eq!(headers["content-type"], "application/cloudevents+json; charset=utf-8");
    assert_eq!(headers["webhook-id"], "e1");
    let seconds: i64 = headers["webhook-timestamp"].to_str().unwrap().parse().unwrap();
    assert_eq!(headers["webhook-signature"], secret.sign("e1", seconds, &body).as_str());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_in_words() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let answer = Forwarder::new(target, Secret::random()).forward("e1", Vec::new()).await;
    assert!(answer.as_ref().is_err_and(|text| text.contains("refused")), "{answer:?}");
}

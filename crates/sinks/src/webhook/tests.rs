mod budget;
mod reuse;

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use fanfare_environment::{Environment, Simulation};
use fanfare_model::{PreviousSecret, Secret, Timestamp, WebhookMethod};
use fanfare_testkit::{Receiver, answer_with};
use futures_util::{StreamExt, stream};
use http::{Method, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use rcgen::{CertificateParams, CertifiedKey, KeyPair};
use rustls::{RootCertStore, ServerConfig, pki_types::PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::*;
use crate::{Failure, fixture, fixture::EventBuilder};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn config(destination: &str) -> WebhookConfig {
    WebhookConfig {
        destination: destination.to_owned(),
        method: WebhookMethod::Post,
        batch_events: false,
        batch_events_max: 0,
        timeout_ms: 5000,
        signing_secret: Secret::new(SECRET.to_owned()),
        previous_secret: None,
        twilio_auth_token: None,
    }
}

fn dev() -> EgressPolicy {
    EgressPolicy { allow_http: true, allow_loopback: true, ..EgressPolicy::default() }
}

fn webhook(config: &WebhookConfig, policy: &EgressPolicy, connector: Connector) -> Webhook {
    let clock = Environment::system().clock().clone();
    Webhook::new(config, policy, clock, |_| connector).unwrap()
}

fn sink(config: &WebhookConfig) -> Webhook {
    sink_under(config, dev())
}

fn sink_under(config: &WebhookConfig, policy: EgressPolicy) -> Webhook {
    let policy = Arc::new(policy);
    webhook(config, &policy, Connector::without_roots(policy.clone(), fixture::budget()))
}

async fn attempt_one(sink: &Webhook) -> Outcome {
    let mut outcomes = sink.attempt(vec![fixture::delivery(1)]).await;
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0)
}

fn why(outcome: &Outcome) -> &Failure {
    match outcome {
        Outcome::Delivered => panic!("nothing failed"),
        Outcome::Retry { why, .. }
        | Outcome::Throttled { why, .. }
        | Outcome::Rejected { why }
        | Outcome::SinkDown { why, .. } => why,
    }
}

#[tokio::test]
async fn single_event_arrives_as_one_signed_object() {
    let receiver = Receiver::answering(202).await;
    assert_eq!(attempt_one(&sink(&config(&receiver.url()))).await, Outcome::Delivered);
    let seen = receiver.last_request();
    assert_eq!((seen.method, seen.target.as_str()), (Method::POST, "/hook"));
    assert_eq!(seen.headers["host"], receiver.address().to_string());
    assert_eq!(seen.headers["content-type"], "application/cloudevents+json");
    assert!(seen.headers["user-agent"].to_str().unwrap().starts_with("Fanfare/"));
    assert_eq!(seen.headers["webhook-id"], "evt_1b7ccccdf99003f527abbd0c6ed18ad1");
    assert!(!seen.headers.contains_key("authorization") && !seen.headers.contains_key("x-twilio-signature"));
    let event: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(event["data"]["number"], 1);
    let verifier = standardwebhooks::Webhook::new(SECRET).unwrap();
    verifier.verify(&seen.body, &seen.headers).unwrap();
    let tampered = [&seen.body[..], b" "].concat();
    assert!(verifier.verify(&tampered, &seen.headers).is_err());
}

#[tokio::test]
async fn a_rotated_secret_signs_beside_the_new_one_until_it_expires() {
    const OLD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let receiver = Receiver::answering(200).await;
    let now = Environment::system().clock().unix_ms();
    for (expires, signatures) in [(now + 60_000, 2), (now - 60_000, 1)] {
        let previous = PreviousSecret { secret: Secret::new(OLD.to_owned()), expires: Timestamp(expires) };
        let config = WebhookConfig { previous_secret: Some(previous), ..config(&receiver.url()) };
        assert_eq!(attempt_one(&sink(&config)).await, Outcome::Delivered);
        let seen = receiver.last_request();
        let signature = seen.headers["webhook-signature"].to_str().unwrap();
        assert_eq!(signature.split(' ').count(), signatures, "{signature}");
        standardwebhooks::Webhook::new(SECRET).unwrap().verify(&seen.body, &seen.headers).unwrap();
        let old = standardwebhooks::Webhook::new(OLD).unwrap().verify(&seen.body, &seen.headers);
        assert_eq!(old.is_ok(), signatures == 2);
    }
}

#[tokio::test]
async fn signature_time_is_that_of_the_environment() {
    let receiver = Receiver::answering(200).await;
    let policy = Arc::new(dev());
    let clock = Environment::simulated(&Simulation::new(1)).clock().clone();
    let started_seconds = clock.unix_ms() / 1_000;
    let connector = Connector::without_roots(policy.clone(), fixture::budget());
    let sink = Webhook::new(&config(&receiver.url()), &policy, clock.clone(), |_| connector).unwrap();
    assert_eq!(attempt_one(&sink).await, Outcome::Delivered);
    let timestamp = receiver.last_request().headers["webhook-timestamp"].to_str().unwrap().to_owned();
    let timestamp: u64 = timestamp.parse().unwrap();
    assert!((started_seconds..=clock.unix_ms() / 1_000).contains(&timestamp), "{timestamp}");
}

#[tokio::test]
async fn batch_arrives_as_one_signed_array_in_order() {
    let receiver = Receiver::answering(200).await;
    let config = WebhookConfig {
        batch_events: true,
        batch_events_max: 10,
        method: WebhookMethod::Put,
        ..config(&receiver.url())
    };
    let sink = sink(&config);
    assert_eq!(sink.abilities().batch_events_max, 10);
    let unencodable = EventBuilder::new("bad", "/orders", "t").text("Upper", "x").delivery();
    let events = vec![unencodable, fixture::delivery(1), fixture::delivery(2)];
    let outcomes = sink.attempt(events).await;
    assert_eq!(why(&outcomes[0]).class, Failure::ENCODING);
    assert_eq!(outcomes[1..], [Outcome::Delivered, Outcome::Delivered]);
    let seen = receiver.last_request();
    assert_eq!(seen.method, Method::PUT);
    assert_eq!(seen.headers["content-type"], "application/cloudevents-batch+json");
    let events: Vec<serde_json::Value> = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(events.iter().map(|event| &event["id"]).collect::<Vec<_>>(), ["evt-1", "evt-2"]);
    standardwebhooks::Webhook::new(SECRET).unwrap().verify(&seen.body, &seen.headers).unwrap();

    assert_eq!(sink.attempt(vec![fixture::delivery(3)]).await, [Outcome::Delivered]);
    assert!(receiver.last_request().body.starts_with(b"[{"), "a batch of one is still an array");
}

#[tokio::test]
async fn attempt_without_encodable_events_makes_no_request() {
    let receiver = Receiver::answering(200).await;
    let batch = sink(&WebhookConfig { batch_events: true, batch_events_max: 2, ..config(&receiver.url()) });
    assert!(batch.attempt(vec![]).await.is_empty());
    let unencodable = EventBuilder::new("bad", "/orders", "t").text("Upper", "x").delivery();
    let outcomes = batch.attempt(vec![unencodable.clone()]).await;
    assert!(matches!(outcomes[..], [Outcome::Rejected { .. }]));
    let outcomes = sink(&config(&receiver.url())).attempt(vec![unencodable]).await;
    assert!(matches!(outcomes[..], [Outcome::Rejected { .. }]));
    assert!(receiver.requests().is_empty());
}

#[tokio::test]
async fn sink_with_a_twilio_token_sends_requests_like_twilio() {
    let receiver = Receiver::answering(200).await;
    let url = format!("http://us%40er:p%3Aw@{}/hook?a=1", receiver.address());
    let token = "0123456789abcdef0123456789abcdef";
    let config = WebhookConfig { twilio_auth_token: Some(Secret::new(token.to_owned())), ..config(&url) };
    assert_eq!(attempt_one(&sink(&config)).await, Outcome::Delivered);
    let seen = receiver.last_request();
    assert_eq!(seen.headers["content-type"], "application/json");
    assert_eq!(seen.headers["authorization"], "Basic dXNAZXI6cDp3");
    let (path, hash) = seen.target.split_once("&bodySHA256=").unwrap();
    assert_eq!((path, hash.len()), ("/hook?a=1", 64));
    let requested = format!("http://{}{}", receiver.address(), seen.target);
    let signature = signature::TwilioSigner::new(token).unwrap().sign(&requested);
    assert_eq!(seen.headers["x-twilio-signature"], signature);
    let of_body = signature::TwilioSigner::url_with_body_hash("x", &seen.body);
    assert!(of_body.ends_with(hash), "the hash is that of the body");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let target = Receiver::answering(200).await;
    let location = target.url();
    for status in [301, 302, 303, 307, 308] {
        let location = location.clone();
        let receiver = Receiver::start(move |_| {
            let mut response = answer_with(status, "");
            response.headers_mut().insert("location", location.parse().unwrap());
            response
        })
        .await;
        let outcome = attempt_one(&sink(&config(&receiver.url()))).await;
        assert!(matches!(outcome, Outcome::SinkDown { .. }), "{status}");
        assert_eq!((why(&outcome).class, why(&outcome).status), (Failure::REDIRECT, status));
    }
    assert!(target.requests().is_empty());
}

#[tokio::test]
async fn retry_after_reaches_the_outcome() {
    let receiver = Receiver::start(|_| {
        let mut response = answer_with(429, "slow down");
        response.headers_mut().insert("retry-after", "7".parse().unwrap());
        response
    })
    .await;
    let outcome = attempt_one(&sink(&config(&receiver.url()))).await;
    assert!(
        matches!(outcome, Outcome::Throttled { after: Some(after), .. } if after == Duration::from_secs(7))
    );
    assert_eq!(why(&outcome).message, "429 Too Many Requests: slow down");
}

#[tokio::test]
async fn connection_is_reused_only_after_the_end_of_the_answer() {
    let receiver = Receiver::answering(200).await;
    let sink = sink(&config(&receiver.url()));
    for _ in 0..20 {
        assert_eq!(attempt_one(&sink).await, Outcome::Delivered);
    }
    let connections = receiver.connections();
    assert!(connections <= 2, "{connections} connections for 20 requests one after another");

    let frames = || Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'x'; 4096])));
    let endless = Receiver::start(move |_| {
        let body = StreamBody::new(stream::repeat_with(frames));
        Response::new(BodyExt::boxed(body))
    })
    .await;
    let sink = sink_under(&config(&endless.url()), dev());
    for requests in 1..=3 {
        assert_eq!(attempt_one(&sink).await, Outcome::Delivered, "the head already said so");
        assert_eq!(endless.connections(), requests);
    }
}

#[tokio::test]
async fn endless_body_does_not_delay_the_outcome() {
    let receiver = Receiver::start(|_| {
        let first = Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"wait")));
        let body = stream::iter([first]).chain(stream::pending());
        Response::new(BodyExt::boxed(StreamBody::new(body)))
    })
    .await;
    let sink = sink(&WebhookConfig { timeout_ms: 30_000, ..config(&receiver.url()) });
    let started = Instant::now();
    assert_eq!(attempt_one(&sink).await, Outcome::Delivered);
    assert!(started.elapsed() < Duration::from_secs(10), "took {:?}", started.elapsed());
}

#[tokio::test]
async fn idle_connection_is_closed_after_its_idle_time() {
    let (address, serving) = raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", End::Wait).await;
    let mut sink = sink(&config(&format!("http://{address}/")));
    sink.pool.set_idle_max(Duration::from_millis(50));
    for connections in 1..=2 {
        assert_eq!(attempt_one(&sink).await, Outcome::Delivered);
        let mut ended = serving.ended.clone();
        tokio::time::timeout(Duration::from_secs(5), ended.wait_for(|ended| *ended == connections))
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test]
async fn request_returned_by_a_closed_connection_goes_out_on_another() {
    let receiver = Receiver::start(|_| {
        let mut response = answer_with(200, "");
        response.headers_mut().insert("connection", "close".parse().unwrap());
        response
    })
    .await;
    let sink = sink(&config(&receiver.url()));
    for _ in 0..5 {
        assert_eq!(attempt_one(&sink).await, Outcome::Delivered);
    }
    assert_eq!(receiver.requests().len(), 5);
}

/// A server that speaks bytes, not HTTP.
struct RawServer {
    /// Connections that the client ended.
    ended: watch::Receiver<usize>,
    _serving: AbortOnDropHandle<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Close after the answer.
    Close,
    /// Leave that to the client.
    Wait,
}

/// For each connection: reads some of the request, writes `answer`, and ends as told.
async fn raw_server(answer: &'static [u8], end: End) -> (SocketAddr, RawServer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ended, ended_seen) = watch::channel(0);
    let serving = TaskTracker::new().spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 64 * 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0, "the client said nothing");
            stream.write_all(answer).await.unwrap();
            if end == End::Wait {
                // An error is an end too: the client may drop what we still send.
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) {}
                ended.send_modify(|ended| *ended += 1);
            }
        }
    });
    (address, RawServer { ended: ended_seen, _serving: AbortOnDropHandle::new(serving) })
}

#[tokio::test]
async fn each_kind_of_failure_has_its_class() {
    let huge_head: &[u8] =
        Box::leak(format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(40_000)).into_bytes().into());
    for (answer, end, class, down) in [
        (&b""[..], End::Wait, Failure::TIMEOUT, false),
        (b"HTTP/1.1 200 OK\r\n", End::Wait, Failure::TIMEOUT, false),
        (b"", End::Close, Failure::CONNECTION_LOST, false),
        (b"HTTP/1.1 20", End::Close, Failure::CONNECTION_LOST, false),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", End::Wait, Failure::PROTOCOL, true),
        (huge_head, End::Wait, Failure::PROTOCOL, true),
    ] {
        let (address, _serving) = raw_server(answer, end).await;
        let config = WebhookConfig { timeout_ms: 300, ..config(&format!("http://{address}/")) };
        let outcome = attempt_one(&sink(&config)).await;
        assert_eq!(
            why(&outcome).class,
            class,
            "{:?}",
            String::from_utf8_lossy(&answer[..answer.len().min(30)])
        );
        assert_eq!(matches!(outcome, Outcome::SinkDown { .. }), down, "{class}");
    }
}

#[tokio::test]
async fn sink_is_down_without_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let refused = attempt_one(&sink(&config(&format!("http://{address}/")))).await;
    assert!(matches!(refused, Outcome::SinkDown { .. }));
    assert_eq!(why(&refused).class, Failure::CONNECT);
    assert_eq!(why(&refused).message, "connect: connection refused");

    let unresolved = attempt_one(&sink(&config("http://no-such-host.invalid:8080/"))).await;
    assert!(matches!(unresolved, Outcome::SinkDown { .. }));
    assert_eq!(why(&unresolved).class, Failure::DNS);
}

#[tokio::test]
async fn name_that_resolves_to_a_forbidden_address_is_not_dialled() {
    let receiver = Receiver::answering(200).await;
    let public_only = EgressPolicy { allow_loopback: false, ..dev() };
    let destination = config(&format!("http://localhost:{}/", receiver.address().port()));
    let outcome = attempt_one(&sink_under(&destination, public_only)).await;
    assert!(matches!(outcome, Outcome::SinkDown { .. }));
    assert_eq!(why(&outcome).class, Failure::ADDRESS_FORBIDDEN);
    assert!(!why(&outcome).message.contains("127.0.0.1"));
    assert_eq!(receiver.connections(), 0);
    assert_eq!(attempt_one(&sink(&destination)).await, Outcome::Delivered);
}

#[tokio::test]
async fn literal_address_is_checked_again_when_dialled() {
    let receiver = Receiver::answering(200).await;
    let policy = Arc::new(EgressPolicy { allow_loopback: false, ..dev() });
    let checked_under_another_policy =
        webhook(&config(&receiver.url()), &dev(), Connector::without_roots(policy, fixture::budget()));
    assert_eq!(why(&attempt_one(&checked_under_another_policy).await).class, Failure::ADDRESS_FORBIDDEN);
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn dropping_an_attempt_ends_its_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sink = sink(&config(&format!("http://{}/", listener.local_addr().unwrap())));
    let attempt = attempt_one(&sink);
    let mut stream = tokio::select! {
        accepted = listener.accept() => accepted.unwrap().0,
        _ = attempt => panic!("an outcome without an answer"),
    };
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.unwrap().unwrap();
}

/// A receiver at `localhost` whose certificate is `certificate`; it answers every request with 200.
async fn tls_receiver(certificate: &CertifiedKey<KeyPair>) -> Receiver {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivatePkcs8KeyDer::from(certificate.signing_key.serialize_der());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    Receiver::start_behind(Some(acceptor), |_| answer_with(200, "")).await
}

#[tokio::test]
async fn tls_is_always_verified() {
    let valid = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let misnamed = rcgen::generate_simple_self_signed(vec!["example.com".to_owned()]).unwrap();
    let mut old = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    old.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let signing_key = KeyPair::generate().unwrap();
    let expired = CertifiedKey { cert: old.self_signed(&signing_key).unwrap(), signing_key };
    for (certificate, trusted, delivered) in
        [(&valid, true, true), (&valid, false, false), (&misnamed, true, false), (&expired, true, false)]
    {
        let receiver = tls_receiver(certificate).await;
        let mut roots = RootCertStore::empty();
        if trusted {
            roots.add(certificate.cert.der().clone()).unwrap();
        }
        let destination = config(&format!("https://localhost:{}/hook", receiver.address().port()));
        let policy = Arc::new(EgressPolicy { allow_http: false, ..dev() });
        let sink =
            webhook(&destination, &policy, Connector::with_roots(policy.clone(), fixture::budget(), roots));
        let outcome = attempt_one(&sink).await;
        if delivered {
            assert_eq!(outcome, Outcome::Delivered);
            continue;
        }
        assert!(matches!(outcome, Outcome::SinkDown { .. }));
        assert_eq!(why(&outcome).class, Failure::TLS);
        assert!(why(&outcome).message.contains("invalid peer certificate"), "{}", why(&outcome).message);
        assert!(receiver.requests().is_empty());
    }
}

#[tokio::test]
async fn silent_tls_server_times_out() {
    let (address, _serving) = raw_server(b"", End::Wait).await;
    let destination = WebhookConfig { timeout_ms: 200, ..config(&format!("https://{address}/")) };
    let outcome = attempt_one(&sink(&destination)).await;
    assert!(matches!(outcome, Outcome::SinkDown { .. }));
    assert_eq!(why(&outcome).class, Failure::CONNECT);
}

#[test]
fn invalid_configuration_names_its_field() {
    let good = config("https://example.com/hook");
    assert_eq!(Webhook::check(&good, &EgressPolicy::default()), Ok(()));
    let with_secret =
        |secret: &str| WebhookConfig { signing_secret: Secret::new(secret.to_owned()), ..good.clone() };
    let batch = |events| WebhookConfig { batch_events: true, batch_events_max: events, ..good.clone() };
    for (bad, field) in [
        (config("http://example.com/"), "webhook.destination"),
        (config("https://10.0.0.1/"), "webhook.destination"),
        (with_secret("secret"), "webhook.signing_secret"),
        (WebhookConfig { timeout_ms: 99, ..good.clone() }, "webhook.timeout_ms"),
        (WebhookConfig { timeout_ms: 30_001, ..good.clone() }, "webhook.timeout_ms"),
        (batch(0), "webhook.batch_events_max"),
        (batch(1001), "webhook.batch_events_max"),
        (
            WebhookConfig { twilio_auth_token: Some(Secret::new(String::new())), ..good.clone() },
            "webhook.twilio_auth_token",
        ),
    ] {
        let error = Webhook::check(&bad, &EgressPolicy::default()).unwrap_err();
        assert_eq!(error.field, field);
        assert!(!error.problem.contains("secret\""), "{error}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    /// With any event, the bytes on the wire are one request with the template's headers.
    #[test]
    fn no_event_can_add_bytes_to_the_request_head(
        id in "[\\x00-\\x7f\u{80}-\u{2ff}]{1,40}", source in "[\\x00-\\x7f]{1,20}", subject in "(.|\r\n){0,40}",
    ) {
        let stored = EventBuilder::new(&id, &source, "t").text("subject", &subject).data_text(&subject);
        let head = wire_head(stored.delivery());
        let names: Vec<&str> = head.lines().skip(1).map(|line| line.split(':').next().unwrap()).collect();
        let expected =
            ["host", "content-type", "user-agent", "webhook-id", "webhook-timestamp", "webhook-signature", "content-length"];
        proptest::prop_assert_eq!(names, expected);
        proptest::prop_assert!(head.bytes().all(|byte| byte == b'\r' || byte == b'\n' || (b' '..=b'~').contains(&byte)));
    }
}

/// The head of the request for `delivery`, as the receiver's socket got it.
fn wire_head(delivery: Delivery) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sink = sink(&config(&format!("http://{}/", listener.local_addr().unwrap())));
        let receive = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut received = Vec::new();
            loop {
                assert!(stream.read_buf(&mut received).await.unwrap() > 0, "the head ended early");
                if let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                    return String::from_utf8_lossy(&received[..end]).into_owned();
                }
            }
        };
        tokio::select! {
            head = receive => head,
            outcomes = sink.attempt(vec![delivery]) => panic!("an outcome without an answer: {outcomes:?}"),
        }
    })
}

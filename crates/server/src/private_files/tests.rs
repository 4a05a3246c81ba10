//! A node whose sinks have secrets, looked at from outside: its answers, its log lines, its files.

use std::{
    fmt::Debug,
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use fanfare_client::{Client, Options};
use fanfare_proto::{
    cloudevents::v1::CloudEvent,
    v1::{
        CreateEventTypeRequest, CreateSinkRequest, CreateSubscriptionRequest, EventType, GetSinkRequest,
        ListSinksRequest, Selector, Sink, Subscription, UpdateSinkRequest, WebhookSink, sink::Kind,
    },
};
use fanfare_sinks::EgressPolicy;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tracing::level_filters::LevelFilter;

use super::*;
use crate::{
    config::{ByteSize, Config},
    first_key,
    node::Node,
};

const DEADLINE: Duration = Duration::from_secs(60);
/// 24 bytes in base64, as a signing secret has them.
const SIGNING: &str = "Y2FuYXJ5LXNpZ25pbmctc2VjcmV0LTAx";
const TWILIO: &str = "canary-twilio-token";

/// Log lines of this thread, of every level.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn start(data_dir: &Path) -> Node {
    let mut config = Config::default();
    config.node.data_dir = data_dir.to_owned();
    config.listen.grpc = ([127, 0, 0, 1], 0).into();
    config.storage.segment_bytes = ByteSize::mib(1);
    config.storage.retention_bytes = ByteSize::mib(64);
    config.storage.dead_letter_retention_bytes = ByteSize(1 << 30);
    config.storage.pool_segments_max = 1;
    config.publish.partitions = 1;
    let egress = EgressPolicy { allow_http: true, allow_loopback: true, ..EgressPolicy::default() };
    Node::start(config, egress).await.unwrap()
}

fn sink(destination: &str, signing_secret: String) -> Sink {
    let webhook = WebhookSink {
        destination: destination.to_owned(),
        signing_secret,
        twilio_auth_token: Some(TWILIO.to_owned()),
        ..WebhookSink::default()
    };
    Sink { kind: Some(Kind::Webhook(webhook)), ..Sink::default() }
}

/// Drives what handles secrets; gives everything that was answered besides the creation itself.
async fn drive(client: &Client, receiver: TcpListener) -> Vec<String> {
    let destination = format!("http://{}/", receiver.local_addr().unwrap());
    let mut sinks = client.sinks();
    let created = sink(&destination, format!("whsec_{SIGNING}"));
    let created = sinks
        .create_sink(CreateSinkRequest { sink: Some(created), ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    let id = created.sink.unwrap().id;
    let event_type = EventType { name: "paid".to_owned(), ..EventType::default() };
    client
        .event_types()
        .create_event_type(CreateEventTypeRequest { event_type: Some(event_type), ..Default::default() })
        .await
        .unwrap();
    let selectors = vec![Selector { r#type: "paid".to_owned(), version: None }];
    let subscription = Subscription { sink_id: id.clone(), selectors, ..Subscription::default() };
    let request = CreateSubscriptionRequest { subscription: Some(subscription), ..Default::default() };
    client.subscriptions().create_subscription(request).await.unwrap();
    let event = CloudEvent {
        id: "1".to_owned(),
        source: "/tests".to_owned(),
        spec_version: "1.0".to_owned(),
        r#type: "paid".to_owned(),
        ..CloudEvent::default()
    };
    client.publish(event).await.unwrap();
    // The attempt comes, signed, and fails when the connection is dropped.
    drop(tokio::time::timeout(DEADLINE, receiver.accept()).await.expect("it is attempted").unwrap());
    let shown = |answer: &dyn Debug| format!("{answer:?}");
    let wrong = Sink { id: id.clone(), ..sink(&destination, format!("whsec_{SIGNING}!")) };
    vec![
        shown(&sinks.get_sink(GetSinkRequest { id: id.clone() }).await.unwrap()),
        shown(&sinks.list_sinks(ListSinksRequest::default()).await.unwrap()),
        shown(
            &sinks.update_sink(UpdateSinkRequest { sink: Some(wrong), update_mask: None }).await.unwrap_err(),
        ),
    ]
}

fn all_below(folder: &Path, found: &mut Vec<(String, u32)>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let mode = entry.metadata().unwrap().permissions().mode();
        found.push((entry.path().display().to_string(), mode & 0o777));
        if entry.file_type().unwrap().is_dir() {
            all_below(&entry.path(), found);
        }
    }
}

#[tokio::test]
async fn secrets_of_sinks_are_not_shown_not_logged_and_not_readable_by_others() {
    restrict_umask();
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _logged = tracing::subscriber::set_default(subscriber);
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let node = start(&data_dir).await;
    let key_file = data_dir.join("first-key");
    first_key::ensure(&node.catalog, "acme", &key_file).await.unwrap().expect("the first account");
    let key = fs::read_to_string(&key_file).unwrap().trim().to_owned();
    let options =
        Options { addr: format!("http://{}", node.grpc), key: Some(key.clone()), timeout: DEADLINE };
    let receiver = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let answers = drive(&Client::connect(options).await.unwrap(), receiver).await;
    node.shutdown().await;

    let logged = String::from_utf8(lines.0.lock().clone()).unwrap();
    assert!(logged.contains("TRACE"), "everything is logged that can be");
    for secret in [SIGNING, TWILIO, key.as_str()] {
        let line = logged.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "a log line has {secret}");
        assert!(!answers.iter().any(|answer| answer.contains(secret)), "{answers:?}");
    }
    let mut found =
        vec![(data_dir.display().to_string(), fs::metadata(&data_dir).unwrap().permissions().mode() & 0o777)];
    all_below(&data_dir, &mut found);
    assert!(found.len() > 10, "{found:?}");
    let open: Vec<_> = found.iter().filter(|(_, mode)| mode & 0o077 != 0).collect();
    assert!(open.is_empty(), "{open:?}");
}

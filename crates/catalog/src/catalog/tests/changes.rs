//! What callers of a running catalog rely on.

use fanfare_model::{
    DeliverySettings, Secret, SinkConfig, SinkId, StartAt, SubscribedType, SubscriptionId, WebhookConfig,
    WebhookMethod,
};
use fanfare_raft::Role;

use super::*;
use crate::{NewSink, NewSubscription, ObjectKind, SinkChange};

fn webhook(secret: &str) -> SinkConfig {
    SinkConfig::Webhook(WebhookConfig {
        destination: "https://example.com/hook".to_owned(),
        method: WebhookMethod::Put,
        batch_events: false,
        batch_events_max: 1,
        timeout_ms: 1000,
        signing_secret: Secret::new(secret.to_owned()),
        previous_secret: None,
        twilio_auth_token: None,
    })
}

fn new_sink(description: &str, config: SinkConfig) -> NewSink {
    NewSink { description: description.to_owned(), config, delivery: DeliverySettings::default() }
}

fn subscription(sink: SinkId, types: &[(&str, Option<u32>)]) -> NewSubscription {
    let types = types
        .iter()
        .map(|(name, version)| SubscribedType { event_type: (*name).to_owned(), schema_version: *version });
    NewSubscription { description: String::new(), sink, types: types.collect() }
}

#[tokio::test]
async fn only_the_first_start_makes_an_account() {
    let node = Node::new().await;
    let key = new_key();
    let account = node.catalog.bootstrap("acme", &key).await.unwrap().expect("the catalog was empty");
    let tenant = node.catalog.authenticate(key.text.expose()).expect("the key is live at the answer");
    assert_eq!((tenant.account(), tenant.key()), (account.id, key.id));
    let revision = node.catalog.view().revision;
    assert!(node.catalog.bootstrap("acme", &key).await.unwrap().is_none());
    assert!(node.catalog.bootstrap("other", &key).await.unwrap().is_none());
    assert_eq!(node.catalog.view().revision, revision);
    node.stop().await;
}

#[tokio::test]
async fn a_change_is_visible_when_it_is_answered() {
    let node = Node::new().await;
    let catalog = &node.catalog;
    let tenant = node.tenant().await;
    let view = || catalog.view().account(tenant.account()).unwrap().clone();

    let schema = catalog.create_schema(tenant, "Order", "orders", r#"{"type":"object"}"#).await.unwrap();
    assert_eq!(view().schemas["Order"], schema);
    let schema = catalog.create_schema_version(tenant, "Order", "true").await.unwrap().schema;
    assert_eq!(
        schema.versions.iter().map(|version| &*version.document).collect::<Vec<_>>(),
        [r#"{"type":"object"}"#, "true"]
    );
    let schema = catalog.update_schema(tenant, "Order", "all orders", Some(schema.revision)).await.unwrap();
    assert_eq!((view().schemas["Order"].description.as_str(), schema.latest_version()), ("all orders", 2));

    let paid = NewEventType { schema: Some("Order".to_owned()), ..event_type("order.paid") };
    let created = catalog.create_event_type(tenant, paid.clone()).await.unwrap();
    let deprecated = NewEventType { status: EventTypeStatus::Deprecated, ..paid };
    let updated = catalog.update_event_type(tenant, deprecated, Some(created.revision)).await.unwrap();
    assert_eq!(view().event_types["order.paid"], updated);
    assert!(updated.revision > created.revision && updated.updated > updated.created);

    let sink = catalog.create_sink(tenant, new_sink("hook", webhook(""))).await.unwrap();
    let SinkConfig::Webhook(made) = &sink.config else { panic!("it was made a webhook") };
    assert!(made.signing_secret.expose().starts_with("whsec_") && made.signing_secret.expose().len() == 38);
    let change = SinkChange {
        sink: new_sink("new hook", webhook("whsec_other")),
        expected_revision: Some(sink.revision),
    };
    let changed = catalog.update_sink(tenant, sink.id, change).await.unwrap();
    assert_eq!(changed.config, webhook("whsec_other"));
    assert_eq!(view().sinks[&sink.id], changed);

    let wanted = subscription(sink.id, &[("order.paid", Some(2))]);
    let made = catalog.create_subscription(tenant, wanted, StartAt::Earliest).await.unwrap();
    assert_eq!((made.epoch, made.revision), (catalog.view().revision, catalog.view().revision));
    let paused = catalog.pause_subscription(tenant, made.id).await.unwrap();
    assert!(paused.paused && view().subscriptions[&made.id].paused);
    assert!(!catalog.resume_subscription(tenant, made.id).await.unwrap().paused);
    let wanted = subscription(sink.id, &[("order.paid", None)]);
    let updated = catalog.update_subscription(tenant, made.id, wanted, None).await.unwrap();
    assert_eq!((updated.epoch, updated.types[0].schema_version), (made.epoch, None));

    catalog.delete_subscription(tenant, made.id).await.unwrap();
    catalog.delete_sink(tenant, sink.id).await.unwrap();
    catalog.delete_event_type(tenant, "order.paid").await.unwrap();
    catalog.delete_schema(tenant, "Order").await.unwrap();
    let empty = view();
    assert!(empty.subscriptions.is_empty() && empty.sinks.is_empty());
    assert!(empty.event_types.is_empty() && empty.schemas.is_empty());
    node.stop().await;
}

#[tokio::test]
async fn a_tenant_reaches_only_its_own_objects() {
    let node = Node::new().await;
    let catalog = &node.catalog;
    let tenant = node.tenant().await;
    let other = catalog.create_account("other").await.unwrap();
    let key: NewKey = catalog.create_key(other.id, "ci").await.unwrap();
    let stranger = catalog.authenticate(key.text.expose()).unwrap();
    assert_eq!(stranger.account(), other.id);

    let sink = catalog.create_sink(tenant, new_sink("", webhook(""))).await.unwrap();
    catalog.create_event_type(tenant, event_type("order.paid")).await.unwrap();
    let missing = |result: Result<(), ChangeError>| {
        assert!(matches!(result, Err(ChangeError::NotFound { .. })), "{result:?}");
    };
    missing(catalog.delete_sink(stranger, sink.id).await);
    missing(catalog.delete_event_type(stranger, "order.paid").await);
    let wanted = subscription(sink.id, &[("order.paid", None)]);
    let refused = catalog.create_subscription(stranger, wanted, StartAt::Next).await.unwrap_err();
    assert!(matches!(refused, ChangeError::Invalid { ref field, .. } if field == "subscription.sink_id"));
    assert_ne!(catalog.view().account(tenant.account()).unwrap().account.shard, other.shard);
    node.stop().await;
}

#[tokio::test]
async fn a_refused_change_is_not_logged() {
    let node = Node::new().await;
    let tenant = node.tenant().await;
    let before = node.catalog.shared.group.log().bounds().last;
    let refused = node.catalog.delete_subscription(tenant, SubscriptionId::from_bytes([1; 16])).await;
    assert!(matches!(refused, Err(ChangeError::NotFound { .. })));
    let document = "x".repeat(256 * 1024 + 1);
    let refused = node.catalog.create_schema(tenant, "Huge", "", &document).await.unwrap_err();
    assert_eq!(refused.to_string(), "document: has 262145 bytes; a schema may have 262144");
    assert_eq!(node.catalog.shared.group.log().bounds().last, before);
    node.catalog.create_schema(tenant, "Large", "", &document[1..]).await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_writers_of_the_same_revision_wins() {
    let node = Node::new().await;
    let tenant = node.tenant().await;
    let read = node.catalog.create_event_type(tenant, event_type("order.paid")).await.unwrap();
    let write = || node.catalog.update_event_type(tenant, event_type("order.paid"), Some(read.revision));
    let (one, other) = tokio::join!(write(), write());
    let refusal = match (one, other) {
        (Ok(_), Err(error)) | (Err(error), Ok(_)) => error,
        both => panic!("{both:?}"),
    };
    assert!(matches!(refusal, ChangeError::Stale { kind: ObjectKind::EventType, .. }), "{refusal}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_holds_for_requests_at_the_same_time() {
    let options = CatalogOptions { sinks_max: 2, ..options() };
    let node = Node::open(MemoryFileSystem::default(), TempDir::new().unwrap(), options).await;
    let tenant = node.tenant().await;
    let create = || node.catalog.create_sink(tenant, new_sink("", webhook("")));
    let answers = tokio::join!(create(), create(), create(), create());
    let answers = [answers.0, answers.1, answers.2, answers.3];
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 2);
    for refusal in answers.into_iter().filter_map(Result::err) {
        assert_eq!(refusal, ChangeError::Limit { kind: ObjectKind::Sink, limit: 2 });
    }
    assert_eq!(node.catalog.view().account(tenant.account()).unwrap().sinks.len(), 2);
    node.stop().await;
}

#[tokio::test]
async fn a_watcher_sees_the_newest_view() {
    let node = Node::new().await;
    let mut watch = node.catalog.watch();
    let tenant = node.tenant().await;
    node.create_types(tenant, 0..5).await;
    let newest = watch.wait_for(|view| view.revision == SETUP_COMMANDS + 6);
    let newest = timeout(DEADLINE, newest).await.expect("in time").expect("the catalog runs").clone();
    assert_eq!(newest, node.catalog.view());
    node.stop().await;
}

#[tokio::test]
async fn a_stopped_catalog_refuses_changes_and_still_answers_reads() {
    let node = Node::new().await;
    let tenant = node.tenant().await;
    let view = node.catalog.view();
    let catalog = node.catalog.clone();
    node.stop().await;
    let refused = catalog.create_event_type(tenant, event_type("late")).await;
    assert_eq!(refused, Err(ChangeError::Unavailable));
    assert_eq!(catalog.view(), view);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_of_a_newer_program_stops_the_catalog_and_is_never_skipped() {
    let node = Node::new().await;
    let tenant = node.tenant().await;
    let (hash, group) = (node.catalog.state().hash(), &node.catalog.shared.group);
    let Role::Leader { term } = *group.role().borrow() else { panic!("it leads") };
    let payload = Payload::new(vec![br#"{"v":3,"change":"unheard of"}"#.to_vec().into()]);
    let newer = Proposal { kind: COMMAND, count: 0, time_ms: 0, payload };
    let pending = group.propose(term, newer).await.unwrap();
    assert!(timeout(DEADLINE, pending.applied()).await.expect("in time").is_err());
    assert!(node.catalog.create_event_type(tenant, event_type("later")).await.is_err());
    assert_eq!(node.catalog.state().hash(), hash);

    let (files, dir) = node.stop().await;
    for _ in 0..2 {
        let store = open_store(&files);
        let host = Host::without_peers(store.clone(), environment());
        let opened = timeout(DEADLINE, Catalog::open(&host, directory(&dir), options())).await;
        assert!(opened.expect("in time").is_err(), "it opened past the command");
        store.close();
    }
}

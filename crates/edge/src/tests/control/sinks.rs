use fanfare_model::SinkConfig;
use fanfare_proto::v1::{sink::Kind, *};

use super::*;

fn of_webhook(sink: &Sink) -> WebhookSink {
    match sink.kind.clone() {
        Some(Kind::Webhook(webhook)) => webhook,
        other => panic!("{other:?}"),
    }
}

fn with(change: impl FnOnce(&mut WebhookSink)) -> Sink {
    let mut sink = webhook("https://example.com/hook");
    if let Some(Kind::Webhook(webhook)) = &mut sink.kind {
        change(webhook);
    }
    sink
}

const STREAM: &str = "arn:aws:kinesis:eu-central-1:123456789012:stream/orders";

fn kinesis(arn: &str, role_arn: &str) -> Sink {
    let (arn, role_arn) = (arn.to_owned(), role_arn.to_owned());
    Sink {
        kind: Some(Kind::Kinesis(KinesisSink { arn, role_arn, ..KinesisSink::default() })),
        ..Sink::default()
    }
}

fn stored_secrets(node: &Node, caller: &Caller, id: &str) -> (String, Option<String>) {
    let view = node.catalog.view();
    let sink = &view.account(caller.tenant.account()).unwrap().sinks[&id.parse().unwrap()];
    let SinkConfig::Webhook(webhook) = &sink.config else { panic!("{sink:?}") };
    let token = webhook.twilio_auth_token.as_ref().map(|token| token.expose().to_owned());
    (webhook.signing_secret.expose().to_owned(), token)
}

#[tokio::test]
async fn secrets_are_answered_once_at_their_creation() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let mut client = caller.sinks.clone();
    let created =
        caller.sink(with(|webhook| webhook.twilio_auth_token = Some("token".to_owned()))).await.unwrap();
    let secret = of_webhook(&created).signing_secret;
    assert!(secret.starts_with("whsec_"), "{secret}");
    assert_eq!(of_webhook(&created).twilio_auth_token, None);
    assert_eq!(stored_secrets(&node, &caller, &created.id), (secret.clone(), Some("token".to_owned())));

    let got = answer(client.get_sink(GetSinkRequest { id: created.id.clone() })).await.unwrap().sink.unwrap();
    let listed = answer(client.list_sinks(ListSinksRequest::default())).await.unwrap().sinks;
    let change = Sink { description: "new".to_owned(), ..got.clone() };
    let updated = answer(client.update_sink(UpdateSinkRequest { sink: Some(change), update_mask: None }))
        .await
        .unwrap()
        .sink
        .unwrap();
    for shown in [&got, &listed[0], &updated] {
        let webhook = of_webhook(shown);
        assert_eq!((webhook.signing_secret.as_str(), webhook.twilio_auth_token), ("", None));
    }
    assert_eq!(updated.description, "new");
    assert_eq!(
        stored_secrets(&node, &caller, &created.id),
        (secret, Some("token".to_owned())),
        "they are kept"
    );
}

#[tokio::test]
async fn an_update_changes_what_its_mask_names() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let given = with(|webhook| {
        (webhook.batch_events, webhook.twilio_auth_token) = (true, Some("token".to_owned()));
    });
    let created = caller.sink(Sink { description: "old".to_owned(), ..given }).await.unwrap();
    let id = created.id.clone();
    let update = |sink: Sink, paths: &[&str]| {
        let paths: Vec<_> = paths.iter().map(|path| (*path).to_owned()).collect();
        let update_mask = (!paths.is_empty()).then_some(prost_types::FieldMask { paths });
        let request = UpdateSinkRequest { sink: Some(Sink { id: id.clone(), ..sink }), update_mask };
        let mut client = caller.sinks.clone();
        async move { answer(client.update_sink(request)).await.map(|updated| updated.sink.unwrap()) }
    };
    let secret = of_webhook(&created).signing_secret;

    let described = update(Sink { description: "new".to_owned(), ..Sink::default() }, &[]).await.unwrap();
    assert_eq!((described.description.as_str(), of_webhook(&described).batch_events), ("new", true));
    let moved = update(webhook("https://example.com/b"), &[]).await.unwrap();
    assert_eq!(
        (moved.description.as_str(), of_webhook(&moved).destination.as_str()),
        ("new", "https://example.com/b")
    );
    let single = update(webhook(""), &["webhook.batch_events"]).await.unwrap();
    assert_eq!(
        (of_webhook(&single).batch_events, of_webhook(&single).destination),
        (false, "https://example.com/b".to_owned())
    );
    assert_eq!(stored_secrets(&node, &caller, &created.id), (secret.clone(), Some("token".to_owned())));
    let replaced = update(webhook("https://example.com/c"), &["*"]).await.unwrap();
    assert_eq!((replaced.description.as_str(), of_webhook(&replaced).timeout_ms), ("", 15_000));
    assert_eq!(stored_secrets(&node, &caller, &created.id), (secret.clone(), Some("token".to_owned())));
    update(with(|webhook| webhook.twilio_auth_token = Some(String::new())), &[]).await.unwrap();
    assert_eq!(stored_secrets(&node, &caller, &created.id).1, None, "a token that is empty is removed");
    update(with(|webhook| webhook.twilio_auth_token = Some("token".to_owned())), &[]).await.unwrap();
    update(Sink::default(), &["webhook.twilio_auth_token"]).await.unwrap();
    assert_eq!(
        stored_secrets(&node, &caller, &created.id),
        (secret, None),
        "a token that is named is removed"
    );

    let table = [
        (Sink::default(), "webhook.destinaton", "update_mask"),
        (Sink::default(), "id", "update_mask"),
        (Sink::default(), "webhook.destination", "sink.webhook.destination"),
        (Sink::default(), "webhook.signing_secret", "sink.webhook.signing_secret"),
        (kinesis(STREAM, ""), "kinesis.arn", "sink.kinesis.role_arn"),
    ];
    for (sink, path, place) in table {
        let refused = update(sink, &[path]).await.unwrap_err();
        assert_eq!(field(&refused), place, "{path}: {refused}");
        assert!(place != "update_mask" || refused.message().contains(path), "{refused}");
    }
}

#[tokio::test]
async fn delivery_settings_are_kept_changed_by_mask_and_refused_by_field() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let given = DeliverySettings {
        concurrency_max: 8,
        requests_per_second_max: 50,
        retry_initial: seconds(2),
        retry_max: seconds(60),
        attempts_max: 20,
    };
    let created = caller.sink(Sink { delivery: Some(given), ..with(|_| ()) }).await.unwrap();
    assert_eq!(created.delivery, Some(given));
    let update = |delivery: DeliverySettings, paths: &[&str]| {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let sink = Sink { id: created.id.clone(), delivery: Some(delivery), ..Sink::default() };
        let update_mask = Some(prost_types::FieldMask { paths });
        let mut client = caller.sinks.clone();
        async move { answer(client.update_sink(UpdateSinkRequest { sink: Some(sink), update_mask })).await }
    };
    let slower = DeliverySettings { requests_per_second_max: 5, ..DeliverySettings::default() };
    let one = update(slower, &["delivery.requests_per_second_max"]).await.unwrap().sink.unwrap();
    assert_eq!(one.delivery, Some(DeliverySettings { requests_per_second_max: 5, ..given }));
    let all = update(slower, &["delivery"]).await.unwrap().sink.unwrap();
    assert_eq!(all.delivery, Some(slower), "the node decides about the others again");

    let table = [
        (DeliverySettings { concurrency_max: 1025, ..given }, "sink.delivery.concurrency_max"),
        (
            DeliverySettings { requests_per_second_max: 100_001, ..given },
            "sink.delivery.requests_per_second_max",
        ),
        (DeliverySettings { retry_initial: seconds(-1), ..given }, "sink.delivery.retry_initial"),
        (DeliverySettings { retry_initial: seconds(61), ..given }, "sink.delivery.retry_max"),
        (DeliverySettings { retry_max: seconds(86_401), ..given }, "sink.delivery.retry_max"),
        (DeliverySettings { attempts_max: 1_001, ..given }, "sink.delivery.attempts_max"),
    ];
    for (bad, place) in table {
        assert_eq!(field(&update(bad, &["delivery"]).await.unwrap_err()), place);
    }
}

#[tokio::test]
async fn absent_webhook_settings_have_defaults() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let created = of_webhook(&caller.sink(webhook("https://example.com/hook")).await.unwrap());
    assert_eq!(
        (created.method.as_str(), created.timeout_ms, created.batch_events_max),
        ("POST", 15_000, 100)
    );
    let given =
        caller.sink(with(|webhook| (webhook.method, webhook.timeout_ms) = ("PUT".to_owned(), 30_000))).await;
    let given = of_webhook(&given.unwrap());
    assert_eq!((given.method.as_str(), given.timeout_ms), ("PUT", 30_000));
}

#[tokio::test]
async fn sinks_that_could_not_deliver_are_refused_by_field() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let table = [
        (Sink::default(), "sink.kind"),
        (webhook(""), "sink.webhook.destination"),
        (webhook("nonsense"), "sink.webhook.destination"),
        (webhook("http://example.com/"), "sink.webhook.destination"),
        (webhook("https://127.0.0.1/"), "sink.webhook.destination"),
        (webhook("ftp://example.com/"), "sink.webhook.destination"),
        (with(|webhook| webhook.method = "DELETE".to_owned()), "sink.webhook.method"),
        (with(|webhook| webhook.timeout_ms = 30_001), "sink.webhook.timeout_ms"),
        (with(|webhook| webhook.signing_secret = "short".to_owned()), "sink.webhook.signing_secret"),
        (kinesis("orders", ""), "sink.kinesis.arn"),
        (kinesis(STREAM, "writer"), "sink.kinesis.role_arn"),
        (kinesis(STREAM, ""), "sink.kinesis.role_arn"),
    ];
    for (bad, place) in table {
        let status = caller.sink(bad).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{place}: {status}");
        assert_eq!(field(&status), place);
    }
    let list = answer(caller.sinks.clone().list_sinks(ListSinksRequest::default())).await.unwrap();
    assert_eq!(list.sinks, []);

    let sink = caller.sink(webhook("https://example.com/")).await.unwrap();
    let change = Sink { id: sink.id.clone(), ..webhook("https://10.0.0.1/") };
    let status =
        answer(caller.sinks.clone().update_sink(UpdateSinkRequest { sink: Some(change), update_mask: None }))
            .await
            .unwrap_err();
    assert_eq!(field(&status), "sink.webhook.destination");
}

#[tokio::test]
async fn malformed_ids_and_unknown_ids_have_different_codes() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let nothing = format!("DG{}", "0".repeat(32));
    let table =
        [("", Code::InvalidArgument), ("DG1", Code::InvalidArgument), (nothing.as_str(), Code::NotFound)];
    for (id, code) in table {
        let get =
            answer(caller.sinks.clone().get_sink(GetSinkRequest { id: id.to_owned() })).await.unwrap_err();
        let delete = answer(
            caller.sinks.clone().delete_sink(DeleteSinkRequest { id: id.to_owned(), ..Default::default() }),
        )
        .await;
        assert_eq!((get.code(), delete.unwrap_err().code()), (code, code), "{id}");
    }
}

/// The stored destination of a webhook.
fn stored_destination(node: &Node, caller: &Caller, id: &str) -> String {
    let view = node.catalog.view();
    let sink = &view.account(caller.tenant.account()).unwrap().sinks[&id.parse().unwrap()];
    let SinkConfig::Webhook(webhook) = &sink.config else { panic!("{sink:?}") };
    webhook.destination.clone()
}

#[tokio::test]
async fn credentials_in_a_destination_are_masked_and_survive_an_update() {
    const SECRET: &str = "https://user:secret@example.com/hook?token=secret";
    const SHOWN: &str = "https://user:***@example.com/hook?token=***";
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let mut client = caller.sinks.clone();
    let created = caller.sink(webhook(SECRET)).await.unwrap();
    let id = created.id.clone();
    let got = answer(client.get_sink(GetSinkRequest { id: id.clone() })).await.unwrap().sink.unwrap();
    let listed = answer(client.list_sinks(ListSinksRequest::default())).await.unwrap().sinks;
    for shown in [&created, &got, &listed[0]] {
        assert_eq!(of_webhook(shown).destination, SHOWN);
    }
    for paths in [&[][..], &["*"], &["webhook.destination"]] {
        let paths: Vec<_> = paths.iter().map(|path| (*path).to_owned()).collect();
        let update_mask = Some(prost_types::FieldMask { paths });
        let sink = Some(Sink { etag: String::new(), ..got.clone() });
        answer(client.update_sink(UpdateSinkRequest { sink, update_mask })).await.unwrap();
        assert_eq!(stored_destination(&node, &caller, &id), SECRET);
    }
    let moved = Sink { id: id.clone(), ..webhook("https://user:***@example.com/moved") };
    let moved = UpdateSinkRequest { sink: Some(moved), update_mask: None };
    assert_eq!(field(&answer(client.update_sink(moved)).await.unwrap_err()), "sink.webhook.destination");
    assert_eq!(field(&caller.sink(webhook(SHOWN)).await.unwrap_err()), "sink.webhook.destination");

    let mut given = kinesis(STREAM, "arn:aws:iam::123456789012:role/writer");
    if let Some(Kind::Kinesis(kinesis)) = &mut given.kind {
        kinesis.external_id = Some("secret".to_owned());
    }
    let Some(Kind::Kinesis(shown)) = caller.sink(given).await.unwrap().kind else { panic!("a Kinesis sink") };
    assert_eq!(shown.external_id, None);
}

#[tokio::test]
async fn a_rotated_secret_is_answered_once_and_the_old_one_stays_for_a_while() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let mut client = caller.sinks.clone();
    let created = caller.sink(webhook("https://example.com/hook")).await.unwrap();
    let old = of_webhook(&created).signing_secret;
    let hour = prost_types::Duration { seconds: 3600, nanos: 0 };
    let request = RotateSinkSecretRequest {
        id: created.id.clone(),
        expire_after: Some(hour),
        etag: created.etag.clone(),
        request_id: "rotation-1".to_owned(),
    };
    let rotated = answer(client.rotate_sink_secret(request.clone())).await.unwrap().sink.unwrap();
    let new = of_webhook(&rotated);
    assert!(new.signing_secret.starts_with("whsec_") && new.signing_secret != old);
    assert!(new.previous_secret_expire_time.is_some());
    let repeat = answer(client.rotate_sink_secret(request.clone())).await.unwrap().sink.unwrap();
    assert_eq!(repeat, rotated, "a repeat makes no other secret, though its etag is of the past");
    let stale = RotateSinkSecretRequest { request_id: String::new(), ..request.clone() };
    assert_eq!(told(&answer(client.rotate_sink_secret(stale)).await.unwrap_err()).1, "ETAG_MISMATCH");

    let described = Sink { id: created.id.clone(), description: "new".to_owned(), ..Sink::default() };
    let described = UpdateSinkRequest { sink: Some(described), update_mask: None };
    let kept = of_webhook(&answer(client.update_sink(described)).await.unwrap().sink.unwrap());
    assert_eq!(
        (kept.signing_secret.as_str(), kept.previous_secret_expire_time),
        ("", new.previous_secret_expire_time)
    );
    assert_eq!(stored_secrets(&node, &caller, &created.id).0, new.signing_secret);

    let end = prost_types::Duration::default();
    let end =
        RotateSinkSecretRequest { id: created.id.clone(), expire_after: Some(end), ..Default::default() };
    let ended = of_webhook(&answer(client.rotate_sink_secret(end)).await.unwrap().sink.unwrap());
    assert_eq!(ended.previous_secret_expire_time, None);
    let long = prost_types::Duration { seconds: 31 * 86_400, nanos: 0 };
    let long = RotateSinkSecretRequest { id: created.id, expire_after: Some(long), ..Default::default() };
    assert_eq!(field(&answer(client.rotate_sink_secret(long)).await.unwrap_err()), "expire_after");
}

//! Each way to be refused, and that being refused changes nothing.

use super::*;

/// What a refusal says, without its prose: kind of error, and the name or field that it points at.
fn refusal(error: &ChangeError) -> String {
    match error {
        ChangeError::NotFound { kind, name } => format!("not found: {kind} {name}"),
        ChangeError::Exists { kind, name } => format!("exists: {kind} {name}"),
        ChangeError::Invalid { field, .. } => format!("invalid: {field}"),
        ChangeError::Stale { kind, revision, .. } => format!("stale: {kind} at {revision}"),
        ChangeError::InUse { kind, name, by } => format!("in use: {kind} {name} by {by}"),
        ChangeError::Limit { kind, limit } => format!("limit: {limit} {}", kind.plural()),
        ChangeError::RequestReused { id } => format!("request {id} reused"),
        ChangeError::Unavailable | ChangeError::Unknown => "not a refusal".to_owned(),
    }
}

fn check(cases: Vec<(Change, &str)>) {
    for (change, expected) in cases {
        let mut replica = Replica::furnished();
        let before = replica.state.clone();
        let asked = format!("{change:?}");
        let dry_run = replica.state.dry_run(&Command::new(Timestamp(1), change.clone())).unwrap_err();
        let error = replica.apply(change).expect_err(&asked);
        assert_eq!(refusal(&error), expected, "{asked} answered {error}");
        assert_eq!(dry_run, error, "{asked}");
        assert_eq!(replica.state.view, before.view, "{asked} was refused and still changed something");
        assert_eq!(replica.state.applied_index(), before.applied_index() + 1);
    }
}

fn nobody() -> AccountId {
    AccountId::from_bytes([0xEE; 16])
}

#[test]
fn accounts_and_keys() {
    let named = |name: &str| Change::CreateAccount(account(nobody(), name));
    let without_partitions = NewAccount { partitions: 0, ..account(nobody(), "zero") };
    let long = KeyRecord { description: "x".repeat(1025), ..key_record(1) };
    let missing = format!("not found: account {}", nobody());
    check(vec![
        (named("acme"), "exists: account acme"),
        (Change::CreateAccount(account(ACCOUNT, "other")), "exists: account other"),
        (named(""), "invalid: account.name"),
        (named(" acme"), "invalid: account.name"),
        (named("ac\nme"), "invalid: account.name"),
        (named(&"x".repeat(129)), "invalid: account.name"),
        (Change::CreateAccount(without_partitions), "invalid: account"),
        (Change::CreateKey { account: nobody(), key: key_record(1) }, &missing),
        (Change::CreateKey { account: ACCOUNT, key: long }, "invalid: key.description"),
    ]);
    let mut replica = Replica::furnished();
    replica.apply(Change::CreateKey { account: ACCOUNT, key: key_record(1) }).unwrap();
    let again = replica.apply(Change::CreateKey { account: ACCOUNT, key: key_record(1) });
    assert!(matches!(again, Err(ChangeError::Exists { kind: ObjectKind::ApiKey, .. })), "{again:?}");
}

#[test]
fn event_types() {
    let described =
        NewEventType { description: "x".repeat(1025), ..new_type("third", None, EventTypeStatus::Available) };
    let stale = Change::UpdateEventType {
        account: ACCOUNT,
        event_type: new_type("order.paid", Some("Order"), EventTypeStatus::Deprecated),
        expected_revision: Some(3),
    };
    let used = format!("subscription {SUBSCRIPTION}");
    let pinned = format!("in use: schema Order by {used}, which wants order.paid in version 2");
    let deleted = format!("in use: event type order.paid by {used}");
    check(vec![
        (event_type("order.paid", None), "exists: event type order.paid"),
        (event_type("", None), "invalid: event_type.name"),
        (event_type("order paid", None), "invalid: event_type.name"),
        (event_type("größe", None), "invalid: event_type.name"),
        (event_type(&"x".repeat(256), None), "invalid: event_type.name"),
        (event_type("third", Some("None")), "invalid: event_type.schema_id"),
        (
            Change::CreateEventType { account: ACCOUNT, event_type: described },
            "invalid: event_type.description",
        ),
        (status("absent", None, EventTypeStatus::Available), "not found: event type absent"),
        (stale, "stale: event type at 4"),
        (status("order.paid", None, EventTypeStatus::Available), &pinned),
        (Change::DeleteEventType { account: ACCOUNT, name: "absent".into() }, "not found: event type absent"),
        (Change::DeleteEventType { account: ACCOUNT, name: "order.paid".into() }, &deleted),
    ]);
    let mut replica = Replica::furnished();
    replica.apply(event_type(&"x".repeat(255), None)).unwrap();
    replica.apply(event_type("aZ0._-/:", None)).unwrap();
    replica.apply(Change::DeleteEventType { account: ACCOUNT, name: "order.sent".into() }).unwrap();
}

#[test]
fn schemas() {
    let version = |id: &str| Change::CreateSchemaVersion {
        account: ACCOUNT,
        id: id.to_owned(),
        document: "{}".to_owned(),
    };
    let update = |id: &str, description: String, expected_revision| Change::UpdateSchema {
        account: ACCOUNT,
        id: id.to_owned(),
        description,
        expected_revision,
    };
    check(vec![
        (schema("Order"), "exists: schema Order"),
        (schema(""), "invalid: schema.id"),
        (schema("a/b"), "invalid: schema.id"),
        (schema(&"x".repeat(129)), "invalid: schema.id"),
        (version("Absent"), "not found: schema Absent"),
        (update("Absent", String::new(), None), "not found: schema Absent"),
        (update("Order", String::new(), Some(2)), "stale: schema at 3"),
        (update("Order", "x".repeat(1025), None), "invalid: schema.description"),
        (Change::DeleteSchema { account: ACCOUNT, id: "Absent".into() }, "not found: schema Absent"),
        (
            Change::DeleteSchema { account: ACCOUNT, id: "Order".into() },
            "in use: schema Order by event type order.paid",
        ),
    ]);
    let mut replica = Replica::furnished();
    replica.apply(update("Order", "orders".to_owned(), Some(3))).unwrap();
    assert_eq!(replica.account().schemas["Order"].latest_version(), 2, "an update keeps every version");
}

#[test]
fn sinks() {
    let other = SinkId::from_bytes([0xD; 16]);
    let exists = format!("exists: sink {SINK}");
    let missing = format!("not found: sink {other}");
    let in_use = format!("in use: sink {SINK} by subscription {SUBSCRIPTION}");
    let too_long = described(&"x".repeat(1025), kinesis("arn:aws:kinesis:::stream/a"));
    let elsewhere = |destination: String| match webhook("whsec_AAAA", None) {
        SinkConfig::Webhook(config) => {
            sink(other, SinkConfig::Webhook(WebhookConfig { destination, ..config }))
        }
        SinkConfig::Kinesis(_) => unreachable!("it was made a webhook"),
    };
    check(vec![
        (sink(SINK, webhook("whsec_AAAA", None)), &exists),
        (elsewhere(String::new()), "invalid: sink.webhook.destination"),
        (elsewhere("x".repeat(2049)), "invalid: sink.webhook.destination"),
        (sink(other, webhook("", None)), "invalid: sink.webhook.signing_secret"),
        (sink(other, webhook("whsec_AAAA", Some(""))), "invalid: sink.webhook.twilio_auth_token"),
        (sink(other, kinesis("")), "invalid: sink.kinesis.arn"),
        (Change::CreateSink { account: ACCOUNT, id: other, sink: too_long }, "invalid: sink.description"),
        (update_sink(kinesis("arn:aws:kinesis:::stream/a"), None), "invalid: sink.kind"),
        (update_sink(webhook("", None), Some(5)), "stale: sink at 6"),
        (update_sink(webhook("", None), None), "invalid: sink.webhook.signing_secret"),
        (Change::DeleteSink { account: ACCOUNT, id: other }, &missing),
        (Change::DeleteSink { account: ACCOUNT, id: SINK }, &in_use),
    ]);
}

#[test]
fn subscriptions() {
    let other = SubscriptionId::from_bytes([0xD; 16]);
    let missing = format!("not found: subscription {other}");
    let exists = format!("exists: subscription {SUBSCRIPTION}");
    let nowhere = NewSubscription { sink: SinkId::from_bytes([0xD; 16]), ..spec(&[("order.sent", None)]) };
    let described = NewSubscription { description: "x".repeat(1025), ..spec(&[("order.sent", None)]) };
    let many = spec(&vec![("order.sent", None); 101]);
    let wrong_third = spec(&[("order.sent", None), ("order.paid", Some(1)), ("order.lost", None)]);
    check(vec![
        (subscribe(0xC, spec(&[("order.sent", None)])), &exists),
        (subscribe(0xD, nowhere.clone()), "invalid: subscription.sink_id"),
        (subscribe(0xD, described), "invalid: subscription.description"),
        (subscribe(0xD, spec(&[])), "invalid: subscription.selectors"),
        (subscribe(0xD, many), "invalid: subscription.selectors"),
        (subscribe(0xD, wrong_third), "invalid: subscription.selectors[2].type"),
        (
            subscribe(0xD, spec(&[("order.sent", None), ("order.sent", None)])),
            "invalid: subscription.selectors[1].type",
        ),
        (
            subscribe(0xD, spec(&[("order.paid", Some(3))])),
            "invalid: subscription.selectors[0].schema_version",
        ),
        (
            subscribe(0xD, spec(&[("order.paid", Some(0))])),
            "invalid: subscription.selectors[0].schema_version",
        ),
        (
            subscribe(0xD, spec(&[("order.sent", Some(1))])),
            "invalid: subscription.selectors[0].schema_version",
        ),
        (update_subscription(nowhere, None), "invalid: subscription.sink_id"),
        (update_subscription(spec(&[("order.sent", None)]), Some(6)), "stale: subscription at 7"),
        (Change::DeleteSubscription { account: ACCOUNT, id: other }, &missing),
        (Change::PauseSubscription { account: ACCOUNT, id: other }, &missing),
        (Change::ResumeSubscription { account: ACCOUNT, id: other }, &missing),
    ]);
}

#[test]
fn types_that_take_no_new_subscriptions() {
    for taken in [EventTypeStatus::Restricted, EventTypeStatus::Discontinued] {
        let mut replica = Replica::furnished();
        replica.apply(status("order.sent", None, taken)).unwrap();
        let error = replica.apply(subscribe(0xD, spec(&[("order.sent", None)]))).unwrap_err();
        assert_eq!(refusal(&error), "invalid: subscription.selectors[0].type", "{taken:?}");
    }
    let mut replica = Replica::furnished();
    replica.apply(status("order.sent", None, EventTypeStatus::Deprecated)).unwrap();
    replica.apply(subscribe(0xD, spec(&[("order.sent", None)]))).unwrap();
}

#[test]
fn a_refusal_says_what_to_do() {
    let mut replica = Replica::furnished();
    let error = replica.apply(subscribe(0xD, spec(&[("order.paid", Some(9))]))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "subscription.selectors[0].schema_version: schema Order has no version 9: choose 1 to 2, or leave it out for \
         the latest"
    );
}

#[test]
fn limits_hold_for_every_kind_of_object() {
    let one = AccountLimits {
        sinks_max: 1,
        subscriptions_max: 1,
        event_types_max: 2,
        schemas_max: 1,
        ..AccountLimits::default()
    };
    let mut replica = Replica::furnished();
    replica.apply(Change::SetLimits(one)).unwrap();
    for (change, expected) in [
        (sink(SinkId::from_bytes([0xD; 16]), kinesis("arn")), "limit: 1 sinks"),
        (subscribe(0xD, spec(&[("order.sent", None)])), "limit: 1 subscriptions"),
        (event_type("third", None), "limit: 2 event types"),
        (schema("Second"), "limit: 1 schemas"),
    ] {
        assert_eq!(refusal(&replica.apply(change).unwrap_err()), expected);
    }
    let version = || Change::CreateSchemaVersion {
        account: ACCOUNT,
        id: "Order".to_owned(),
        document: "{}".to_owned(),
    };
    for _ in 2..100 {
        replica.apply(version()).unwrap();
    }
    assert_eq!(refusal(&replica.apply(version()).unwrap_err()), "limit: 100 versions of a schema");
    for number in 0..100 {
        replica.apply(Change::CreateKey { account: ACCOUNT, key: key_record(number) }).unwrap();
    }
    let key = key_record(100);
    assert_eq!(
        refusal(&replica.apply(Change::CreateKey { account: ACCOUNT, key }).unwrap_err()),
        "limit: 100 keys"
    );
}

#[test]
fn the_documents_of_an_account_s_schemas_have_a_limit_in_bytes() {
    let mut replica = Replica::furnished();
    // Two versions of Order are there: of 17 bytes and of 2.
    let limits = AccountLimits { schema_documents_bytes_max: 21, ..AccountLimits::default() };
    replica.apply(Change::SetLimits(limits)).unwrap();
    let version = |document: &str| {
        let (id, document) = ("Order".to_owned(), document.to_owned());
        Change::CreateSchemaVersion { account: ACCOUNT, id, document }
    };
    let over = "limit: 21 bytes of schema documents";
    assert_eq!(refusal(&replica.apply(version("[1]")).unwrap_err()), over);
    replica.apply(version("{}")).unwrap();
    assert_eq!(refusal(&replica.apply(schema("Second")).unwrap_err()), over);
    let restored = State::decode(&replica.state.encode()).unwrap();
    assert_eq!(restored.view.cluster.limits, limits);
}

use fanfare_proto::v1::{create_subscription_request::From, selector::Version, *};
use fanfare_sinks::{Failure, Outcome};

use super::*;

const HOOK: &str = "https://example.com/hook";

fn wanted(sink: &str, types: &[&str]) -> Subscription {
    let selectors = types.iter().map(|name| Selector { r#type: (*name).to_owned(), version: None });
    Subscription { sink_id: sink.to_owned(), selectors: selectors.collect(), ..Subscription::default() }
}

async fn create(
    caller: &Caller,
    subscription: Subscription,
    from: Option<From>,
) -> Result<Subscription, Status> {
    let request = CreateSubscriptionRequest { subscription: Some(subscription), from, ..Default::default() };
    let created = answer(caller.subscriptions.clone().create_subscription(request)).await;
    created.map(|created| created.subscription.unwrap())
}

async fn stats(caller: &Caller, id: &str) -> GetSubscriptionStatsResponse {
    let request = GetSubscriptionStatsRequest { id: id.to_owned() };
    let stats = answer(caller.subscriptions.clone().get_subscription_stats(request)).await.unwrap();
    let settled = stats.delivered + stats.dead_lettered + stats.expired + stats.cancelled;
    assert_eq!(stats.matched, settled + stats.pending, "every event is accounted for");
    stats
}

/// Stats once they are as expected.
async fn until(caller: &Caller, id: &str, expected: impl Fn(&GetSubscriptionStatsResponse) -> bool) {
    let wait = async {
        while !expected(&stats(caller, id).await) {
            tokio::task::yield_now().await;
        }
    };
    let waited = timeout(DEADLINE, wait).await;
    if waited.is_err() {
        panic!("{:?}", stats(caller, id).await);
    }
}

#[tokio::test]
async fn a_subscription_delivers_pauses_resumes_and_ends() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    caller.event_type("paid").await;
    let sink = caller.sink(webhook(HOOK)).await.unwrap();
    let mut client = caller.subscriptions.clone();
    node.publish(&caller, "paid", "before").await;
    let created = create(&caller, wanted(&sink.id, &["paid"]), None).await.unwrap();
    let id = created.id.clone();
    node.publish(&caller, "paid", "a").await;
    until(&caller, &id, |stats| (stats.matched, stats.delivered) == (1, 1)).await;
    assert_eq!(stats(&caller, &id).await.state(), DeliveryState::Active);
    assert!(!created.reconciling);

    let paused =
        answer(client.pause_subscription(PauseSubscriptionRequest { id: id.clone(), ..Default::default() }))
            .await
            .unwrap();
    assert!(paused.subscription.unwrap().paused);
    node.publish(&caller, "paid", "b").await;
    until(&caller, &id, |stats| stats.pending == 1 && stats.state() == DeliveryState::Paused).await;
    let resumed = answer(
        client.resume_subscription(ResumeSubscriptionRequest { id: id.clone(), ..Default::default() }),
    )
    .await
    .unwrap();
    assert!(!resumed.subscription.unwrap().paused);
    until(&caller, &id, |stats| (stats.matched, stats.delivered) == (2, 2)).await;

    let used = answer(
        caller.sinks.clone().delete_sink(DeleteSinkRequest { id: sink.id.clone(), ..Default::default() }),
    )
    .await
    .unwrap_err();
    assert_eq!(told(&used), (Code::FailedPrecondition, "SINK_IN_USE".to_owned()));
    let request = DeleteEventTypeRequest { name: "paid".to_owned(), ..Default::default() };
    let used = answer(caller.event_types.clone().delete_event_type(request)).await.unwrap_err();
    assert_eq!(told(&used).1, "EVENT_TYPE_IN_USE");

    answer(client.delete_subscription(DeleteSubscriptionRequest { id: id.clone(), ..Default::default() }))
        .await
        .unwrap();
    let gone = answer(client.get_subscription(GetSubscriptionRequest { id: id.clone() })).await.unwrap_err();
    assert_eq!(told(&gone), (Code::NotFound, "SUBSCRIPTION_UNKNOWN".to_owned()));
    let gone = answer(client.get_subscription_stats(GetSubscriptionStatsRequest { id })).await.unwrap_err();
    assert_eq!(told(&gone).1, "SUBSCRIPTION_UNKNOWN");
    answer(caller.sinks.clone().delete_sink(DeleteSinkRequest { id: sink.id, ..Default::default() }))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_subscription_starts_at_the_requested_position() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    caller.event_type("paid").await;
    for id in ["a", "b"] {
        node.publish(&caller, "paid", id).await;
    }
    let past = prost_types::Timestamp { seconds: 1, nanos: 0 };
    let future = prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 };
    let table = [
        (None, 0),
        (Some(From::Earliest(true)), 2),
        (Some(From::Earliest(false)), 0),
        (Some(From::Time(past)), 2),
        (Some(From::Time(future)), 0),
    ];
    for (nth, (from, expected)) in table.into_iter().enumerate() {
        let destination = format!("{HOOK}/{nth}");
        let sink = caller.sink(webhook(&destination)).await.unwrap();
        let created = create(&caller, wanted(&sink.id, &["paid"]), from).await.unwrap();
        node.publish(&caller, "paid", &format!("after-{nth}")).await;
        let expected = expected + 1 + if expected > 0 { u64::try_from(nth).unwrap() } else { 0 };
        until(&caller, &created.id, |stats| (stats.matched, stats.delivered) == (expected, expected)).await;
    }
}

#[tokio::test]
async fn bad_subscriptions_are_refused_by_field() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    caller.event_type("paid").await;
    let sink = caller.sink(webhook(HOOK)).await.unwrap().id;
    let nothing = format!("DG{}", "0".repeat(32));
    let pinned = Selector { r#type: "paid".to_owned(), version: Some(Version::SchemaVersion(7)) };
    let table = [
        (wanted("", &["paid"]), "subscription.sink_id"),
        (wanted("DG1", &["paid"]), "subscription.sink_id"),
        (wanted(&nothing, &["paid"]), "subscription.sink_id"),
        (wanted(&sink, &[]), "subscription.selectors"),
        (wanted(&sink, &["none"]), "subscription.selectors[0].type"),
        (wanted(&sink, &["paid", "paid"]), "subscription.selectors[1].type"),
        (
            Subscription { selectors: vec![pinned], ..wanted(&sink, &[]) },
            "subscription.selectors[0].schema_version",
        ),
    ];
    for (bad, place) in table {
        let status = create(&caller, bad, None).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{place}: {status}");
        assert_eq!(field(&status), place);
    }
    let nanos = prost_types::Timestamp { seconds: 0, nanos: -1 };
    let status = create(&caller, wanted(&sink, &["paid"]), Some(From::Time(nanos))).await.unwrap_err();
    assert_eq!(field(&status), "time");
}

#[tokio::test]
async fn an_update_replaces_types_and_sink() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    for name in ["paid", "sent"] {
        caller.event_type(name).await;
    }
    let (first, second) = (format!("{HOOK}/1"), format!("{HOOK}/2"));
    let (from, to) =
        (caller.sink(webhook(&first)).await.unwrap().id, caller.sink(webhook(&second)).await.unwrap().id);
    let created = create(&caller, wanted(&from, &["paid"]), None).await.unwrap();
    let change = Subscription { id: created.id.clone(), etag: created.etag, ..wanted(&to, &["sent"]) };
    let update = |change| UpdateSubscriptionRequest { subscription: Some(change), update_mask: None };
    let mut client = caller.subscriptions.clone();
    let updated =
        answer(client.update_subscription(update(change.clone()))).await.unwrap().subscription.unwrap();
    assert_eq!((updated.sink_id.as_str(), updated.selectors[0].r#type.as_str()), (to.as_str(), "sent"));
    let stale = answer(client.update_subscription(update(change))).await.unwrap_err();
    assert_eq!(told(&stale).1, "ETAG_MISMATCH");
    node.publish(&caller, "paid", "a").await;
    node.publish(&caller, "sent", "b").await;
    until(&caller, &created.id, |stats| (stats.matched, stats.delivered) == (1, 1)).await;
    assert_eq!(node.network.sink(&first).delivered().len(), 0);
    assert_eq!(node.network.sink(&second).delivered().len(), 1);
}

#[tokio::test]
async fn a_change_that_is_made_is_answered_by_the_subscription_though_a_partition_does_not_confirm_it() {
    let options = CatalogOptions { partitions: 1, ..CatalogOptions::default() };
    let node = Node::on(damaged(&[PartitionId::events(0)]).await, options).await;
    let caller = node.caller("acme").await;
    caller.event_type("paid").await;
    let sink = caller.sink(webhook(HOOK)).await.unwrap();
    let created = create(&caller, wanted(&sink.id, &["paid"]), None).await.unwrap();
    assert!(created.reconciling && !created.id.is_empty());

    let mut client = caller.subscriptions.clone();
    let id = created.id.clone();
    let got = answer(client.get_subscription(GetSubscriptionRequest { id: id.clone() })).await.unwrap();
    assert_eq!(got.subscription.unwrap(), created);
    let list = answer(client.list_subscriptions(ListSubscriptionsRequest::default())).await.unwrap();
    assert_eq!(list.subscriptions, [created], "it is made once");
    let paused =
        answer(client.pause_subscription(PauseSubscriptionRequest { id: id.clone(), ..Default::default() }))
            .await
            .unwrap();
    let paused = paused.subscription.unwrap();
    assert!(paused.paused && paused.reconciling);
    let deleted = answer(client.delete_subscription(DeleteSubscriptionRequest { id, ..Default::default() }))
        .await
        .unwrap();
    assert!(deleted.reconciling);
}

#[tokio::test]
async fn a_version_that_is_left_out_is_the_latest_and_stays_it() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let document = || r#"{"type": "object"}"#.to_owned();
    let schema = Some(Schema { id: "Order".to_owned(), ..Schema::default() });
    let mut schemas = caller.schemas.clone();
    answer(schemas.create_schema(CreateSchemaRequest { schema, document: document(), ..Default::default() }))
        .await
        .unwrap();
    let add = || CreateSchemaVersionRequest {
        schema_id: "Order".to_owned(),
        document: document(),
        ..Default::default()
    };
    answer(schemas.create_schema_version(add())).await.unwrap();
    let paid = EventType { name: "paid".to_owned(), schema_id: "Order".to_owned(), ..EventType::default() };
    let request = CreateEventTypeRequest { event_type: Some(paid), ..Default::default() };
    answer(caller.event_types.clone().create_event_type(request)).await.unwrap();
    caller.event_type("free").await;

    let sink = caller.sink(webhook(HOOK)).await.unwrap();
    let created = create(&caller, wanted(&sink.id, &["paid", "free"]), None).await.unwrap();
    let versions = |subscription: &Subscription| {
        subscription.selectors.iter().map(|selector| selector.version).collect::<Vec<_>>()
    };
    let pinned = [Some(Version::SchemaVersion(2)), Some(Version::AsPublished(()))];
    assert_eq!(versions(&created), pinned);
    answer(schemas.create_schema_version(add())).await.unwrap();
    let mut client = caller.subscriptions.clone();
    let change = Subscription { id: created.id, description: "d".to_owned(), ..Subscription::default() };
    let request = UpdateSubscriptionRequest { subscription: Some(change), update_mask: None };
    let described = answer(client.update_subscription(request)).await.unwrap().subscription.unwrap();
    assert_eq!(versions(&described), pinned, "a later version changes nothing");

    let as_published = Selector { r#type: "paid".to_owned(), version: Some(Version::AsPublished(())) };
    let wanted = Subscription { selectors: vec![as_published.clone()], ..wanted(&sink.id, &[]) };
    assert_eq!(create(&caller, wanted, None).await.unwrap().selectors, [as_published]);
}

#[tokio::test]
async fn numbers_that_would_miss_a_partition_are_refused() {
    let node = Node::with(CatalogOptions { partitions: 2, ..CatalogOptions::default() }).await;
    let here = node.caller("here").await;
    let elsewhere = node.caller("elsewhere").await;
    let mut answers = Vec::new();
    for caller in [&here, &elsewhere] {
        caller.event_type("paid").await;
        let sink = caller.sink(webhook(HOOK)).await.unwrap().id.parse().unwrap();
        let types =
            vec![fanfare_model::SubscribedType { event_type: "paid".to_owned(), schema_version: None }];
        let new = fanfare_catalog::NewSubscription { description: String::new(), sink, types };
        let created = node.catalog.create_subscription(caller.tenant, new, fanfare_model::StartAt::Next);
        let id = created.await.unwrap().id.to_string();
        let request = GetSubscriptionStatsRequest { id };
        answers.push(answer(caller.subscriptions.clone().get_subscription_stats(request)).await);
    }
    assert!(answers[0].is_ok(), "{answers:?}");
    let refused = answers[1].as_ref().unwrap_err();
    assert_eq!(told(refused), (Code::Unavailable, "NO_LEADER".to_owned()));
    assert!(refused.message().contains("events/1"), "{refused}");
}

#[tokio::test]
async fn dead_letters_are_listed_with_their_event() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    caller.event_type("paid").await;
    let sink = caller.sink(webhook(HOOK)).await.unwrap();
    let created = create(&caller, wanted(&sink.id, &["paid"]), None).await.unwrap();
    let other = create(&caller, wanted(&sink.id, &["paid"]), None).await.unwrap();
    let why = Failure { class: "http_status", status: 422, message: "no".to_owned() };
    node.network.sink(HOOK).fail_next(1_000, Outcome::Rejected { why });
    node.publish(&caller, "paid", "bad").await;
    until(&caller, &created.id, |stats| stats.dead_lettered == 1).await;
    until(&caller, &other.id, |stats| stats.dead_lettered == 1).await;

    let mut client = caller.dead_letters.clone();
    let list = |subscription_id: &str, page_size, page_token| ListDeadLettersRequest {
        subscription_id: subscription_id.to_owned(),
        page_size,
        page_token,
    };
    let own =
        answer(client.list_dead_letters(list(&created.id, 10, String::new()))).await.unwrap().dead_letters;
    assert_eq!(own.len(), 1);
    assert_eq!((own[0].subscription_id.as_str(), own[0].reason.as_str()), (created.id.as_str(), "rejected"));
    let stored = own[0].event.clone().unwrap();
    assert_eq!((stored.partition, stored.offset, stored.event.unwrap().id.as_str()), (0, 0, "bad"));
    let request = GetDeadLetterRequest { id: own[0].id.clone() };
    assert_eq!(answer(client.get_dead_letter(request)).await.unwrap().dead_letter.as_ref(), Some(&own[0]));

    let first = answer(client.list_dead_letters(list("", 1, String::new()))).await.unwrap();
    let second = answer(client.list_dead_letters(list("", 1, first.next_page_token.clone()))).await.unwrap();
    assert_eq!((first.dead_letters.len(), second.dead_letters.len()), (1, 1));
    assert_ne!(first.dead_letters[0].id, second.dead_letters[0].id);
    let elsewhere =
        answer(client.list_dead_letters(list(&created.id, 1, first.next_page_token))).await.unwrap_err();
    assert_eq!(told(&elsewhere).1, "PAGE_TOKEN_INVALID", "a token is good for its own arguments");
    for (id, code) in [("", Code::InvalidArgument), ("0123", Code::NotFound)] {
        let status =
            answer(client.get_dead_letter(GetDeadLetterRequest { id: id.to_owned() })).await.unwrap_err();
        assert_eq!(status.code(), code, "{id}");
    }
}

#[tokio::test]
async fn requests_that_need_a_damaged_partition_name_it() {
    let (events, letters) = (PartitionId::events(0), PartitionId::dead_letters(0));
    let options = CatalogOptions { partitions: 1, ..CatalogOptions::default() };
    let node = Node::on(damaged(&[events, letters]).await, options).await;
    let caller = node.caller("acme").await;
    caller.event_type("paid").await;
    let sink = caller.sink(webhook(HOOK)).await.unwrap();
    let mut client = caller.subscriptions.clone();

    let created = create(&caller, wanted(&sink.id, &["paid"]), None).await.unwrap();
    assert!(created.reconciling, "it is made, and not in effect");
    let id = created.id.clone();
    let stats = client.get_subscription_stats(GetSubscriptionStatsRequest { id });
    let stats = answer(stats).await.unwrap_err();
    let request = ListDeadLettersRequest::default();
    let listed = answer(caller.dead_letters.clone().list_dead_letters(request)).await.unwrap_err();
    for (refused, partition) in [(stats, events), (listed, letters)] {
        assert_eq!(told(&refused), (Code::DataLoss, "PARTITION_DAMAGED".to_owned()), "{refused}");
        let place = refused.get_details_error_info().unwrap().metadata;
        assert_eq!(place["partition"], partition.to_string());
        assert_eq!((place["first_offset"].as_str(), place["end_offset"].as_str()), ("0", "1"));
        assert!(!refused.message().contains("/data"), "tenants are told of files: {refused}");
    }
}

#[tokio::test]
async fn a_request_with_an_id_is_carried_out_once() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    caller.event_type("paid").await;
    let sink = caller.sink(webhook(HOOK)).await.unwrap();
    let mut client = caller.subscriptions.clone();
    let request = |description: &str| CreateSubscriptionRequest {
        subscription: Some(Subscription {
            description: description.to_owned(),
            ..wanted(&sink.id, &["paid"])
        }),
        request_id: "deploy-1".to_owned(),
        ..Default::default()
    };
    let first = answer(client.create_subscription(request("a"))).await.unwrap().subscription.unwrap();
    let repeat = answer(client.create_subscription(request("a"))).await.unwrap().subscription.unwrap();
    assert_eq!(first, repeat);
    let other = answer(client.create_subscription(request("b"))).await.unwrap_err();
    assert_eq!(told(&other), (Code::AlreadyExists, "REQUEST_ID_REUSED".to_owned()));
    assert_eq!(field(&other), "request_id");
    let listed = answer(client.list_subscriptions(ListSubscriptionsRequest::default())).await.unwrap();
    assert_eq!(listed.subscriptions, std::slice::from_ref(&first));

    let pause = |etag: &str, request_id: &str| PauseSubscriptionRequest {
        id: first.id.clone(),
        etag: etag.to_owned(),
        request_id: request_id.to_owned(),
    };
    let paused =
        answer(client.pause_subscription(pause(&first.etag, "p"))).await.unwrap().subscription.unwrap();
    let resume = ResumeSubscriptionRequest { id: first.id.clone(), ..Default::default() };
    answer(client.resume_subscription(resume)).await.unwrap();
    let repeat =
        answer(client.pause_subscription(pause(&first.etag, "p"))).await.unwrap().subscription.unwrap();
    assert!(paused.paused && !repeat.paused, "a late repeat does not pause again");
    let stale = answer(client.pause_subscription(pause(&first.etag, ""))).await.unwrap_err();
    assert_eq!(told(&stale).1, "ETAG_MISMATCH");
    let delete = |etag: &str| DeleteSubscriptionRequest { id: first.id.clone(), etag: etag.to_owned() };
    assert_eq!(
        told(&answer(client.delete_subscription(delete(&first.etag))).await.unwrap_err()).1,
        "ETAG_MISMATCH"
    );
    answer(client.delete_subscription(delete(&repeat.etag))).await.unwrap();
}

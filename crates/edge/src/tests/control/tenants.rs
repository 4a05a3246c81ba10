use fanfare_proto::v1::*;

use super::*;

#[tokio::test]
async fn control_calls_without_a_live_key_are_unauthenticated() {
    let node = Node::new().await;
    let mut client = EventTypeServiceClient::new(node.channel.clone());
    let status = answer(client.list_event_types(ListEventTypesRequest::default())).await.unwrap_err();
    assert_eq!(told(&status), (Code::Unauthenticated, "KEY_MISSING".to_owned()));
    let bearer = Bearer("nonsense".to_owned());
    let mut client = DeadLetterServiceClient::with_interceptor(node.channel.clone(), bearer);
    let status = answer(client.list_dead_letters(ListDeadLettersRequest::default())).await.unwrap_err();
    assert_eq!(told(&status), (Code::Unauthenticated, "KEY_INVALID".to_owned()));
}

#[tokio::test]
async fn a_method_that_no_table_lists_is_denied() {
    let node = Node::new().await;
    let key = node.caller("acme").await.key;
    for path in ["/fanfare.v1.SinkService/Unknown", "/fanfare.v1.UnknownService/Get"] {
        for (key, code) in [(Some(&key), Code::Unimplemented), (None, Code::Unauthenticated)] {
            let mut client = tonic::client::Grpc::new(node.channel.clone());
            client.ready().await.unwrap();
            let mut request = Request::new(GetSinkRequest::default());
            if let Some(key) = key {
                request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
            }
            let codec = tonic_prost::ProstCodec::<GetSinkRequest, GetSinkResponse>::default();
            let status = answer(client.unary(request, path.parse().unwrap(), codec)).await.unwrap_err();
            assert_eq!(status.code(), code, "{path}: {status}");
        }
    }
}

#[tokio::test]
async fn an_account_neither_sees_nor_changes_objects_of_another() {
    let node = Node::new().await;
    let (acme, other) = (node.caller("acme").await, node.caller("other").await);
    acme.event_type("paid").await;
    let sink = acme.sink(webhook("https://example.com/")).await.unwrap();
    let selectors = vec![Selector { r#type: "paid".to_owned(), version: None }];
    let subscription = Subscription { sink_id: sink.id.clone(), selectors, ..Subscription::default() };
    let request = CreateSubscriptionRequest {
        subscription: Some(subscription.clone()),
        from: None,
        ..Default::default()
    };
    let own =
        answer(acme.subscriptions.clone().create_subscription(request)).await.unwrap().subscription.unwrap();

    let mut types = other.event_types.clone();
    let mut sinks = other.sinks.clone();
    let mut subscriptions = other.subscriptions.clone();
    let name = "paid".to_owned();
    assert_eq!(
        answer(types.list_event_types(ListEventTypesRequest::default())).await.unwrap().event_types,
        []
    );
    assert_eq!(answer(sinks.list_sinks(ListSinksRequest::default())).await.unwrap().sinks, []);
    let list = answer(subscriptions.list_subscriptions(ListSubscriptionsRequest::default())).await.unwrap();
    assert_eq!(list.subscriptions, []);
    let id = own.id.clone();
    let refusals = [
        answer(types.get_event_type(GetEventTypeRequest { name: name.clone() })).await.unwrap_err(),
        answer(types.delete_event_type(DeleteEventTypeRequest { name, ..Default::default() }))
            .await
            .unwrap_err(),
        answer(sinks.get_sink(GetSinkRequest { id: sink.id.clone() })).await.unwrap_err(),
        answer(sinks.delete_sink(DeleteSinkRequest { id: sink.id.clone(), ..Default::default() }))
            .await
            .unwrap_err(),
        answer(sinks.update_sink(UpdateSinkRequest { sink: Some(sink.clone()), update_mask: None }))
            .await
            .unwrap_err(),
        answer(subscriptions.get_subscription(GetSubscriptionRequest { id: id.clone() })).await.unwrap_err(),
        answer(
            subscriptions
                .pause_subscription(PauseSubscriptionRequest { id: id.clone(), ..Default::default() }),
        )
        .await
        .unwrap_err(),
        answer(
            subscriptions
                .delete_subscription(DeleteSubscriptionRequest { id: id.clone(), ..Default::default() }),
        )
        .await
        .unwrap_err(),
        answer(subscriptions.get_subscription_stats(GetSubscriptionStatsRequest { id: id.clone() }))
            .await
            .unwrap_err(),
    ];
    for refusal in refusals {
        assert_eq!(refusal.code(), Code::NotFound, "{refusal}");
    }
    let request =
        CreateSubscriptionRequest { subscription: Some(subscription), from: None, ..Default::default() };
    let stolen = answer(subscriptions.create_subscription(request)).await.unwrap_err();
    assert_eq!(field(&stolen), "subscription.sink_id", "another account's sink is no sink");
    let request = GetSubscriptionRequest { id };
    let kept =
        answer(acme.subscriptions.clone().get_subscription(request)).await.unwrap().subscription.unwrap();
    assert_eq!(kept, own);
}

use fanfare_proto::v1::{EventTypeStatus, *};

use super::*;

fn named(name: &str) -> EventType {
    EventType { name: name.to_owned(), ..EventType::default() }
}

async fn create(caller: &Caller, event_type: EventType) -> Result<EventType, Status> {
    let request = CreateEventTypeRequest { event_type: Some(event_type), ..Default::default() };
    answer(caller.event_types.clone().create_event_type(request))
        .await
        .map(|created| created.event_type.unwrap())
}

async fn update(caller: &Caller, event_type: EventType) -> Result<EventType, Status> {
    let request = UpdateEventTypeRequest { event_type: Some(event_type), update_mask: None };
    answer(caller.event_types.clone().update_event_type(request))
        .await
        .map(|updated| updated.event_type.unwrap())
}

#[tokio::test]
async fn an_event_type_is_created_read_changed_and_deleted() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let mut client = caller.event_types.clone();
    let created =
        create(&caller, EventType { description: "paid orders".to_owned(), ..named("order.paid") }).await;
    let created = created.unwrap();
    assert_eq!((created.status(), created.description.as_str()), (EventTypeStatus::Available, "paid orders"));
    let get = || GetEventTypeRequest { name: "order.paid".to_owned() };
    assert_eq!(answer(client.get_event_type(get())).await.unwrap().event_type, Some(created.clone()));

    let change = EventType { status: EventTypeStatus::Deprecated.into(), ..created.clone() };
    let updated = update(&caller, change.clone()).await.unwrap();
    assert_eq!((updated.status(), &updated.create_time), (EventTypeStatus::Deprecated, &created.create_time));
    assert_ne!((&updated.etag, &updated.update_time), (&created.etag, &created.update_time));
    let stale = update(&caller, change.clone()).await.unwrap_err();
    assert_eq!(told(&stale), (Code::Aborted, "ETAG_MISMATCH".to_owned()));
    assert_eq!(stale.get_details_error_info().unwrap().metadata["current"], updated.etag);
    let nonsense =
        update(&caller, EventType { etag: "nonsense".to_owned(), ..change.clone() }).await.unwrap_err();
    assert_eq!(told(&nonsense).1, "ETAG_MISMATCH");
    update(&caller, EventType { etag: String::new(), ..change }).await.unwrap();

    answer(
        client.delete_event_type(DeleteEventTypeRequest {
            name: "order.paid".to_owned(),
            ..Default::default()
        }),
    )
    .await
    .unwrap();
    let gone = answer(client.get_event_type(get())).await.unwrap_err();
    assert_eq!(told(&gone), (Code::NotFound, "EVENT_TYPE_UNKNOWN".to_owned()));
    assert_eq!(gone.get_details_resource_info().unwrap().resource_name, "order.paid");
}

#[tokio::test]
async fn updates_of_different_fields_do_not_undo_each_other() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    create(&caller, EventType { description: "old".to_owned(), ..named("paid") }).await.unwrap();
    let deprecated = EventTypeStatus::Deprecated.into();
    let (described, retired) = tokio::join!(
        update(&caller, EventType { description: "new".to_owned(), ..named("paid") }),
        update(&caller, EventType { status: deprecated, ..named("paid") }),
    );
    let (described, retired) = (described.unwrap(), retired.unwrap());
    let last = if described.status() == EventTypeStatus::Deprecated { described } else { retired };
    assert_eq!((last.description.as_str(), last.status), ("new", deprecated));
}

#[tokio::test]
async fn bad_event_types_are_refused_by_field() {
    let node =
        Node::with(CatalogOptions { partitions: 1, event_types_max: 1, ..CatalogOptions::default() }).await;
    let caller = node.caller("acme").await;
    let table = [
        (named(""), "event_type.name"),
        (named("a b"), "event_type.name"),
        (named(&"x".repeat(256)), "event_type.name"),
        (EventType { status: 9, ..named("a") }, "event_type.status"),
        (EventType { schema_id: "None".to_owned(), ..named("a") }, "event_type.schema_id"),
        (EventType { description: "x".repeat(2000), ..named("a") }, "event_type.description"),
    ];
    for (bad, place) in table {
        let status = create(&caller, bad).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{place}: {status}");
        assert_eq!(field(&status), place);
    }
    let none = answer(caller.event_types.clone().create_event_type(CreateEventTypeRequest::default())).await;
    assert_eq!(field(&none.unwrap_err()), "event_type");
    create(&caller, named("a")).await.unwrap();
    let exists = create(&caller, named("a")).await.unwrap_err();
    assert_eq!(told(&exists), (Code::AlreadyExists, "EVENT_TYPE_EXISTS".to_owned()));
    let limit = create(&caller, named("b")).await.unwrap_err();
    assert_eq!(limit.code(), Code::ResourceExhausted);
    assert!(limit.get_details_quota_failure().is_some() && limit.get_details_retry_info().is_none());
    let mut client = caller.event_types.clone();
    let mut masked = async |path: &str| {
        let update_mask = Some(prost_types::FieldMask { paths: vec![path.to_owned()] });
        let request = UpdateEventTypeRequest { event_type: Some(named("a")), update_mask };
        answer(client.update_event_type(request)).await.unwrap_err()
    };
    for path in ["status", "*"] {
        assert_eq!(field(&masked(path).await), "event_type.status", "a status cannot be cleared");
    }
    assert_eq!(field(&masked("name").await), "update_mask");
    let unknown = update(&caller, EventType { status: 1, ..named("z") }).await.unwrap_err();
    assert_eq!(told(&unknown).1, "EVENT_TYPE_UNKNOWN");
}

#[tokio::test]
async fn a_page_token_is_valid_for_its_own_list_only() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    for name in ["e", "b", "d", "a", "c"] {
        caller.event_type(name).await;
    }
    let list = |page_size, page_token: String| {
        let mut client = caller.event_types.clone();
        async move { answer(client.list_event_types(ListEventTypesRequest { page_size, page_token })).await }
    };
    let (mut names, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = list(2, token).await.unwrap();
        names.extend(page.event_types.into_iter().map(|found| found.name));
        (token, pages) = (page.next_page_token, pages + 1);
        if token.is_empty() {
            break;
        }
    }
    assert_eq!((names.join(""), pages), ("abcde".to_owned(), 3));
    let first = list(2, String::new()).await.unwrap().next_page_token;
    let other =
        answer(caller.schemas.clone().list_schemas(ListSchemasRequest { page_size: 2, page_token: first }))
            .await;
    assert_eq!(told(&other.unwrap_err()), (Code::InvalidArgument, "PAGE_TOKEN_INVALID".to_owned()));
    let nonsense = list(2, "nonsense".to_owned()).await.unwrap_err();
    assert_eq!(told(&nonsense).1, "PAGE_TOKEN_INVALID");
}

use fanfare_proto::v1::*;

use super::*;

async fn create(caller: &Caller, id: &str, document: &str) -> Result<Schema, Status> {
    let schema = Some(Schema { id: id.to_owned(), ..Schema::default() });
    let request = CreateSchemaRequest { schema, document: document.to_owned(), ..Default::default() };
    answer(caller.schemas.clone().create_schema(request)).await.map(|created| created.schema.unwrap())
}

#[tokio::test]
async fn versions_are_numbered_immutable_and_have_a_dataschema_uri() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let mut client = caller.schemas.clone();
    assert_eq!(create(&caller, "Order", "{ }").await.unwrap().latest_version, 1);
    let request = CreateSchemaVersionRequest {
        schema_id: "Order".to_owned(),
        document: "true".to_owned(),
        ..Default::default()
    };
    let second = answer(client.create_schema_version(request)).await.unwrap().version.unwrap();
    assert_eq!((second.version, second.dataschema.as_str()), (2, "urn:fanfare:schema:Order:2"));
    for (version, document) in [(1, "{ }"), (2, "true"), (0, "true")] {
        let request = GetSchemaVersionRequest { schema_id: "Order".to_owned(), version };
        let found = answer(client.get_schema_version(request)).await.unwrap().version.unwrap();
        assert_eq!(found.document, document, "byte for byte");
    }
    let request = GetSchemaVersionRequest { schema_id: "Order".to_owned(), version: 3 };
    let missing = answer(client.get_schema_version(request)).await.unwrap_err();
    assert_eq!(told(&missing), (Code::NotFound, "SCHEMA_UNKNOWN".to_owned()));

    let request =
        |page_token| ListSchemaVersionsRequest { schema_id: "Order".to_owned(), page_size: 1, page_token };
    let first = answer(client.list_schema_versions(request(String::new()))).await.unwrap();
    let second = answer(client.list_schema_versions(request(first.next_page_token.clone()))).await.unwrap();
    assert_eq!((first.versions[0].version, first.versions[0].document.as_str()), (1, ""));
    assert_eq!((second.versions[0].version, second.next_page_token.as_str()), (2, ""));

    let schema =
        answer(client.get_schema(GetSchemaRequest { id: "Order".to_owned() })).await.unwrap().schema.unwrap();
    let request = |schema| UpdateSchemaRequest { schema: Some(schema), update_mask: None };
    let change = Schema { description: "orders".to_owned(), ..schema };
    let updated = answer(client.update_schema(request(change.clone()))).await.unwrap().schema.unwrap();
    assert_eq!((updated.description.as_str(), updated.latest_version), ("orders", 2));
    let stale = answer(client.update_schema(request(change))).await.unwrap_err();
    assert_eq!(told(&stale).1, "ETAG_MISMATCH");
}

#[tokio::test]
async fn unusable_documents_are_refused_and_not_stored() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let long = format!("{{\"description\": \"{}\"}}", "x".repeat(3000));
    let huge = " ".repeat((1 << 20) + 1);
    let table = [
        ("", "REQUEST_INVALID", "document"),
        ("{", "SCHEMA_INVALID", "document"),
        (r#"{"type": "strnig"}"#, "SCHEMA_INVALID", "document#/type"),
        (
            r#"{"properties": {"a": {"pattern": "(?<!x)y"}}}"#,
            "SCHEMA_INVALID",
            "document#/properties/a/pattern",
        ),
        (r#"{"$ref": "https://example.com/s.json"}"#, "SCHEMA_REMOTE_REFERENCE", "document"),
        ("17", "SCHEMA_INVALID", "document"),
        (r##"{"$ref": "#/$defs/none"}"##, "SCHEMA_INVALID", "document"),
        (&huge, "SCHEMA_TOO_LARGE", "document"),
        (&long, "REQUEST_INVALID", "document"),
    ];
    for (document, reason, place) in table {
        let status = create(&caller, "Order", document).await.unwrap_err();
        assert_eq!(told(&status), (Code::InvalidArgument, reason.to_owned()), "{place}: {status}");
        assert_eq!(field(&status), place);
    }
    let remote = create(&caller, "Order", r#"{"$ref": "https://example.com/s.json"}"#).await.unwrap_err();
    assert!(remote.message().contains("https://example.com/s.json"), "it is named");
    assert_eq!(field(&create(&caller, "a b", "{}").await.unwrap_err()), "schema.id");
    let list = answer(caller.schemas.clone().list_schemas(ListSchemasRequest::default())).await.unwrap();
    assert_eq!(list.schemas, []);
}

#[tokio::test]
async fn a_schema_in_use_is_not_deleted() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    create(&caller, "Order", "{}").await.unwrap();
    let event_type =
        EventType { name: "order".to_owned(), schema_id: "Order".to_owned(), ..EventType::default() };
    let request = CreateEventTypeRequest { event_type: Some(event_type), ..Default::default() };
    answer(caller.event_types.clone().create_event_type(request)).await.unwrap();
    let delete = || DeleteSchemaRequest { id: "Order".to_owned(), ..Default::default() };
    let mut client = caller.schemas.clone();
    let used = answer(client.delete_schema(delete())).await.unwrap_err();
    assert_eq!(told(&used), (Code::FailedPrecondition, "SCHEMA_IN_USE".to_owned()));
    assert!(used.message().contains("order"), "{used}");
    let request = DeleteEventTypeRequest { name: "order".to_owned(), ..Default::default() };
    answer(caller.event_types.clone().delete_event_type(request)).await.unwrap();
    answer(client.delete_schema(delete())).await.unwrap();
}

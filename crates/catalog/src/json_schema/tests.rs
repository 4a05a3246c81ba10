use super::*;

const ORDER: &str = r##"{
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["id", "total"],
    "properties": {
        "id": {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"},
        "total": {"$ref": "#/$defs/money"},
        "at": {"type": "string", "format": "date-time"}
    },
    "$defs": {"money": {"type": "number", "minimum": 0}}
}"##;

fn pointers(document: &str, data: &str) -> Vec<String> {
    match compile(document).unwrap().validate(Data::Text(data)) {
        Ok(()) => Vec::new(),
        Err(DataProblem::Violations(violations)) => {
            violations.into_iter().map(|found| found.pointer).collect()
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn valid_data_passes_and_violations_name_their_pointer() {
    let table: &[(&str, &[&str])] = &[
        (r#"{"id": "AB1", "total": 1.5}"#, &[]),
        (r#"{"id": "AB1", "total": 1, "at": "2026-01-01T00:00:00Z"}"#, &[]),
        (r#"{"id": "ab", "total": 1}"#, &["/id"]),
        (r#"{"id": "AB1", "total": -1}"#, &["/total"]),
        (r#"{"id": "AB1", "total": 1, "at": "yesterday"}"#, &["/at"]),
        (r#"{"id": 1}"#, &["", "/id"]),
        ("[]", &[""]),
    ];
    for (data, expected) in table {
        let mut found = pointers(ORDER, data);
        found.sort();
        assert_eq!(&found, expected, "{data}");
    }
}

#[test]
fn data_that_is_not_json_or_too_deep_is_told_apart() {
    let schema = compile("{}").unwrap();
    assert_eq!(schema.validate(Data::None), Err(DataProblem::Missing));
    assert!(matches!(schema.validate(Data::Proto(b"x")), Err(DataProblem::NotJson { .. })));
    assert!(matches!(schema.validate(Data::Binary(b"\xff")), Err(DataProblem::NotJson { .. })));
    assert!(matches!(schema.validate(Data::Text("{\"a\":1} x")), Err(DataProblem::NotJson { .. })));
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    assert_eq!(schema.validate(Data::Text(&nested(DATA_DEPTH_MAX))), Ok(()));
    assert_eq!(schema.validate(Data::Text(&nested(DATA_DEPTH_MAX + 1))), Err(DataProblem::TooDeep));
    assert!(schema.validate(Data::Text(&nested(100_000))).is_err());
}

#[test]
fn references_that_leave_the_document_are_refused_by_name() {
    for uri in ["https://example.com/order.json", "file:///etc/passwd", "http://127.0.0.1:1/x"] {
        for document in
            [format!(r#"{{"$ref": "{uri}"}}"#), format!(r#"{{"properties": {{"a": {{"$ref": "{uri}"}}}}}}"#)]
        {
            let problem = compile(&document).unwrap_err();
            assert_eq!(problem, SchemaProblem::RemoteReference { uri: uri.to_owned() }, "{document}");
        }
    }
    let problem = compile(r#"{"$schema": "https://example.com/my-dialect"}"#).unwrap_err();
    assert!(matches!(problem, SchemaProblem::RemoteReference { .. }), "{problem:?}");
    let problem = compile(r##"{"$ref": "#/$defs/missing"}"##).unwrap_err();
    assert!(matches!(problem, SchemaProblem::DanglingReference { .. }), "{problem:?}");
}

#[test]
fn a_document_may_refer_to_its_own_parts_by_id() {
    let document = r#"{"$id": "https://acme.example/order", "$ref": "money",
        "$defs": {"money": {"$id": "https://acme.example/money", "type": "number"}}}"#;
    assert_eq!(pointers(document, "1"), Vec::<String>::new());
    assert_eq!(pointers(document, "true"), [""]);
}

#[test]
fn bad_documents_are_refused_with_the_place() {
    assert!(matches!(compile("{"), Err(SchemaProblem::NotJson { .. })));
    assert!(matches!(compile(&" ".repeat(DOCUMENT_BYTES_MAX + 1)), Err(SchemaProblem::TooLarge { .. })));
    for (document, place) in [
        (r#"{"type": "strnig"}"#, "/type"),
        (r#"{"properties": {"a": {"minimum": "1"}}}"#, "/properties/a/minimum"),
        (r#"{"properties": {"a": {"pattern": "(?=x)"}}}"#, "/properties/a/pattern"),
        (r#"{"pattern": "("}"#, "/pattern"),
        ("3", ""),
    ] {
        let problem = compile(document).unwrap_err();
        let SchemaProblem::Invalid { pointer, message } = &problem else { panic!("{document}: {problem:?}") };
        assert_eq!(pointer, place, "{document}");
        assert!(!message.is_empty());
    }
}

#[test]
fn hostile_schemas_end() {
    let huge = compile(r#"{"pattern": "((a{1,200}){1,200}){1,200}"}"#);
    assert!(matches!(huge, Err(SchemaProblem::Invalid { .. })), "{huge:?}");
    let evil = compile(r#"{"pattern": "^(a+)+$"}"#).unwrap();
    let data = format!("\"{}b\"", "a".repeat(100_000));
    assert!(matches!(evil.validate(Data::Text(&data)), Err(DataProblem::Violations(_))));
    let itself = compile(r##"{"$ref": "#"}"##);
    assert!(matches!(itself, Err(SchemaProblem::TooCostly { .. })), "{itself:?}");
}

#[test]
fn messages_are_one_bounded_line() {
    let data = format!("\"{}\\n\"", "x".repeat(10_000));
    let Err(DataProblem::Violations(found)) =
        compile(r#"{"type": "number"}"#).unwrap().validate(Data::Text(&data))
    else {
        panic!("a string is no number");
    };
    assert!(found[0].message.chars().count() <= MESSAGE_CHARS_MAX + 1);
    assert!(!found[0].message.contains('\n'));
}

/// Violations of `data` from a thread with a deadline, so that a validator that never ends fails the test.
fn violations_within_deadline(document: String, data: String) -> Vec<Violation> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || sender.send(compile(&document).unwrap().validate(Data::Text(&data))));
    match receiver.recv_timeout(std::time::Duration::from_secs(10)) {
        Ok(Err(DataProblem::Violations(violations))) => violations,
        other => panic!("{other:?}"),
    }
}

#[test]
fn many_violations_of_large_data_are_told_by_the_first() {
    let items = format!("[{}1]", "1,".repeat(130_000));
    let found = violations_within_deadline(r#"{"items": {"type": "string"}}"#.to_owned(), items.clone());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].pointer, "/0");
    let names: Vec<_> = (0..8_000).map(|i| format!("\"missing{i}\"")).collect();
    let object = format!(r#"{{"a": {items}}}"#);
    let found = violations_within_deadline(format!(r#"{{"required": [{}]}}"#, names.join(",")), object);
    assert_eq!(found.len(), 1);
    let branches = vec![r#"{"type": "string"}"#; 2_000].join(",");
    assert_eq!(violations_within_deadline(format!(r#"{{"allOf": [{branches}]}}"#), items.clone()).len(), 1);
    let branch = r#"{"anyOf": [{"items": {"type": "string"}}, {"items": {"type": "null"}}]}"#;
    let nested = format!(r#"{{"anyOf": [{}]}}"#, vec![branch; 200].join(","));
    let refused = compile(&nested).unwrap().validate(Data::Text(&items));
    assert!(matches!(refused, Err(DataProblem::TooCostly { .. })), "{refused:?}");
    assert_eq!(violations_within_deadline(nested, format!("[{}1]", "1,".repeat(4_000))).len(), 1);
}

#[test]
fn small_data_is_told_its_first_eight_violations() {
    let data = format!("[{}1]", "1,".repeat(1_000));
    let found = violations_within_deadline(r#"{"items": {"type": "string"}}"#.to_owned(), data);
    assert_eq!(found.len(), VIOLATIONS_MAX);
}

#[test]
fn a_dataschema_names_exactly_one_version() {
    assert_eq!(dataschema_uri("Acme.OrderPaid", 3), "urn:fanfare:schema:Acme.OrderPaid:3");
    assert_eq!(parse_dataschema("urn:fanfare:schema:Acme.OrderPaid:3"), Some(("Acme.OrderPaid", 3)));
    for bad in [
        "",
        "urn:fanfare:schema:",
        "urn:fanfare:schema:A",
        "urn:fanfare:schema::1",
        "urn:fanfare:schema:A:0",
        "urn:fanfare:schema:A:01",
        "urn:fanfare:schema:A:+1",
        "urn:fanfare:schema:A:99999999999",
        "https://a/b:1",
    ] {
        assert_eq!(parse_dataschema(bad), None, "{bad}");
    }
}

#[test]
fn the_cache_compiles_once_and_stays_within_its_bytes() {
    let cache = SchemaCache::new(2 * ORDER.len());
    let documents: Vec<Arc<str>> = (0..3).map(|_| Arc::from(ORDER)).collect();
    let first = cache.compiled(&documents[0]).unwrap();
    assert!(Arc::ptr_eq(&first, &cache.compiled(&documents[0]).unwrap()));
    let second = cache.compiled(&documents[1]).unwrap();
    assert!(!Arc::ptr_eq(&first, &second), "another document of the same text is another schema");
    assert!(cache.cached(&documents[0]).is_some());
    cache.compiled(&documents[2]).unwrap();
    assert!(cache.cached(&documents[1]).is_none(), "the one used longest ago goes");
    assert!(cache.cached(&documents[0]).is_some());
    assert_eq!(cache.entries.read().document_bytes, 2 * ORDER.len());
}

#[test]
fn schemas_and_data_that_would_take_for_ever_are_refused_at_once() {
    let doubling: String = (0..28)
        .map(|level| {
            let next = format!(r##"{{"$ref":"#/$defs/d{}"}}"##, level + 1);
            format!(r#""d{level}":{{"anyOf":[{next},{next}]}},"#)
        })
        .collect();
    let doubling = format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{doubling}"d28":{{"type":"string"}}}}}}"##);
    let mut unevaluated = "{}".to_owned();
    for _ in 0..40 {
        unevaluated = format!(r#"{{"anyOf":[{unevaluated}],"unevaluatedProperties":false}}"#);
    }
    for document in [doubling, unevaluated] {
        let problem = compile(&document).unwrap_err();
        assert!(matches!(problem, SchemaProblem::TooCostly { .. }), "{problem}");
    }
    let tree = compile(r##"{"anyOf":[{"items":{"$ref":"#"}},{"items":{"$ref":"#"}}]}"##).unwrap();
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    assert_eq!(tree.validate(Data::Text(&nested(10))), Ok(()));
    let refused = tree.validate(Data::Text(&nested(60)));
    assert!(matches!(refused, Err(DataProblem::TooCostly { .. })), "{refused:?}");
    let values: Vec<String> = (0..15_000).map(|number| format!(r#"{{"a":{number}}}"#)).collect();
    let listed = compile(&format!(r#"{{"items":{{"enum":[{}]}}}}"#, values.join(","))).unwrap();
    let refused = listed.validate(Data::Text(&format!("[{}]", vec![r#"{"a":-1}"#; 50_000].join(","))));
    assert!(matches!(refused, Err(DataProblem::TooCostly { .. })), "{refused:?}");
}

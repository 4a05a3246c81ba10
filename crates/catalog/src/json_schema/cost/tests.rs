use serde_json::{Map, json};

use super::{pattern::pattern_states, *};

fn size(data: &Value) -> DataSize {
    let text = data.to_string();
    super::super::tree::Tree::parse(&text, DATA_DEPTH_MAX).unwrap().size()
}

fn steps(schema: &Value, data: &Value) -> u64 {
    CostBound::of(schema).unwrap().of_data(&size(data))
}

/// A chain of definitions, each with two references to the next.
fn doubling(keyword: &str, levels: usize) -> Value {
    let mut defs = Map::new();
    for level in 0..levels {
        let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
        defs.insert(format!("d{level}"), json!({keyword: [next, next]}));
    }
    defs.insert(format!("d{levels}"), json!({"type": "string"}));
    json!({"$ref": "#/$defs/d0", "$defs": defs})
}

#[test]
fn references_that_multiply_are_refused_whatever_they_multiply() {
    for keyword in ["allOf", "anyOf", "oneOf"] {
        let refused = CostBound::of(&doubling(keyword, 28)).unwrap_err();
        assert!(matches!(refused, Excess::Flat { steps } if steps > 1 << 28), "{keyword}: {refused:?}");
        assert!(CostBound::of(&doubling(keyword, 8)).is_ok());
    }
    let mut dynamic = doubling("anyOf", 24).to_string();
    for level in 0..=24 {
        dynamic = dynamic.replace(
            &format!("\"d{level}\":{{"),
            &format!("\"d{level}\":{{\"$dynamicAnchor\":\"a{level}\","),
        );
        dynamic = dynamic
            .replace(&format!("\"$ref\":\"#/$defs/d{level}\""), &format!("\"$dynamicRef\":\"#a{level}\""));
    }
    let dynamic: Value = serde_json::from_str(&dynamic).unwrap();
    assert!(matches!(CostBound::of(&dynamic), Err(Excess::Flat { .. })));
    let members = json!({"properties": {"a": doubling("anyOf", 1)["$defs"]["d0"]}, "$defs": doubling("oneOf", 26)["$defs"]});
    assert!(matches!(CostBound::of(&members), Err(Excess::Nested { .. })), "below the root");
}

#[test]
fn recursion_costs_what_the_depth_of_data_makes_of_it() {
    let tree = json!({"type": "object", "properties": {"children": {"items": {"$ref": "#"}}}});
    let mut data = json!({});
    for _ in 0..20 {
        data = json!({"children": [data]});
    }
    let chain = steps(&tree, &data);
    assert!(chain < 1_000, "{chain}");
    // Each level asks both alternatives for each member.
    let both = json!({"anyOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}]});
    let nested = |levels: usize| {
        let text = "[".repeat(levels) + &"]".repeat(levels);
        steps(&both, &serde_json::from_str(&text).unwrap())
    };
    assert!(nested(30) > nested(10) << 19, "{} after {}", nested(30), nested(10));
    assert!(nested(60) > 1 << 59);
}

#[test]
fn lists_and_patterns_count_by_their_size() {
    let values: Vec<Value> = (0..15_000).map(|number| json!({"a": number})).collect();
    let listed = json!({"items": {"enum": values}});
    let data: Vec<Value> = (0..50_000).map(|number| json!({"a": -number})).collect();
    assert!(steps(&listed, &json!(data)) > 15_000 * 50_000);
    let names: Vec<String> = (0..8_000).map(|number| format!("m{number}")).collect();
    let required = steps(&json!({"required": names}), &json!({"a": vec![1; 100_000]}));
    assert!((8_000..200_000).contains(&required), "{required}: the list counts for one value");
    let pattern = |pattern: &str| steps(&json!({"pattern": pattern}), &json!("x".repeat(16_000)));
    assert!(pattern("^[a-z]+$") < 200_000);
    assert!(pattern("((a{1,99}){1,99}){1,9}") > 100_000_000);
    let states =
        ["", "abc", "^[A-Z]{2}[0-9]+$", "(ab){3,9}c", r"\d{4}-\d{2}", "a{2}{3}", "{", "(((", "))", r"\"];
    let states: Vec<u64> = states.into_iter().map(pattern_states).collect();
    assert_eq!(states, [0, 3, 15, 19, 97, 6, 0, 0, 2, 1]);
}

#[test]
fn looking_for_unevaluated_members_counts_for_each_member() {
    let alternatives: Vec<Value> =
        (0..50).map(|number| json!({"required": [format!("m{number}")]})).collect();
    let schema = json!({"anyOf": alternatives, "unevaluatedProperties": false});
    let wide: Map<String, Value> = (0..2_000).map(|number| (format!("x{number}"), json!(1))).collect();
    assert!(steps(&schema, &Value::Object(wide)) > 50 * 2_000);
    let mut nested = json!({"type": "object"});
    for _ in 0..24 {
        nested = json!({"anyOf": [nested], "unevaluatedProperties": false});
    }
    assert!(matches!(CostBound::of(&nested), Err(Excess::Compiled { .. })));
}

#[test]
fn a_value_is_not_validated_by_the_same_subschema_for_ever() {
    for schema in [
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"not": {"$ref": "#/$defs/b"}}, "b": {"if": {"$ref": "#/$defs/a"}}}}),
    ] {
        assert!(matches!(CostBound::of(&schema), Err(Excess::Endless { .. })), "{schema}");
    }
}

#[test]
fn references_are_found_by_pointer_identifier_and_anchor() {
    let cost = |reference: &str| {
        let schema = json!({
            "$id": "https://acme.example/schemas/order",
            "$ref": reference,
            "$defs": {
                "with/slash and space": {"enum": vec![0; 5_000]},
                "named": {"$anchor": "here", "enum": vec![0; 5_000]},
                "inner": {"$id": "money", "enum": vec![0; 5_000]},
            },
        });
        let bound = CostBound::of(&schema).unwrap();
        (bound.of_data(&size(&json!(1))), bound.unresolved)
    };
    for reference in [
        "#/$defs/with~1slash%20and%20space",
        "#here",
        "money",
        "https://acme.example/schemas/money",
        "https://acme.example/schemas/order#/$defs/named",
    ] {
        let (steps, unresolved) = cost(reference);
        assert!(steps > 5_000 && unresolved.is_none(), "{reference}: {steps} {unresolved:?}");
    }
    assert_eq!(cost("elsewhere").1.as_deref(), Some("elsewhere"));
    assert_eq!(cost("#/$defs/missing").1.as_deref(), Some("#/$defs/missing"));
}

#[test]
fn ordinary_schemas_are_far_from_the_limits() {
    let order = json!({
        "type": "object",
        "required": ["id", "items"],
        "properties": {
            "id": {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"},
            "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
            "payment": {"oneOf": [{"$ref": "#/$defs/card"}, {"$ref": "#/$defs/transfer"}]},
        },
        "additionalProperties": false,
        "$defs": {
            "item": {"type": "object", "properties": {"sku": {"type": "string"}, "count": {"minimum": 1}}},
            "card": {"required": ["number"], "properties": {"kind": {"const": "card"}}},
            "transfer": {"required": ["iban"], "properties": {"kind": {"const": "transfer"}}},
        },
    });
    let items: Vec<Value> =
        (0..1_000).map(|number| json!({"sku": format!("S-{number}"), "count": 1})).collect();
    let taken =
        steps(&order, &json!({"id": "AB1", "items": items, "payment": {"kind": "card", "number": "1"}}));
    assert!(taken < 50_000, "{taken}");
    let many: Map<String, Value> = (0..200)
        .map(|number| {
            let next = json!({"$ref": format!("#/$defs/t{}", (number + 1) % 200)});
            (
                format!("t{number}"),
                json!({"type": "object", "properties": {"next": next, "name": {"type": "string"}}}),
            )
        })
        .collect();
    assert!(CostBound::of(&json!({"$ref": "#/$defs/t0", "$defs": many})).is_ok());
    let expression = json!({"$defs": {"node": {"oneOf": [
        {"properties": {"and": {"items": {"$ref": "#/$defs/node"}}}},
        {"properties": {"not": {"$ref": "#/$defs/node"}}},
        {"properties": {"name": {"type": "string"}}},
    ]}}, "$ref": "#/$defs/node"});
    assert!(CostBound::of(&expression).is_ok(), "alternatives of a language may nest");
}

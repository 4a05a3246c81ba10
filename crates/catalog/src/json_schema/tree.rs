//! JSON data for validation: parsed once, texts borrowed from the event.
//!
//! A tree holds the same values as `serde_json::Value` for the same text: the last of members with the same name,
//! ordered by name.

use std::{borrow::Cow, cell::Cell, fmt};

use jsonschema::{
    JsonType,
    json::{Array, Json, Node, NodeIdentity, Object, cmp},
};
use jsonschema_value::LazyInstance;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

use super::cost::DataSize;

/// Values that one error repeats at most.
const EXCERPT_VALUES_MAX: usize = 64;
/// Bytes of one text that an error repeats at most.
const EXCERPT_TEXT_BYTES_MAX: usize = 256;

#[derive(Debug, PartialEq)]
pub(super) enum Tree<'a> {
    Null,
    Boolean(bool),
    Number(Number),
    Text(Cow<'a, str>),
    Array(Vec<Tree<'a>>),
    /// Ordered by name.
    Object(Vec<(Cow<'a, str>, Tree<'a>)>),
}

/// The reason for which a text is not parsed.
#[derive(Debug)]
pub(super) enum ParseError {
    NotJson(serde_json::Error),
    TooDeep,
}

impl<'a> Tree<'a> {
    /// Parses a text of at most `levels` levels of arrays and objects.
    pub(super) fn parse(json: &'a str, levels: usize) -> Result<Self, ParseError> {
        let too_deep = Cell::new(false);
        let mut deserializer = serde_json::Deserializer::from_str(json);
        Seed { levels, too_deep: &too_deep }
            .deserialize(&mut deserializer)
            .and_then(|tree| deserializer.end().map(|()| tree))
            .map_err(|error| if too_deep.get() { ParseError::TooDeep } else { ParseError::NotJson(error) })
    }

    /// Values and texts by level.
    pub(super) fn size(&self) -> DataSize {
        let mut size = DataSize::default();
        self.add_to(&mut size, 0, 0);
        size
    }

    fn add_to(&self, size: &mut DataSize, level: usize, name_bytes: usize) {
        match self {
            Self::Null | Self::Boolean(_) | Self::Number(_) => size.add(level, name_bytes, 0),
            Self::Text(text) => size.add(level, name_bytes + text.len(), 0),
            Self::Array(items) => {
                size.add(level, name_bytes, items.len());
                items.iter().for_each(|item| item.add_to(size, level + 1, 0));
            }
            Self::Object(members) => {
                size.add(level, name_bytes, members.len());
                members.iter().for_each(|(name, member)| member.add_to(size, level + 1, name.len()));
            }
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Boolean(boolean) => Value::Bool(*boolean),
            Self::Number(number) => Value::Number(number.clone()),
            Self::Text(text) => Value::String(text.as_ref().to_owned()),
            Self::Array(items) => Value::Array(items.iter().map(Self::value).collect()),
            Self::Object(members) => Value::Object(
                members.iter().map(|(name, member)| (name.as_ref().to_owned(), member.value())).collect(),
            ),
        }
    }

    /// The value as an error repeats it: whole if it is small, else its beginning.
    fn excerpt(&self, room: &mut usize) -> Value {
        *room = room.saturating_sub(1);
        match self {
            Self::Null => Value::Null,
            Self::Boolean(boolean) => Value::Bool(*boolean),
            Self::Number(number) => Value::Number(number.clone()),
            Self::Text(text) => Value::String(text_excerpt(text)),
            Self::Array(items) => {
                let mut excerpt = Vec::new();
                for item in items {
                    if *room == 0 {
                        break;
                    }
                    excerpt.push(item.excerpt(room));
                }
                Value::Array(excerpt)
            }
            Self::Object(members) => {
                let mut excerpt = serde_json::Map::new();
                for (name, member) in members {
                    if *room == 0 {
                        break;
                    }
                    excerpt.insert(text_excerpt(name), member.excerpt(room));
                }
                Value::Object(excerpt)
            }
        }
    }
}

fn text_excerpt(text: &str) -> String {
    text[..text.floor_char_boundary(EXCERPT_TEXT_BYTES_MAX)].to_owned()
}

#[derive(Clone, Copy)]
struct Seed<'flag> {
    /// Levels that may still be opened.
    levels: usize,
    too_deep: &'flag Cell<bool>,
}

impl Seed<'_> {
    fn below<E: serde::de::Error>(self) -> Result<Self, E> {
        match self.levels.checked_sub(1) {
            Some(levels) => Ok(Self { levels, ..self }),
            None => {
                self.too_deep.set(true);
                Err(E::custom("nested too deeply"))
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Tree<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Tree<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Tree<'de>, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, boolean: bool) -> Result<Tree<'de>, E> {
        Ok(Tree::Boolean(boolean))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Tree<'de>, E> {
        Ok(Tree::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Tree<'de>, E> {
        Ok(Tree::Number(number.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Tree<'de>, E> {
        Number::from_f64(number).map(Tree::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Tree<'de>, E> {
        Ok(Tree::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree<'de>, E> {
        Ok(Tree::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Tree<'de>, A::Error> {
        let below = self.below()?;
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element_seed(below)? {
            items.push(item);
        }
        Ok(Tree::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree<'de>, A::Error> {
        let below = self.below()?;
        let mut members: Vec<(Cow<'de, str>, Tree<'de>)> = Vec::new();
        while let Some(name) = map.next_key_seed(Name)? {
            members.push((name, map.next_value_seed(below)?));
        }
        members.sort_by(|(one, _), (other, _)| one.cmp(other));
        members.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
        Ok(Tree::Object(members))
    }
}

/// A member's name.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

/// The representation that validators are compiled for.
pub(super) struct Borrowed;

impl Json for Borrowed {
    type Node<'a> = &'a Tree<'a>;
    type PreparedKey = Box<str>;
    type StringBuffer = ();

    // The validator's estimate for one lookup: the same as for the map of a `serde_json::Value`.
    const KEYS_PER_LOOKUP: usize = 2;
    const ACYCLIC: bool = true;

    fn prepare_key(key: &str) -> Box<str> {
        key.into()
    }

    fn with_string_node<T>((): &mut (), string: &str, f: impl for<'x> FnOnce(&'x Tree<'x>) -> T) -> T {
        f(&Tree::Text(Cow::Borrowed(string)))
    }
}

impl<'a> Node<'a, Borrowed> for &'a Tree<'a> {
    type Object = &'a [(Cow<'a, str>, Tree<'a>)];
    type Array = &'a [Tree<'a>];
    type Number = &'a Number;

    fn as_object(&self) -> Option<Self::Object> {
        match self {
            Tree::Object(members) => Some(members),
            _ => None,
        }
    }

    fn as_array(&self) -> Option<&'a [Tree<'a>]> {
        match self {
            Tree::Array(items) => Some(items),
            _ => None,
        }
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        match self {
            Tree::Text(text) => Some(Cow::Borrowed(text)),
            _ => None,
        }
    }

    fn as_number(&self) -> Option<&'a Number> {
        match self {
            Tree::Number(number) => Some(number),
            _ => None,
        }
    }

    fn as_boolean(&self) -> Option<bool> {
        match self {
            Tree::Boolean(boolean) => Some(*boolean),
            _ => None,
        }
    }

    fn is_null(&self) -> bool {
        matches!(self, Tree::Null)
    }

    fn json_type(&self) -> JsonType {
        match self {
            Tree::Null => JsonType::Null,
            Tree::Boolean(_) => JsonType::Boolean,
            Tree::Number(_) => JsonType::Number,
            Tree::Text(_) => JsonType::String,
            Tree::Array(_) => JsonType::Array,
            Tree::Object(_) => JsonType::Object,
        }
    }

    fn string_length_within(&self, min: u64, max: u64) -> Option<bool> {
        let Tree::Text(text) = self else { return None };
        // A character takes one to four bytes, so the length in bytes decides most comparisons without counting.
        let (fewest, most) = (text.len().div_ceil(4) as u64, text.len() as u64);
        if most < min || fewest > max {
            return Some(false);
        }
        if min <= fewest && most <= max {
            return Some(true);
        }
        Some((min..=max).contains(&(text.chars().count() as u64)))
    }

    fn equals_value(&self, expected: &Value) -> bool {
        match self {
            Tree::Text(text) => expected.as_str() == Some(text),
            Tree::Array(_) | Tree::Object(_) if !expected.is_array() && !expected.is_object() => false,
            Tree::Null | Tree::Boolean(_) | Tree::Number(_) | Tree::Array(_) | Tree::Object(_) => {
                cmp::equal(&self.value(), expected)
            }
        }
    }

    fn to_value(&self) -> Cow<'a, Value> {
        Cow::Owned(self.value())
    }

    fn lazy_value(&self) -> LazyInstance<'a> {
        LazyInstance::Ready(Cow::Owned(self.excerpt(&mut { EXCERPT_VALUES_MAX })))
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(std::ptr::from_ref::<Tree<'_>>(self).addr()))
    }
}

impl<'a> Object<'a, Borrowed> for &'a [(Cow<'a, str>, Tree<'a>)] {
    type Node = &'a Tree<'a>;
    type MemberName = &'a str;
    type MembersIter = Members<'a>;

    fn len(&self) -> usize {
        <[_]>::len(self)
    }

    fn get(&self, key: &Box<str>) -> Option<&'a Tree<'a>> {
        let at = self.binary_search_by(|(name, _)| name.as_ref().cmp(key)).ok()?;
        Some(&self[at].1)
    }

    fn members(&self) -> Members<'a> {
        Members(self.iter())
    }
}

pub(super) struct Members<'a>(std::slice::Iter<'a, (Cow<'a, str>, Tree<'a>)>);

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, &'a Tree<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(name, member)| (name.as_ref(), member))
    }
}

impl<'a> Array<'a, Borrowed> for &'a [Tree<'a>] {
    type Node = &'a Tree<'a>;
    type ElementsIter = std::slice::Iter<'a, Tree<'a>>;

    fn len(&self) -> usize {
        <[_]>::len(self)
    }

    fn elements(&self) -> Self::ElementsIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tree_is_what_serde_makes_of_the_same_text() {
        for text in [
            "null",
            " [1, -1, 1.5, 1e3, -0, 18446744073709551615, 1e-400, true, false] ",
            r#""plain""#,
            r#""with \u00e9 \n and \ud83e\udd80""#,
            r#"{"b": 1, "a": {"x": []}, "b": {"later": true}, "": null, "\u0062": "last of all"}"#,
        ] {
            let tree = Tree::parse(text, 4).unwrap();
            assert_eq!(tree.value(), serde_json::from_str::<Value>(text).unwrap(), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_or_too_deep_is_no_tree() {
        for text in
            ["", "{", "[1,]", "nul", "1 2", "\"\u{1}\"", r#""\ud800""#, "1e999", r#"{1: 2}"#, "{\"a\"}"]
        {
            assert!(serde_json::from_str::<Value>(text).is_err(), "{text}");
            assert!(matches!(Tree::parse(text, 4), Err(ParseError::NotJson(_))), "{text}");
        }
        assert!(matches!(Tree::parse("[[[[]]]]", 4), Ok(Tree::Array(_))));
        assert!(matches!(Tree::parse("[[[[{}]]]]", 4), Err(ParseError::TooDeep)));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e9..1e9_f64).prop_map(Value::from),
            "[a-c\"\\\\é🦀]{0,4}".prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                prop::collection::btree_map("[a-e\"é]{0,2}", inner, 0..8)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn both_representations_are_judged_alike(data in any_json(), constant in any_json()) {
            let schemas = [
                json!({"const": constant}),
                json!({"enum": [constant, data]}),
                json!({"type": ["object", "string"], "minProperties": 1, "maxLength": 2, "minLength": 1}),
                json!({"uniqueItems": true, "items": {"type": ["integer", "string"]}, "contains": {"minimum": 0}}),
                json!({"required": ["a", "b"], "properties": {"a": {"type": "number"}},
                       "additionalProperties": {"maxProperties": 2}, "propertyNames": {"maxLength": 1}}),
                json!({"properties": {"a": {"$ref": "#"}}, "patternProperties": {"^[b-e]": false}}),
            ];
            let text = data.to_string();
            let tree = Tree::parse(&text, 64).unwrap();
            for schema in schemas {
                let expected = jsonschema::validator_for(&schema).unwrap();
                let found = jsonschema::options_for::<Borrowed>().build(&schema).unwrap();
                prop_assert_eq!(found.is_valid(&tree), expected.is_valid(&data), "{} {}", schema, text);
                let told = |error: &jsonschema::ValidationError<'_>| {
                    (error.instance_path().as_str().to_owned(), error.to_string())
                };
                let found: Vec<_> = found.iter_errors(&tree).map(|error| told(&error)).collect();
                let expected: Vec<_> = expected.iter_errors(&data).map(|error| told(&error)).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}

//! The subschemas that a document applies, and the sums over them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Excess, SUBSCHEMAS_MAX, StepTable, pattern::pattern_steps};
use crate::json_schema::DATA_DEPTH_MAX;

/// Steps of a metaschema for one value.
const METASCHEMA_STEPS: u64 = 1_000;
/// Steps for each value of an array whose items must be unique: they are copied.
const UNIQUE_STEPS: u64 = 40;

#[derive(Default)]
pub(super) struct Subschema {
    pointer: String,
    own: u64,
    /// Steps for each value of the whole subtree.
    deep: u64,
    /// Steps for each child.
    child: u64,
    in_place: Vec<usize>,
    /// At most one of them is applied to a child.
    one_child: Vec<usize>,
    /// All of them may be applied to a child.
    every_child: Vec<usize>,
    /// The subschemas in place are applied again for each child, to learn which were looked at.
    pub(super) evaluates: bool,
}

/// The subschemas that a document applies, from its root on.
pub(super) struct Graph<'doc> {
    pub(super) nodes: Vec<Subschema>,
    by_address: BTreeMap<usize, usize>,
    /// Discovered and not looked into.
    open: Vec<(usize, &'doc Value, Resource<'doc>)>,
    /// Values with an identifier, and their identifiers.
    resources: Vec<(&'doc str, &'doc Value)>,
    anchors: Vec<(&'doc str, &'doc Value)>,
    root: &'doc Value,
    /// A reference that is not known to lead anywhere.
    pub(super) unresolved: Option<String>,
}

/// The value that a fragment is relative to.
type Resource<'doc> = &'doc Value;

impl<'doc> Graph<'doc> {
    pub(super) fn new(root: &'doc Value) -> Self {
        let mut graph = Self {
            nodes: Vec::new(),
            by_address: BTreeMap::new(),
            open: Vec::new(),
            resources: Vec::new(),
            anchors: Vec::new(),
            root,
            unresolved: None,
        };
        graph.collect_names(root);
        graph
    }

    fn collect_names(&mut self, value: &'doc Value) {
        match value {
            Value::Object(members) => {
                let text = |name: &str| members.get(name).and_then(Value::as_str);
                for id in [text("$id"), text("id")].into_iter().flatten() {
                    match id.strip_prefix('#') {
                        Some(anchor) => self.anchors.push((anchor, value)),
                        None => self.resources.push((id.trim_end_matches('#'), value)),
                    }
                }
                let anchors = [text("$anchor"), text("$dynamicAnchor")];
                self.anchors.extend(anchors.into_iter().flatten().map(|anchor| (anchor, value)));
                members.values().for_each(|member| self.collect_names(member));
            }
            Value::Array(items) => items.iter().for_each(|item| self.collect_names(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    pub(super) fn build(&mut self, root: &'doc Value) -> Result<(), Excess> {
        self.node(root, root, String::new());
        while let Some((index, value, resource)) = self.open.pop() {
            if self.nodes.len() > SUBSCHEMAS_MAX {
                return Err(Excess::Subschemas);
            }
            self.look_into(index, value, resource);
        }
        Ok(())
    }

    /// Index of the subschema; it is looked into later.
    fn node(&mut self, value: &'doc Value, resource: Resource<'doc>, pointer: String) -> usize {
        let address = std::ptr::from_ref(value).addr();
        if let Some(&index) = self.by_address.get(&address) {
            return index;
        }
        let index = self.nodes.len();
        self.nodes.push(Subschema { pointer, own: 1, ..Subschema::default() });
        self.by_address.insert(address, index);
        self.open.push((index, value, resource));
        index
    }

    fn look_into(&mut self, index: usize, value: &'doc Value, resource: Resource<'doc>) {
        let Value::Object(keywords) = value else { return };
        let has_id = keywords.get("$id").or_else(|| keywords.get("id")).and_then(Value::as_str);
        let resource = if has_id.is_some_and(|id| !id.starts_with('#')) { value } else { resource };
        let mut found = Subschema { own: 1 + keywords.len() as u64, ..Subschema::default() };
        let place = self.nodes[index].pointer.clone();
        for (keyword, value) in keywords {
            self.keyword(keyword, value, resource, &format!("{place}/{}", escaped(keyword)), &mut found);
        }
        found.pointer = place;
        self.nodes[index] = found;
    }

    fn keyword(
        &mut self,
        keyword: &str,
        value: &'doc Value,
        resource: Resource<'doc>,
        place: &str,
        found: &mut Subschema,
    ) {
        match keyword {
            "$ref" | "$dynamicRef" | "$recursiveRef" => self.reference(value, resource, found),
            "allOf" | "anyOf" | "oneOf" | "not" | "if" | "then" | "else" | "dependentSchemas" => {
                found.in_place.extend(self.children(value, resource, place, keyword == "dependentSchemas"));
            }
            "dependencies" => {
                found.own += size_of(value);
                found.in_place.extend(self.children(value, resource, place, true));
            }
            "properties" => {
                found.own += value.as_object().map_or(0, |members| members.len() as u64);
                found.one_child.extend(self.children(value, resource, place, true));
            }
            "patternProperties" => {
                let patterns = value.as_object().into_iter().flat_map(Map::keys);
                found.child += patterns.map(|pattern| pattern_steps(pattern)).sum::<u64>();
                found.every_child.extend(self.children(value, resource, place, true));
            }
            "additionalProperties" | "items" | "prefixItems" | "additionalItems" => {
                found.one_child.extend(self.children(value, resource, place, false));
            }
            "contains" | "propertyNames" => {
                found.every_child.extend(self.children(value, resource, place, false));
            }
            "unevaluatedProperties" | "unevaluatedItems" => {
                found.evaluates = true;
                found.every_child.extend(self.children(value, resource, place, false));
            }
            "contentSchema" => found.in_place.extend(self.children(value, resource, place, false)),
            "enum" | "const" => found.own = found.own.saturating_add(size_of(value)),
            "required" | "dependentRequired" => found.own += size_of(value),
            "pattern" => found.own += value.as_str().map_or(0, pattern_steps),
            "uniqueItems" => found.deep += UNIQUE_STEPS,
            _ => {}
        }
    }

    /// Subschemas of a keyword: its value, or the members or items of its value.
    fn children(
        &mut self,
        value: &'doc Value,
        resource: Resource<'doc>,
        place: &str,
        by_name: bool,
    ) -> Vec<usize> {
        match value {
            Value::Object(members) if by_name => {
                let subschemas = members.iter().filter(|(_, member)| !member.is_array());
                subschemas
                    .map(|(name, member)| self.node(member, resource, format!("{place}/{}", escaped(name))))
                    .collect()
            }
            Value::Array(items) => {
                let items = items.iter().enumerate();
                items.map(|(at, item)| self.node(item, resource, format!("{place}/{at}"))).collect()
            }
            value => vec![self.node(value, resource, place.to_owned())],
        }
    }

    /// Every subschema that a reference may mean: more than one only adds to the bound.
    fn reference(&mut self, value: &'doc Value, resource: Resource<'doc>, found: &mut Subschema) {
        let Some(reference) = value.as_str() else { return };
        let (uri, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let mut bases: Vec<&'doc Value> = Vec::new();
        if uri.is_empty() {
            bases.push(resource);
            if !std::ptr::eq(resource, self.root) && fragment.starts_with('/') {
                bases.push(self.root);
            }
        } else {
            let name = uri.rsplit('/').next().unwrap_or(uri);
            let is_named = |id: &str| id == uri || id.rsplit('/').next() == Some(name);
            bases.extend(self.resources.iter().filter(|(id, _)| is_named(id)).map(|(_, value)| *value));
        }
        if bases.is_empty() {
            if uri.contains("json-schema.org/") {
                found.own += METASCHEMA_STEPS;
            } else {
                self.unresolved.get_or_insert_with(|| reference.chars().take(256).collect());
            }
            return;
        }
        let mut targets: Vec<(&'doc Value, Resource<'doc>)> = Vec::new();
        if fragment.is_empty() {
            targets.extend(bases.iter().map(|base| (*base, *base)));
        } else if fragment.starts_with('/') {
            let pointer = percent_decoded(fragment);
            targets.extend(bases.iter().filter_map(|base| Some((base.pointer(&pointer)?, *base))));
        } else {
            let named = self.anchors.iter().filter(|(anchor, _)| *anchor == fragment);
            targets.extend(named.map(|(_, value)| (*value, resource)));
        }
        if targets.is_empty() {
            self.unresolved.get_or_insert_with(|| reference.chars().take(256).collect());
        }
        let place = if uri.is_empty() { percent_decoded(fragment) } else { reference.to_owned() };
        for (target, resource) in targets {
            found.in_place.push(self.node(target, resource, place.clone()));
        }
    }

    /// Indexes, every subschema after those that it applies in place.
    pub(super) fn in_place_order(&self) -> Result<Vec<usize>, Excess> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Entered,
            Left,
        }
        let mut marks = vec![Mark::New; self.nodes.len()];
        let mut order = Vec::with_capacity(self.nodes.len());
        for start in 0..self.nodes.len() {
            let mut path = vec![(start, 0)];
            while let Some((index, next)) = path.last_mut() {
                if *next == 0 && marks[*index] == Mark::Left {
                    path.pop();
                    continue;
                }
                marks[*index] = Mark::Entered;
                let Some(&target) = self.nodes[*index].in_place.get(*next) else {
                    marks[*index] = Mark::Left;
                    order.push(*index);
                    path.pop();
                    continue;
                };
                *next += 1;
                match marks[target] {
                    Mark::New => path.push((target, 0)),
                    Mark::Entered => {
                        return Err(Excess::Endless { pointer: self.nodes[target].pointer.clone() });
                    }
                    Mark::Left => {}
                }
            }
        }
        Ok(order)
    }

    /// Bound of the subschemas that the validator compiles: those in place once more for each `unevaluated*`.
    pub(super) fn compiled(&self, order: &[usize]) -> u64 {
        let mut in_place = vec![0_u64; self.nodes.len()];
        let mut total = 0_u64;
        for &index in order {
            let node = &self.nodes[index];
            let inner = node.in_place.iter().fold(0_u64, |sum, &at| sum.saturating_add(in_place[at]));
            in_place[index] = inner.saturating_mul(if node.evaluates { 2 } else { 1 }).saturating_add(1);
            if node.evaluates {
                total = total.saturating_add(in_place[index]);
            }
        }
        total.saturating_add(self.nodes.len() as u64)
    }

    pub(super) fn steps(&self, order: &[usize], width: u64) -> StepTable {
        let count = self.nodes.len();
        // By subschema: steps at a level, and steps for each value of the subtree.
        let (mut level, mut deep) = (vec![0_u64; count], vec![0_u64; count]);
        let mut table = StepTable { by_level: Vec::new(), deep: Vec::new() };
        for depth in 0..=DATA_DEPTH_MAX {
            let (mut next_level, mut next_deep) = (vec![0_u64; count], vec![0_u64; count]);
            for &index in order {
                let node = &self.nodes[index];
                let times = if node.evaluates { width.saturating_add(2) } else { 1 };
                let in_place = |of: &[u64]| {
                    let sum = node.in_place.iter().fold(0_u64, |sum, &at| sum.saturating_add(of[at]));
                    sum.saturating_mul(times)
                };
                let (own, child) = if depth == 0 { (node.own, 0) } else { (0, node.child) };
                let here = in_place(&next_level).saturating_add(own).saturating_add(child);
                next_level[index] = here.saturating_add(node.children(&level));
                let here = in_place(&next_deep).saturating_add(node.deep);
                next_deep[index] = here.saturating_add(node.children(&deep));
            }
            (level, deep) = (next_level, next_deep);
            table.by_level.push(level[0]);
            table.deep.push(deep[0]);
        }
        table
    }
}

impl Subschema {
    /// The bound for one child.
    fn children(&self, of: &[u64]) -> u64 {
        let one = self.one_child.iter().map(|&at| of[at]).max().unwrap_or(0);
        self.every_child.iter().fold(one, |sum, &at| sum.saturating_add(of[at]))
    }
}

/// Values within the value, and units of text.
fn size_of(value: &Value) -> u64 {
    match value {
        Value::Array(items) => 1 + items.iter().map(size_of).sum::<u64>(),
        Value::Object(members) => 1 + members.values().map(|member| 1 + size_of(member)).sum::<u64>(),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => 1,
    }
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn percent_decoded(fragment: &str) -> String {
    let bytes = fragment.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = fragment.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex.filter(|_| byte == b'%') {
            Some(value) => {
                decoded.push(value);
                at += 3;
            }
            None => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

//! Prefixes of event types, by their segments between dots.

use std::collections::HashMap;

use super::TypeMatch;

/// The matches of each prefix. A prefix ends with '.' or is empty.
#[derive(Debug, Default)]
pub(super) struct PrefixTrie {
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    /// By the next segment.
    children: HashMap<Box<str>, Node>,
    matches: Vec<TypeMatch>,
}

impl PrefixTrie {
    /// Calls `on_match` for the matches of every prefix of `event_type` that is shorter than the type itself.
    pub(super) fn visit<'a>(&'a self, event_type: &str, mut on_match: impl FnMut(&'a TypeMatch)) {
        let mut node = &self.root;
        let mut rest = event_type;
        while !rest.is_empty() {
            for found in &node.matches {
                on_match(found);
            }
            if node.children.is_empty() {
                return;
            }
            let Some((segment, after)) = rest.split_once('.') else { return };
            let Some(child) = node.children.get(segment) else { return };
            (node, rest) = (child, after);
        }
    }

    /// The matches of one prefix, with new nodes if the prefix is new.
    pub(super) fn matches_mut(&mut self, prefix: &str) -> &mut Vec<TypeMatch> {
        let mut node = &mut self.root;
        for segment in segments(prefix) {
            node = node.children.entry(segment.into()).or_default();
        }
        &mut node.matches
    }

    /// Drops the nodes of a prefix that lead to no match.
    pub(super) fn prune(&mut self, prefix: &str) {
        self.root.prune(&mut segments(prefix));
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.root.is_empty()
    }
}

impl Node {
    fn prune(&mut self, segments: &mut dyn Iterator<Item = &str>) {
        let Some(segment) = segments.next() else { return };
        let Some(child) = self.children.get_mut(segment) else { return };
        child.prune(segments);
        if child.is_empty() {
            self.children.remove(segment);
        }
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.matches.is_empty()
    }
}

fn segments(prefix: &str) -> impl Iterator<Item = &str> {
    prefix.strip_suffix('.').into_iter().flat_map(|prefix| prefix.split('.'))
}

//! Filters of subscriptions: the event types that a subscription receives, and the schema version of each.
//!
//! A filter is replicated as a [`FilterRecord`] with the attachment of a subscription. An event is matched by the
//! filter that was attached when the event was published; [`FilterHistory`] holds the filters that are still needed.
//! The [`FilterIndex`] finds the matching subscriptions of an event for the fan-out.

mod history;
mod index;
mod record;
mod schema_pin;

use std::sync::Arc;

use fanfare_catalog::{AccountView, json_schema::SchemaCache};

pub(crate) use self::{
    history::{AttachedFilters, FilterHistory},
    record::{FilterRecord, FilterRecordError},
};
pub use self::{
    index::{AccountIndex, FilterIndex, SlotId, TypeMatch},
    schema_pin::SchemaPin,
};

/// The event types that one filter matches, ready for matching.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Ascending by name.
    types: Vec<FilteredType>,
    /// Longest first. Each ends with '.' or is empty.
    prefixes: Vec<Box<str>>,
}

#[derive(Clone, Debug)]
struct FilteredType {
    name: Box<str>,
    pin: Option<Arc<SchemaPin>>,
}

/// A part of a filter: one event type, or all types below a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TypePattern {
    Exact(Box<str>),
    /// Matches every longer type that starts with the prefix, which ends with '.' or is empty.
    Prefix(Box<str>),
}

impl Filter {
    /// A filter of exact event types, without pinned schemas.
    #[must_use]
    pub fn of_types<'a>(event_types: impl IntoIterator<Item = &'a str>) -> Self {
        let record: FilterRecord =
            event_types.into_iter().map(|event_type| (event_type.to_owned(), None)).collect();
        Self::from_record(&record, |_, _| None)
    }

    /// The filter of `record`, with its pinned schema versions looked up in `account`. A version that the account does
    /// not have is not pinned.
    pub(crate) fn new(record: &FilterRecord, account: &AccountView, cache: &Arc<SchemaCache>) -> Self {
        Self::from_record(record, |event_type, version| {
            let (schema_id, document) = pinned_document(account, event_type, version)?;
            Some(Arc::new(SchemaPin::new(schema_id, version, document.clone(), cache.clone())))
        })
    }

    fn from_record(record: &FilterRecord, pin: impl Fn(&str, u32) -> Option<Arc<SchemaPin>>) -> Self {
        let types = record.types().map(|(name, version)| FilteredType {
            name: name.into(),
            pin: version.and_then(|version| pin(name, version)),
        });
        let mut prefixes: Vec<Box<str>> = record.prefixes().map(Into::into).collect();
        prefixes.sort_unstable_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        Self { types: types.collect(), prefixes }
    }

    /// Some if the filter matches the event type, with the pinned schema if there is one. An exact type goes before
    /// prefixes.
    pub(crate) fn match_type(&self, event_type: &str) -> Option<Option<&Arc<SchemaPin>>> {
        if let Ok(index) = self.types.binary_search_by(|listed| (*listed.name).cmp(event_type)) {
            return Some(self.types[index].pin.as_ref());
        }
        self.prefixes.iter().any(|prefix| has_prefix(event_type, prefix)).then_some(None)
    }

    /// Each pattern with its pinned schema, exact types first.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = (TypePattern, Option<&Arc<SchemaPin>>)> {
        let exact = self.types.iter();
        let exact = exact.map(|listed| (TypePattern::Exact(listed.name.clone()), listed.pin.as_ref()));
        exact.chain(self.prefixes.iter().map(|prefix| (TypePattern::Prefix(prefix.clone()), None)))
    }

    /// True if the pins of this filter are those that [`Self::new`] would find for `record` in `account`.
    fn has_pins_of(&self, record: &FilterRecord, account: &AccountView) -> bool {
        self.types.iter().zip(record.types()).all(|(listed, (name, version))| {
            let pinned = version.and_then(|version| pinned_document(account, name, version));
            match (&listed.pin, pinned) {
                (Some(pin), Some((schema_id, document))) => pin.is_of(schema_id, document),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            }
        })
    }
}

impl TypePattern {
    /// True if this pattern decides where both match: exact types go before prefixes, longer prefixes before shorter.
    fn is_more_specific_than(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(_), Self::Prefix(_)) => true,
            (Self::Prefix(own), Self::Prefix(other)) => own.len() > other.len(),
            (Self::Exact(_) | Self::Prefix(_), Self::Exact(_)) => false,
        }
    }

    /// True if the pattern matches `event_type`.
    fn matches(&self, event_type: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *event_type,
            Self::Prefix(prefix) => has_prefix(event_type, prefix),
        }
    }
}

/// Id of the event type's schema and the document of one of its versions.
fn pinned_document<'a>(
    account: &'a AccountView,
    event_type: &str,
    version: u32,
) -> Option<(&'a str, &'a Arc<str>)> {
    let schema_id = account.event_types.get(event_type)?.schema.as_deref()?;
    let index = usize::try_from(version.checked_sub(1)?).ok()?;
    Some((schema_id, &account.schemas.get(schema_id)?.versions.get(index)?.document))
}

fn has_prefix(event_type: &str, prefix: &str) -> bool {
    event_type.len() > prefix.len() && event_type.starts_with(prefix)
}

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::history::tests::attachment;
}

//! What a subscription chooses, ready for matching: for each offset the choice that held when it was published.

mod choice;

use std::{collections::HashMap, ops::Range, sync::Arc};

use fanfare_catalog::{AccountView, json_schema::SchemaCache};
use fanfare_model::Offset;
use fanfare_partition::Attachment;

pub(crate) use self::choice::{Choice, ChoiceError};
use crate::schema_pin::Pin;

/// Choices that are kept here at most. The partition keeps fewer; more can gather only of a subscription that has
/// nothing pending and has not read on yet.
const KEPT_MAX: usize = 64;

/// Chosen event types and the schema version each is pinned to.
#[derive(Debug)]
pub(crate) struct Spec {
    types: HashMap<String, Option<Arc<Pin>>>,
}

impl Spec {
    fn new(choice: &Choice, account: &AccountView, cache: &Arc<SchemaCache>) -> Self {
        let pin = |event_type: &str, version: u32| {
            let schema_id = account.event_types.get(event_type)?.schema.as_ref()?;
            let index = usize::try_from(version.checked_sub(1)?).ok()?;
            let document = account.schemas.get(schema_id)?.versions.get(index)?.document.clone();
            Some(Arc::new(Pin::new(schema_id, version, document, cache.clone())))
        };
        let types = choice.types().map(|(event_type, version)| {
            let pin = version.and_then(|version| pin(event_type, version));
            (event_type.to_owned(), pin)
        });
        Self { types: types.collect() }
    }

    /// Some if the type is chosen, with its pin if it has one.
    pub(crate) fn get(&self, event_type: &str) -> Option<Option<&Arc<Pin>>> {
        self.types.get(event_type).map(Option::as_ref)
    }

    pub(crate) fn types(&self) -> impl Iterator<Item = (&str, Option<&Arc<Pin>>)> {
        self.types.iter().map(|(event_type, pin)| (event_type.as_str(), pin.as_ref()))
    }
}

/// The choices of an attachment that are still needed, and the revision of the newest.
#[derive(Debug)]
pub(crate) struct Choices {
    revision: u64,
    /// Ascending; each holds from its offset to the next one's. Never empty.
    spans: Vec<(Offset, Choice)>,
}

impl Choices {
    /// # Errors
    /// If the attachment was written by a newer program.
    pub(crate) fn of(attachment: &Attachment) -> Result<Self, ChoiceError> {
        let spans =
            attachment.filters.iter().map(|filter| Ok((filter.from, Choice::decode(&filter.filter)?)));
        Ok(Self { revision: attachment.filter_revision(), spans: spans.collect::<Result<_, _>>()? })
    }

    /// What is attached now; of what the partition has forgotten, that which holds at `needed` or above is kept.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub(crate) fn change(&mut self, attachment: &Attachment, needed: Offset) -> Result<(), ChoiceError> {
        let next = Self::of(attachment)?;
        let first = next.spans[0].0;
        self.spans.retain(|(from, _)| *from < first);
        self.spans.extend(next.spans);
        let passed = self.spans[1..].partition_point(|(from, _)| *from <= needed);
        self.spans.drain(..passed.max(self.spans.len().saturating_sub(KEPT_MAX)));
        self.revision = next.revision;
        Ok(())
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }
}

/// [`Choices`], ready for matching.
#[derive(Debug)]
pub(crate) struct Specs {
    /// As in [`Choices`].
    spans: Vec<(Offset, Spec)>,
}

impl Specs {
    pub(crate) fn new(choices: &Choices, account: &AccountView, cache: &Arc<SchemaCache>) -> Self {
        let spans = choices.spans.iter().map(|(from, choice)| (*from, Spec::new(choice, account, cache)));
        Self { spans: spans.collect() }
    }

    /// What held when the event at `offset` was published.
    pub(crate) fn at(&self, offset: Offset) -> &Spec {
        let after = self.spans.partition_point(|(from, _)| *from <= offset);
        &self.spans[after.saturating_sub(1)].1
    }

    /// What holds for events from `front` on, and for which of them.
    pub(crate) fn from(&self, front: Offset) -> impl Iterator<Item = (Range<Offset>, &Spec)> {
        let ends = self.spans[1..].iter().map(|(from, _)| *from).chain([Offset(u64::MAX)]);
        let spans = self.spans.iter().zip(ends).map(|((from, spec), end)| (*from..end, spec));
        spans.filter(move |(span, _)| front < span.end)
    }
}

#[cfg(test)]
pub(crate) mod tests;

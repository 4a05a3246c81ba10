//! What a subscription chooses, as far as matching needs it, now and in the part of the log it has yet to read.

use std::{collections::HashMap, sync::Arc};

use fanfare_catalog::{AccountView, json_schema::SchemaCache};
use fanfare_model::{Offset, Subscription};

use crate::schema_pin::Pin;

/// Chosen event types and the schema version each is pinned to.
#[derive(Debug, Default)]
pub(crate) struct Spec {
    types: HashMap<String, Option<Arc<Pin>>>,
}

impl Spec {
    pub(crate) fn new(subscription: &Subscription, account: &AccountView, cache: &Arc<SchemaCache>) -> Self {
        let pin = |event_type: &str, version: u32| {
            let schema_id = account.event_types.get(event_type)?.schema.as_ref()?;
            let index = usize::try_from(version.checked_sub(1)?).ok()?;
            let document = account.schemas.get(schema_id)?.versions.get(index)?.document.clone();
            Some(Arc::new(Pin::new(schema_id, version, document, cache.clone())))
        };
        let types = subscription.types.iter().map(|chosen| {
            let pin = chosen.schema_version.and_then(|version| pin(&chosen.event_type, version));
            (chosen.event_type.clone(), pin)
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

    fn chooses_the_same(&self, other: &Self) -> bool {
        self.types.len() == other.types.len() && self.types.keys().all(|name| other.types.contains_key(name))
    }
}

/// The current choice and, for events below where it took effect, the earlier ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Specs {
    /// Ascending; each holds below its offset.
    earlier: Vec<(Offset, Arc<Spec>)>,
    current: Arc<Spec>,
}

/// Earlier choices that are kept; more changes than this with one backlog merge the oldest.
const EARLIER_MAX: usize = 16;

impl Specs {
    pub(crate) fn new(current: Arc<Spec>) -> Self {
        Self { earlier: Vec::new(), current }
    }

    pub(crate) fn at(&self, offset: Offset) -> &Spec {
        let earlier = self.earlier.iter().find(|(end, _)| offset < *end);
        earlier.map_or(&self.current, |(_, spec)| spec)
    }

    pub(crate) fn current(&self) -> &Spec {
        &self.current
    }

    /// `next` holds from `front` on; what lies below the oldest unsettled event is forgotten.
    pub(crate) fn changed(&self, next: Arc<Spec>, front: Offset, low_water: Option<Offset>) -> Self {
        let mut earlier = self.earlier.clone();
        if !self.current.chooses_the_same(&next) {
            earlier.push((front, self.current.clone()));
        }
        earlier.retain(|(end, _)| low_water.is_some_and(|low_water| low_water < *end));
        let surplus = earlier.len().saturating_sub(EARLIER_MAX);
        earlier.drain(..surplus);
        Self { earlier, current: next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(types: &[&str]) -> Arc<Spec> {
        Arc::new(Spec { types: types.iter().map(|name| ((*name).to_owned(), None)).collect() })
    }

    #[test]
    fn events_below_a_change_are_matched_by_the_earlier_choice_until_they_are_settled() {
        let first = Specs::new(spec(&["a"]));
        let second = first.changed(spec(&["b"]), Offset(10), Some(Offset(3)));
        assert!(second.at(Offset(9)).get("a").is_some());
        assert!(second.at(Offset(9)).get("b").is_none());
        assert!(second.at(Offset(10)).get("b").is_some());
        let third = second.changed(spec(&["c"]), Offset(20), Some(Offset(12)));
        assert!(third.at(Offset(9)).get("b").is_some(), "nothing unsettled needs the first choice any more");
        assert!(third.at(Offset(19)).get("b").is_some());
        assert!(third.changed(spec(&["c"]), Offset(30), None).at(Offset(0)).get("c").is_some());
    }
}

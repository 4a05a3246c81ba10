//! Subscriptions: everything they name exists for as long as they do.
//!
//! A subscription's epoch is the catalog's revision of its creation, so none is ever used twice. An update raises
//! only the revision: what was matched before goes where the subscription now points.

use std::{collections::BTreeSet, sync::Arc};

use fanfare_model::{AccountId, SubscribedType, Subscription, SubscriptionId};

use super::{Draft, Object, check_limit, check_revision};
use crate::{
    AccountView, ChangeError, EventTypeStatus, NewSubscription, ObjectKind, command::CreatedSubscription,
    names,
};

const KIND: ObjectKind = ObjectKind::Subscription;
const TYPES_MAX: usize = 100;

impl Draft<'_> {
    pub(super) fn create_subscription(
        &mut self,
        account: AccountId,
        new: CreatedSubscription,
    ) -> Result<Object, ChangeError> {
        let view = self.account(account)?;
        let CreatedSubscription { id, spec, start } = new;
        check(view, &spec, &[])?;
        if view.subscriptions.contains_key(&id) {
            return Err(ChangeError::Exists { kind: KIND, name: id.to_string() });
        }
        check_limit(KIND, view.subscriptions.len(), self.view.cluster.limits.subscriptions_max)?;
        let (now, revision) = (self.now, self.revision());
        self.put_subscription(Subscription {
            id,
            account,
            description: spec.description,
            sink: spec.sink,
            types: spec.types,
            paused: false,
            start,
            epoch: revision,
            created: now,
            updated: now,
            revision,
        })
    }

    pub(super) fn update_subscription(
        &mut self,
        account: AccountId,
        id: SubscriptionId,
        spec: NewSubscription,
        expected_revision: Option<u64>,
    ) -> Result<Object, ChangeError> {
        let view = self.account(account)?;
        let old = find(view, id)?;
        check_revision(KIND, &id.to_string(), expected_revision, old.revision)?;
        check(view, &spec, &old.types)?;
        let NewSubscription { description, sink, types } = spec;
        let (updated, revision) = (self.now, self.revision());
        let subscription =
            Subscription { description, sink, types, updated, revision, ..old.as_ref().clone() };
        self.put_subscription(subscription)
    }

    pub(super) fn delete_subscription(
        &mut self,
        account: AccountId,
        id: SubscriptionId,
    ) -> Result<Object, ChangeError> {
        let stored = find(self.account(account)?, id)?;
        check_revision(KIND, &id.to_string(), self.expected_revision, stored.revision)?;
        self.edit(account)?.subscriptions.remove(&id);
        Ok(Object::Nothing)
    }

    pub(super) fn pause(&mut self, account: AccountId, id: SubscriptionId) -> Result<Object, ChangeError> {
        let paused = Subscription { paused: true, ..find(self.account(account)?, id)?.as_ref().clone() };
        self.turn(paused)
    }

    pub(super) fn resume(&mut self, account: AccountId, id: SubscriptionId) -> Result<Object, ChangeError> {
        let resumed = Subscription { paused: false, ..find(self.account(account)?, id)?.as_ref().clone() };
        self.turn(resumed)
    }

    /// Pausing what is paused, like resuming what runs, is no change.
    fn turn(&mut self, turned: Subscription) -> Result<Object, ChangeError> {
        let stored = find(self.account(turned.account)?, turned.id)?;
        check_revision(KIND, &turned.id.to_string(), self.expected_revision, stored.revision)?;
        if stored.paused == turned.paused {
            return Ok(Object::Subscription(stored.clone()));
        }
        let (updated, revision) = (self.now, self.revision());
        self.put_subscription(Subscription { updated, revision, ..turned })
    }

    fn put_subscription(&mut self, subscription: Subscription) -> Result<Object, ChangeError> {
        let subscription = Arc::new(subscription);
        let subscriptions = &mut self.edit(subscription.account)?.subscriptions;
        subscriptions.insert(subscription.id, subscription.clone());
        Ok(Object::Subscription(subscription))
    }
}

fn find(view: &AccountView, id: SubscriptionId) -> Result<&Arc<Subscription>, ChangeError> {
    let found = view.subscriptions.get(&id);
    found.ok_or_else(|| ChangeError::NotFound { kind: KIND, name: id.to_string() })
}

/// `held`: the types it has already, which may stay whatever their status has become.
fn check(view: &AccountView, spec: &NewSubscription, held: &[SubscribedType]) -> Result<(), ChangeError> {
    names::check_description("subscription.description", &spec.description)?;
    if !view.sinks.contains_key(&spec.sink) {
        let problem = format!("sink {} does not exist: create it first", spec.sink);
        return Err(ChangeError::invalid("subscription.sink_id", problem));
    }
    if spec.types.is_empty() || spec.types.len() > TYPES_MAX {
        let problem = format!("has {} event types: name 1 to {TYPES_MAX}", spec.types.len());
        return Err(ChangeError::invalid("subscription.selectors", problem));
    }
    let mut named = BTreeSet::new();
    for (index, one) in spec.types.iter().enumerate() {
        if !named.insert(one.event_type.as_str()) {
            let problem = format!("{} is named twice: name it once", one.event_type);
            return Err(ChangeError::invalid(format!("subscription.selectors[{index}].type"), problem));
        }
        let held = held.iter().any(|held| held.event_type == one.event_type);
        check_type(view, index, one, held)?;
    }
    Ok(())
}

fn check_type(view: &AccountView, index: usize, one: &SubscribedType, held: bool) -> Result<(), ChangeError> {
    let name = &one.event_type;
    let refuse =
        |problem| Err(ChangeError::invalid(format!("subscription.selectors[{index}].type"), problem));
    let Some(event_type) = view.event_types.get(name) else {
        return refuse(format!("event type {name:?} does not exist: create it first"));
    };
    match event_type.status {
        EventTypeStatus::Available | EventTypeStatus::Deprecated => {}
        EventTypeStatus::Restricted | EventTypeStatus::Discontinued if held => {}
        EventTypeStatus::Restricted => {
            return refuse(format!("event type {name} is restricted: it takes no new subscriptions"));
        }
        EventTypeStatus::Discontinued => {
            return refuse(format!("event type {name} is discontinued: choose its successor"));
        }
    }
    match one.schema_version {
        Some(version) => check_version(view, event_type.schema.as_deref(), index, version),
        None => Ok(()),
    }
}

fn check_version(
    view: &AccountView,
    schema: Option<&str>,
    index: usize,
    version: u32,
) -> Result<(), ChangeError> {
    let field = format!("subscription.selectors[{index}].schema_version");
    let Some(schema) = schema.and_then(|id| view.schemas.get(id)) else {
        let problem = "the event type has no schema: give it one, or leave the version out";
        return Err(ChangeError::invalid(field, problem));
    };
    if schema.version(version).is_none() {
        let latest = schema.latest_version();
        let problem = format!(
            "schema {} has no version {version}: choose 1 to {latest}, or leave it out for the latest",
            schema.id
        );
        return Err(ChangeError::invalid(field, problem));
    }
    Ok(())
}

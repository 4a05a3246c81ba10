//! Event types: a type's schema exists, and a schema that a subscription pins is not exchanged under it.

use std::sync::Arc;

use fanfare_model::AccountId;

use super::{Draft, Object, check_limit, check_revision};
use crate::{AccountView, ChangeError, EventType, NewEventType, ObjectKind, names};

const KIND: ObjectKind = ObjectKind::EventType;

impl Draft<'_> {
    pub(super) fn create_event_type(
        &mut self,
        account: AccountId,
        new: NewEventType,
    ) -> Result<Object, ChangeError> {
        let view = self.account(account)?;
        check(view, &new)?;
        if view.event_types.contains_key(&new.name) {
            return Err(ChangeError::Exists { kind: KIND, name: new.name });
        }
        check_limit(KIND, view.event_types.len(), self.view.cluster.limits.event_types_max)?;
        let (created, revision) = (self.now, self.revision());
        let NewEventType { name, description, schema, status } = new;
        let event_type = EventType { name, description, schema, status, created, updated: created, revision };
        self.put_event_type(account, event_type)
    }

    pub(super) fn update_event_type(
        &mut self,
        account: AccountId,
        new: NewEventType,
        expected_revision: Option<u64>,
    ) -> Result<Object, ChangeError> {
        let view = self.account(account)?;
        let old = find(view, &new.name)?;
        check_revision(KIND, &new.name, expected_revision, old.revision)?;
        check(view, &new)?;
        if old.schema != new.schema {
            check_unpinned(view, old)?;
        }
        let (created, updated, revision) = (old.created, self.now, self.revision());
        let NewEventType { name, description, schema, status } = new;
        let event_type = EventType { name, description, schema, status, created, updated, revision };
        self.put_event_type(account, event_type)
    }

    pub(super) fn delete_event_type(
        &mut self,
        account: AccountId,
        name: String,
    ) -> Result<Object, ChangeError> {
        let view = self.account(account)?;
        check_revision(KIND, &name, self.expected_revision, find(view, &name)?.revision)?;
        let user =
            view.subscriptions.values().find(|user| user.types.iter().any(|one| one.event_type == name));
        if let Some(user) = user {
            return Err(ChangeError::InUse { kind: KIND, name, by: format!("subscription {}", user.id) });
        }
        self.edit(account)?.event_types.remove(&name);
        Ok(Object::Nothing)
    }

    fn put_event_type(&mut self, account: AccountId, event_type: EventType) -> Result<Object, ChangeError> {
        let event_type = Arc::new(event_type);
        self.edit(account)?.event_types.insert(event_type.name.clone(), event_type.clone());
        Ok(Object::EventType(event_type))
    }
}

fn find<'a>(view: &'a AccountView, name: &str) -> Result<&'a EventType, ChangeError> {
    let found = view.event_types.get(name).map(AsRef::as_ref);
    found.ok_or_else(|| ChangeError::NotFound { kind: KIND, name: name.to_owned() })
}

fn check(view: &AccountView, new: &NewEventType) -> Result<(), ChangeError> {
    names::check_event_type("event_type.name", &new.name)?;
    names::check_description("event_type.description", &new.description)?;
    match &new.schema {
        Some(schema) if !view.schemas.contains_key(schema) => {
            let problem = format!("schema {schema:?} does not exist: create it first, or name none");
            Err(ChangeError::invalid("event_type.schema_id", problem))
        }
        Some(_) | None => Ok(()),
    }
}

/// A pinned version number means nothing under another schema.
fn check_unpinned(view: &AccountView, event_type: &EventType) -> Result<(), ChangeError> {
    for user in view.subscriptions.values() {
        let pin = user.types.iter().find(|one| one.event_type == event_type.name);
        if let Some(version) = pin.and_then(|one| one.schema_version) {
            let name = event_type.schema.clone().unwrap_or_default();
            let by =
                format!("subscription {}, which wants {} in version {version}", user.id, event_type.name);
            return Err(ChangeError::InUse { kind: ObjectKind::Schema, name, by });
        }
    }
    Ok(())
}

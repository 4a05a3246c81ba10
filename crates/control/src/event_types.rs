//! Event types: the names that events are published under and subscriptions choose.

use std::{ops::Bound, sync::Arc};

use fanfare_catalog::{ChangeError, EventType, EventTypeStatus, NewEventType, ObjectKind, Tenant};

use crate::{
    control::{Control, UpdateRounds, check_name},
    error::{ControlError, FieldViolation},
    list::{ListRequest, Listed},
};

/// Wanted state of an event type.
#[derive(Clone, Debug)]
pub struct EventTypeSettings {
    pub name: String,
    pub description: String,
    /// Id of the schema that events are validated against.
    pub schema: Option<String>,
    /// Available if absent from a new event type; required in an update.
    pub status: Option<EventTypeStatus>,
}

impl Control {
    /// # Errors
    /// If the catalog refuses the change.
    pub async fn create_event_type(
        &self,
        tenant: Tenant,
        settings: EventTypeSettings,
    ) -> Result<Arc<EventType>, ControlError> {
        let status = settings.status.unwrap_or(EventTypeStatus::Available);
        Ok(self.catalog.create_event_type(tenant, with_status(settings, status)).await?)
    }

    /// # Errors
    /// If the account has no such event type.
    pub fn event_type(&self, tenant: Tenant, name: &str) -> Result<Arc<EventType>, ControlError> {
        check_name("name", name)?;
        let event_type = self.account(tenant)?.event_types.get(name).cloned();
        let unknown = || ChangeError::NotFound { kind: ObjectKind::EventType, name: name.to_owned() };
        Ok(event_type.ok_or_else(unknown)?)
    }

    /// # Errors
    /// If the account is gone.
    pub fn list_event_types(
        &self,
        tenant: Tenant,
        request: &ListRequest<String>,
    ) -> Result<Listed<Arc<EventType>, String>, ControlError> {
        let account = self.account(tenant)?;
        let event_types = account.event_types.range::<String, _>((request.start(), Bound::Unbounded));
        Ok(request.page(event_types.map(|(name, event_type)| (name.clone(), event_type.clone()))))
    }

    /// Changes an event type to what `change` makes of the stored one. `etag` is that of the state that was read;
    /// an empty one merges the change into the newest.
    ///
    /// # Errors
    /// If the status is absent, there is no such event type, or the catalog refuses the change.
    pub async fn update_event_type(
        &self,
        tenant: Tenant,
        name: &str,
        etag: &str,
        change: impl Fn(&EventType) -> Result<EventTypeSettings, FieldViolation> + Send,
    ) -> Result<Arc<EventType>, ControlError> {
        check_name("event_type.name", name)?;
        let mut rounds = UpdateRounds::new(etag);
        loop {
            let stored = self.event_type(tenant, name)?;
            let settings = change(&stored)?;
            let status = settings.status.ok_or_else(|| FieldViolation::required("event_type.status"))?;
            let expected = Some(rounds.expected(&*stored)?);
            match self.catalog.update_event_type(tenant, with_status(settings, status), expected).await {
                Err(error) if rounds.goes_on_after(&error) => {}
                answer => return Ok(answer?),
            }
        }
    }

    /// # Errors
    /// If there is no such event type, it is not as `etag` says, a subscription uses it, or the catalog refuses the change.
    pub async fn delete_event_type(
        &self,
        tenant: Tenant,
        name: &str,
        etag: &str,
    ) -> Result<(), ControlError> {
        let stored = self.event_type(tenant, name)?;
        Ok(self.catalog_at(tenant, etag, &*stored)?.delete_event_type(tenant, name).await?)
    }
}

fn with_status(settings: EventTypeSettings, status: EventTypeStatus) -> NewEventType {
    let EventTypeSettings { name, description, schema, .. } = settings;
    NewEventType { name, description, schema, status }
}

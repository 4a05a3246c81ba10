//! Repeated requests: the second command of a request id changes nothing and is answered with the object of the first.

use std::sync::Arc;

use fanfare_model::AccountId;

use super::{Draft, Object};
use crate::{
    ChangeError, ObjectKind, RequestId, RequestRecord, RequestedObject,
    request::{ID_BYTES_MAX, PER_ACCOUNT_MAX},
};

const FIELD: &str = "request_id";

/// The object that `request` made or changed before, as it is now; none if the request is new.
///
/// # Errors
/// If the id is malformed or was used for another request, or the object is deleted.
pub(super) fn repeated(
    draft: &Draft<'_>,
    account: AccountId,
    request: &RequestId,
) -> Result<Option<Object>, ChangeError> {
    let RequestId { id, arguments } = request;
    if id.is_empty() || id.len() > ID_BYTES_MAX || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        let problem = format!("is not 1 to {ID_BYTES_MAX} visible ASCII characters");
        return Err(ChangeError::invalid(FIELD, problem));
    }
    let view = draft.account(account)?;
    let Some(record) = view.requests.get(id).filter(|record| record.is_kept(draft.now)) else {
        return Ok(None);
    };
    if record.arguments != *arguments {
        return Err(ChangeError::RequestReused { id: id.clone() });
    }
    let object = match &record.object {
        RequestedObject::EventType(name) => view.event_types.get(name).cloned().map(Object::EventType),
        RequestedObject::Schema(id) => view.schemas.get(id).cloned().map(Object::Schema),
        RequestedObject::SchemaVersion { schema, number } => view
            .schemas
            .get(schema)
            .filter(|schema| schema.version(*number).is_some())
            .map(|schema| Object::SchemaVersion { schema: schema.clone(), number: *number }),
        RequestedObject::Sink(id) => view.sinks.get(id).cloned().map(Object::Sink),
        RequestedObject::Subscription(id) => view.subscriptions.get(id).cloned().map(Object::Subscription),
    };
    object.map(Some).ok_or_else(|| not_found(&record.object))
}

/// Keeps the id of a request that made or changed `object`. Ids that are no longer kept leave, and the oldest one
/// where there are too many.
pub(super) fn keep(
    draft: &mut Draft<'_>,
    account: AccountId,
    request: RequestId,
    object: &Object,
) -> Result<(), ChangeError> {
    let Some(object) = object.requested() else { return Ok(()) };
    let (now, index) = (draft.now, draft.index);
    let requests = &mut draft.edit(account)?.requests;
    requests.retain(|_, record| record.is_kept(now));
    if requests.len() >= PER_ACCOUNT_MAX
        && let Some(oldest) = requests.values().min_by_key(|record| record.index).cloned()
    {
        requests.remove(&oldest.id);
    }
    let RequestId { id, arguments } = request;
    let record = RequestRecord { id: id.clone(), arguments, time: now, index, object };
    requests.insert(id, Arc::new(record));
    Ok(())
}

impl Object {
    /// The object as a request's record names it; none if no request of a tenant makes such objects.
    fn requested(&self) -> Option<RequestedObject> {
        match self {
            Self::EventType(event_type) => Some(RequestedObject::EventType(event_type.name.clone())),
            Self::Schema(schema) => Some(RequestedObject::Schema(schema.id.clone())),
            Self::SchemaVersion { schema, number } => {
                Some(RequestedObject::SchemaVersion { schema: schema.id.clone(), number: *number })
            }
            Self::Sink(sink) => Some(RequestedObject::Sink(sink.id)),
            Self::Subscription(subscription) => Some(RequestedObject::Subscription(subscription.id)),
            Self::Account(_) | Self::Broker(_) | Self::Nothing => None,
        }
    }
}

/// The request was carried out, and its object was deleted since.
fn not_found(object: &RequestedObject) -> ChangeError {
    let (kind, name) = match object {
        RequestedObject::EventType(name) => (ObjectKind::EventType, name.clone()),
        RequestedObject::Schema(id) => (ObjectKind::Schema, id.clone()),
        RequestedObject::SchemaVersion { schema, number } => {
            (ObjectKind::SchemaVersion, format!("{schema} version {number}"))
        }
        RequestedObject::Sink(id) => (ObjectKind::Sink, id.to_string()),
        RequestedObject::Subscription(id) => (ObjectKind::Subscription, id.to_string()),
    };
    ChangeError::NotFound { kind, name }
}

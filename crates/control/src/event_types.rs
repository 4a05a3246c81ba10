//! `fanfare.v1.EventTypeService`.

use std::ops::Bound;

use fanfare_catalog::{ChangeError, EventType, EventTypeStatus, NewEventType, ObjectKind};
use fanfare_proto::v1;
use tonic::{Request, Response, Status};

use crate::{
    control::{Control, revision, tenant},
    page::Page,
    status::{change_status, invalid},
    time::to_api,
};

#[tonic::async_trait]
impl v1::event_type_service_server::EventTypeService for Control {
    async fn create_event_type(
        &self,
        request: Request<v1::CreateEventTypeRequest>,
    ) -> Result<Response<v1::CreateEventTypeResponse>, Status> {
        let tenant = tenant(&request)?;
        let given = required(request.into_inner().event_type)?;
        let status = status(given.status)?.unwrap_or(EventTypeStatus::Available);
        let created = self.catalog.create_event_type(tenant, wanted(given, status)).await;
        let event_type = Some(shown(&*created.map_err(|error| change_status(&error))?));
        Ok(Response::new(v1::CreateEventTypeResponse { event_type }))
    }

    async fn get_event_type(
        &self,
        request: Request<v1::GetEventTypeRequest>,
    ) -> Result<Response<v1::GetEventTypeResponse>, Status> {
        let account = self.account(tenant(&request)?)?;
        let name = request.into_inner().name;
        match account.event_types.get(&name) {
            Some(found) => Ok(Response::new(v1::GetEventTypeResponse { event_type: Some(shown(found)) })),
            None => Err(change_status(&ChangeError::NotFound { kind: ObjectKind::EventType, name })),
        }
    }

    async fn list_event_types(
        &self,
        request: Request<v1::ListEventTypesRequest>,
    ) -> Result<Response<v1::ListEventTypesResponse>, Status> {
        let account = self.account(tenant(&request)?)?;
        let v1::ListEventTypesRequest { page_size, page_token } = request.into_inner();
        let page = Page::<String>::parse("event_types", page_size, &page_token)?;
        let from = page.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let rest = account.event_types.range::<String, _>((from, Bound::Unbounded));
        let (event_types, next_page_token) =
            page.take(rest.map(|(name, found)| (name.clone(), shown(found))));
        Ok(Response::new(v1::ListEventTypesResponse { event_types, next_page_token }))
    }

    async fn update_event_type(
        &self,
        request: Request<v1::UpdateEventTypeRequest>,
    ) -> Result<Response<v1::UpdateEventTypeResponse>, Status> {
        let tenant = tenant(&request)?;
        let given = required(request.into_inner().event_type)?;
        let expected = revision(&given.etag);
        let status = status(given.status)?.ok_or_else(|| invalid("event_type.status", "is required"))?;
        let updated = self.catalog.update_event_type(tenant, wanted(given, status), expected).await;
        let event_type = Some(shown(&*updated.map_err(|error| change_status(&error))?));
        Ok(Response::new(v1::UpdateEventTypeResponse { event_type }))
    }

    async fn delete_event_type(
        &self,
        request: Request<v1::DeleteEventTypeRequest>,
    ) -> Result<Response<v1::DeleteEventTypeResponse>, Status> {
        let tenant = tenant(&request)?;
        let deleted = self.catalog.delete_event_type(tenant, &request.into_inner().name).await;
        deleted.map_err(|error| change_status(&error))?;
        Ok(Response::new(v1::DeleteEventTypeResponse {}))
    }
}

fn required(given: Option<v1::EventType>) -> Result<v1::EventType, Status> {
    given.ok_or_else(|| invalid("event_type", "is required"))
}

fn wanted(given: v1::EventType, status: EventTypeStatus) -> NewEventType {
    NewEventType {
        name: given.name,
        description: given.description,
        schema: Some(given.schema_id).filter(|id| !id.is_empty()),
        status,
    }
}

/// None if it is not given.
fn status(number: i32) -> Result<Option<EventTypeStatus>, Status> {
    match v1::EventTypeStatus::try_from(number) {
        Ok(v1::EventTypeStatus::Unspecified) => Ok(None),
        Ok(v1::EventTypeStatus::Available) => Ok(Some(EventTypeStatus::Available)),
        Ok(v1::EventTypeStatus::Deprecated) => Ok(Some(EventTypeStatus::Deprecated)),
        Ok(v1::EventTypeStatus::Restricted) => Ok(Some(EventTypeStatus::Restricted)),
        Ok(v1::EventTypeStatus::Discontinued) => Ok(Some(EventTypeStatus::Discontinued)),
        Err(_) => Err(invalid("event_type.status", format!("{number} is not a status"))),
    }
}

fn shown(event_type: &EventType) -> v1::EventType {
    let status = match event_type.status {
        EventTypeStatus::Available => v1::EventTypeStatus::Available,
        EventTypeStatus::Deprecated => v1::EventTypeStatus::Deprecated,
        EventTypeStatus::Restricted => v1::EventTypeStatus::Restricted,
        EventTypeStatus::Discontinued => v1::EventTypeStatus::Discontinued,
    };
    v1::EventType {
        name: event_type.name.clone(),
        description: event_type.description.clone(),
        schema_id: event_type.schema.clone().unwrap_or_default(),
        status: status.into(),
        create_time: Some(to_api(event_type.created)),
        update_time: Some(to_api(event_type.updated)),
        etag: event_type.revision.to_string(),
    }
}

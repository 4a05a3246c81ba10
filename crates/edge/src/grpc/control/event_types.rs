//! `fanfare.v1.EventTypeService`.

use fanfare_control::{EventType, EventTypeSettings, EventTypeStatus, FieldViolation, Resource, Tenant};
use fanfare_proto::v1;
use tonic::{Request, Response, Status};

use super::{ControlServices, open, present, required, update_mask::UpdateMask};
use crate::{grpc::time::to_api, page::PagedList, problem::Problem};

/// Paths that an update may name.
const FIELDS: [&str; 3] = ["description", "schema_id", "status"];

#[tonic::async_trait]
impl v1::event_type_service_server::EventTypeService for ControlServices {
    async fn create_event_type(
        &self,
        request: Request<v1::CreateEventTypeRequest>,
    ) -> Result<Response<v1::CreateEventTypeResponse>, Status> {
        let (tenant, request) = open(request)?;
        let control = self.once(tenant, &request);
        let settings = settings(required("event_type", request.event_type)?).map_err(Problem::from)?;
        let created = control.create_event_type(tenant, settings).await.map_err(Problem::from)?;
        Ok(Response::new(v1::CreateEventTypeResponse { event_type: Some(to_message(tenant, &created)) }))
    }

    async fn get_event_type(
        &self,
        request: Request<v1::GetEventTypeRequest>,
    ) -> Result<Response<v1::GetEventTypeResponse>, Status> {
        let (tenant, request) = open(request)?;
        let event_type = self.control.event_type(tenant, &request.name).map_err(Problem::from)?;
        Ok(Response::new(v1::GetEventTypeResponse { event_type: Some(to_message(tenant, &event_type)) }))
    }

    async fn list_event_types(
        &self,
        request: Request<v1::ListEventTypesRequest>,
    ) -> Result<Response<v1::ListEventTypesResponse>, Status> {
        let (tenant, v1::ListEventTypesRequest { page_size, page_token }) = open(request)?;
        let list = PagedList::new("event_types");
        let page = list.request(page_size, &page_token)?;
        let listed = self.control.list_event_types(tenant, &page).map_err(Problem::from)?;
        Ok(Response::new(v1::ListEventTypesResponse {
            event_types: listed.items.iter().map(|event_type| to_message(tenant, event_type)).collect(),
            next_page_token: list.token(listed.next),
        }))
    }

    async fn update_event_type(
        &self,
        request: Request<v1::UpdateEventTypeRequest>,
    ) -> Result<Response<v1::UpdateEventTypeResponse>, Status> {
        let (tenant, request) = open(request)?;
        let mask = UpdateMask::read(request.update_mask, &FIELDS)?;
        let given = required("event_type", request.event_type)?;
        let change = |stored: &EventType| settings(merged(&mask, to_message(tenant, stored), given.clone()));
        let updated = self.control.update_event_type(tenant, &given.name, &given.etag, change).await;
        let event_type = Some(to_message(tenant, &*updated.map_err(Problem::from)?));
        Ok(Response::new(v1::UpdateEventTypeResponse { event_type }))
    }

    async fn delete_event_type(
        &self,
        request: Request<v1::DeleteEventTypeRequest>,
    ) -> Result<Response<v1::DeleteEventTypeResponse>, Status> {
        let (tenant, request) = open(request)?;
        let v1::DeleteEventTypeRequest { name, etag } = request;
        self.control.delete_event_type(tenant, &name, &etag).await.map_err(Problem::from)?;
        Ok(Response::new(v1::DeleteEventTypeResponse {}))
    }
}

/// `stored` with the fields of `given` that the mask covers.
fn merged(mask: &UpdateMask, mut stored: v1::EventType, given: v1::EventType) -> v1::EventType {
    mask.assign("description", &mut stored.description, given.description);
    mask.assign("schema_id", &mut stored.schema_id, given.schema_id);
    mask.assign("status", &mut stored.status, given.status);
    stored
}

fn settings(event_type: v1::EventType) -> Result<EventTypeSettings, FieldViolation> {
    Ok(EventTypeSettings {
        status: status(event_type.status)?,
        name: event_type.name,
        description: event_type.description,
        schema: present(event_type.schema_id),
    })
}

/// None if it is not specified.
fn status(number: i32) -> Result<Option<EventTypeStatus>, FieldViolation> {
    match v1::EventTypeStatus::try_from(number) {
        Ok(v1::EventTypeStatus::Unspecified) => Ok(None),
        Ok(v1::EventTypeStatus::Available) => Ok(Some(EventTypeStatus::Available)),
        Ok(v1::EventTypeStatus::Deprecated) => Ok(Some(EventTypeStatus::Deprecated)),
        Ok(v1::EventTypeStatus::Restricted) => Ok(Some(EventTypeStatus::Restricted)),
        Ok(v1::EventTypeStatus::Discontinued) => Ok(Some(EventTypeStatus::Discontinued)),
        Err(_) => Err(FieldViolation::new("event_type.status", format!("{number} is not a status"))),
    }
}

fn to_message(tenant: Tenant, event_type: &EventType) -> v1::EventType {
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
        etag: event_type.etag(),
        account_id: tenant.account().to_string(),
    }
}

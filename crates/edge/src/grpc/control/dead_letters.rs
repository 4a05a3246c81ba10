//! `fanfare.v1.DeadLetterService`.

use fanfare_control::{DeadLetter, RedriveControl, RedriveKind};
use fanfare_proto::{cloudevents::v1::CloudEvent, v1};
use prost::Message;
use tonic::{Request, Response, Status};

use super::{ControlServices, open, present, redrives};
use crate::{grpc::time::to_api, page::PagedList, problem::Problem};

#[tonic::async_trait]
impl v1::dead_letter_service_server::DeadLetterService for ControlServices {
    async fn list_dead_letters(
        &self,
        request: Request<v1::ListDeadLettersRequest>,
    ) -> Result<Response<v1::ListDeadLettersResponse>, Status> {
        let (tenant, request) = open(request)?;
        let v1::ListDeadLettersRequest { subscription_id, page_size, page_token } = request;
        let list = PagedList::filtered("dead_letters", &subscription_id);
        let page = list.request(page_size, &page_token)?;
        let subscription_id = present(subscription_id);
        let listed = self.control.list_dead_letters(tenant, subscription_id.as_deref(), page).await;
        let listed = listed.map_err(Problem::from)?;
        Ok(Response::new(v1::ListDeadLettersResponse {
            dead_letters: listed.items.into_iter().map(to_message).collect(),
            next_page_token: list.token(listed.next),
        }))
    }

    async fn get_dead_letter(
        &self,
        request: Request<v1::GetDeadLetterRequest>,
    ) -> Result<Response<v1::GetDeadLetterResponse>, Status> {
        let (tenant, request) = open(request)?;
        let dead_letter = self.control.dead_letter(tenant, &request.id).await.map_err(Problem::from)?;
        Ok(Response::new(v1::GetDeadLetterResponse { dead_letter: Some(to_message(dead_letter)) }))
    }

    async fn redrive_dead_letters(
        &self,
        request: Request<v1::RedriveDeadLettersRequest>,
    ) -> Result<Response<v1::RedriveDeadLettersResponse>, Status> {
        let (tenant, request) = open(request)?;
        let v1::RedriveDeadLettersRequest { subscription_id, filter, request_id } = request;
        let wanted = redrives::request(subscription_id, RedriveKind::Deliver, filter, request_id)?;
        let begun = RedriveControl::new(&self.control).start(tenant, wanted).await.map_err(Problem::from)?;
        Ok(Response::new(v1::RedriveDeadLettersResponse { redrive: Some(redrives::message(&begun)) }))
    }

    async fn purge_dead_letters(
        &self,
        request: Request<v1::PurgeDeadLettersRequest>,
    ) -> Result<Response<v1::PurgeDeadLettersResponse>, Status> {
        let (tenant, request) = open(request)?;
        let v1::PurgeDeadLettersRequest { subscription_id, filter, request_id } = request;
        let wanted = redrives::request(subscription_id, RedriveKind::Purge, filter, request_id)?;
        let begun = RedriveControl::new(&self.control).start(tenant, wanted).await.map_err(Problem::from)?;
        Ok(Response::new(v1::PurgeDeadLettersResponse { redrive: Some(redrives::message(&begun)) }))
    }

    async fn get_redrive(
        &self,
        request: Request<v1::GetRedriveRequest>,
    ) -> Result<Response<v1::GetRedriveResponse>, Status> {
        let (tenant, request) = open(request)?;
        let redrive =
            RedriveControl::new(&self.control).get(tenant, &request.id).await.map_err(Problem::from)?;
        Ok(Response::new(v1::GetRedriveResponse { redrive: Some(redrives::message(&redrive)) }))
    }

    async fn list_redrives(
        &self,
        request: Request<v1::ListRedrivesRequest>,
    ) -> Result<Response<v1::ListRedrivesResponse>, Status> {
        let (tenant, request) = open(request)?;
        let v1::ListRedrivesRequest { subscription_id, page_size, page_token } = request;
        let list = PagedList::filtered("redrives", &subscription_id);
        let page = list.request(page_size, &page_token)?;
        let subscription_id = present(subscription_id);
        let listed = RedriveControl::new(&self.control).list(tenant, subscription_id.as_deref(), page).await;
        let listed = listed.map_err(Problem::from)?;
        Ok(Response::new(v1::ListRedrivesResponse {
            redrives: listed.items.iter().map(redrives::message).collect(),
            next_page_token: list.token(listed.next),
        }))
    }

    async fn cancel_redrive(
        &self,
        request: Request<v1::CancelRedriveRequest>,
    ) -> Result<Response<v1::CancelRedriveResponse>, Status> {
        let (tenant, request) = open(request)?;
        let redrive =
            RedriveControl::new(&self.control).cancel(tenant, &request.id).await.map_err(Problem::from)?;
        Ok(Response::new(v1::CancelRedriveResponse { redrive: Some(redrives::message(&redrive)) }))
    }
}

fn to_message(dead_letter: DeadLetter) -> v1::DeadLetter {
    v1::DeadLetter {
        id: dead_letter.id,
        subscription_id: dead_letter.subscription.to_string(),
        reason: dead_letter.reason.to_owned(),
        detail: dead_letter.detail,
        attempts: dead_letter.attempts,
        time: Some(to_api(dead_letter.time)),
        event: Some(v1::StoredEvent {
            partition: dead_letter.partition.into(),
            offset: dead_letter.offset.0,
            append_time: Some(to_api(dead_letter.append_time)),
            // It was an event when it was published. Bytes that are none are left out rather than made up.
            event: CloudEvent::decode(dead_letter.event).ok(),
        }),
    }
}

//! `fanfare.v1.DeadLetterService`.

use fanfare_delivery::{DeadLetter, DeadLetterQuery};
use fanfare_model::SubscriptionId;
use fanfare_proto::{cloudevents::v1::CloudEvent, v1};
use prost::Message;
use tonic::{Request, Response, Status};

use crate::{
    control::{Control, parse_id, tenant},
    page::Page,
    status::{data_loss, invalid, not_found},
    time::to_api,
};

const UNREADABLE: &str = "some dead letters cannot be read";

#[tonic::async_trait]
impl v1::dead_letter_service_server::DeadLetterService for Control {
    async fn list_dead_letters(
        &self,
        request: Request<v1::ListDeadLettersRequest>,
    ) -> Result<Response<v1::ListDeadLettersResponse>, Status> {
        let tenant = tenant(&request)?;
        let v1::ListDeadLettersRequest { subscription_id, page_size, page_token } = request.into_inner();
        // A deleted subscription's dead letters are kept, so it need not exist any more.
        let subscription = match subscription_id.as_str() {
            "" => None,
            id => Some(parse_id::<SubscriptionId>("subscription_id", id)?),
        };
        let page = Page::<String>::parse(format!("dead_letters/{subscription_id}"), page_size, &page_token)?;
        let query = DeadLetterQuery { subscription, limit: page.size, after: page.after.clone() };
        let found = self.delivery.list_dead_letters(tenant.account(), query).await;
        let found = found.map_err(|error| data_loss(&error, UNREADABLE))?;
        Ok(Response::new(v1::ListDeadLettersResponse {
            dead_letters: found.letters.into_iter().map(shown).collect(),
            next_page_token: found.next.map(|next| page.token(&next)).unwrap_or_default(),
        }))
    }

    async fn get_dead_letter(
        &self,
        request: Request<v1::GetDeadLetterRequest>,
    ) -> Result<Response<v1::GetDeadLetterResponse>, Status> {
        let tenant = tenant(&request)?;
        let id = request.into_inner().id;
        if id.is_empty() {
            return Err(invalid("id", "is required"));
        }
        let found = self.delivery.dead_letter(tenant.account(), &id).await;
        match found.map_err(|error| data_loss(&error, UNREADABLE))? {
            Some(letter) => Ok(Response::new(v1::GetDeadLetterResponse { dead_letter: Some(shown(letter)) })),
            None => {
                let message = format!("no dead letter {id:?} is kept: list them to see which are");
                Err(not_found("DEAD_LETTER_UNKNOWN", message))
            }
        }
    }
}

fn shown(letter: DeadLetter) -> v1::DeadLetter {
    v1::DeadLetter {
        id: letter.id,
        subscription_id: letter.subscription.to_string(),
        reason: letter.reason.to_owned(),
        detail: letter.detail,
        attempts: letter.attempts,
        time: Some(to_api(letter.time)),
        event: Some(v1::StoredEvent {
            partition: letter.partition.into(),
            offset: letter.offset.0,
            append_time: Some(to_api(letter.append_time)),
            // It was an event when it was published; an event that is none is left out rather than made up.
            event: CloudEvent::decode(letter.event).ok(),
        }),
    }
}

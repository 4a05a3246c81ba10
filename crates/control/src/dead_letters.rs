//! Dead letters: events that were given up, with the reason.

use fanfare_catalog::Tenant;
use fanfare_delivery::{DeadLetter, DeadLetterError, DeadLetterQuery};
use fanfare_model::SubscriptionId;

use crate::{
    control::{Control, check_name, parse_id},
    error::{ControlError, FieldViolation, Unreadable},
    list::{ListRequest, Listed},
};

impl Control {
    /// Dead letters of the account, or of one subscription, oldest first. Dead letters outlive their subscription, so
    /// it need not exist any more. Keys of the list are opaque.
    ///
    /// # Errors
    /// If `subscription_id` is not an id, or some dead letters cannot be read here.
    pub async fn list_dead_letters(
        &self,
        tenant: Tenant,
        subscription_id: Option<&str>,
        request: ListRequest<String>,
    ) -> Result<Listed<DeadLetter, String>, ControlError> {
        let subscription =
            subscription_id.map(|id| parse_id::<SubscriptionId>("subscription_id", id)).transpose()?;
        let ListRequest { after, limit } = request;
        let query = DeadLetterQuery { subscription, limit, after };
        let page = self.delivery.list_dead_letters(tenant.account(), query).await.map_err(unreadable)?;
        Ok(Listed { items: page.letters, next: page.next })
    }

    /// # Errors
    /// If the account has no such dead letter, or some cannot be read.
    pub async fn dead_letter(&self, tenant: Tenant, id: &str) -> Result<DeadLetter, ControlError> {
        if id.is_empty() {
            return Err(FieldViolation::required("id").into());
        }
        check_name("id", id)?;
        let dead_letter = self.delivery.dead_letter(tenant.account(), id).await.map_err(unreadable)?;
        dead_letter.ok_or_else(|| ControlError::DeadLetterUnknown { id: id.to_owned() })
    }
}

fn unreadable(error: DeadLetterError) -> ControlError {
    match error {
        DeadLetterError::Route(elsewhere) => elsewhere.into(),
        DeadLetterError::Read(damage) => {
            ControlError::Damaged { damage, consequence: Unreadable::DeadLettersUnreadable }
        }
    }
}

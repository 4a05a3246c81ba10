//! Redrives and purges of dead letters.

use std::collections::BTreeSet;

use fanfare_catalog::{ChangeError, Tenant};
use fanfare_delivery::{
    CommandError, DeadLetterFilter, NewRedrive, Reason, Redrive, RedriveError, RedriveKind, Refusal,
    Withdrawals,
};
use fanfare_model::{EventIdHash, RedriveId, SubscriptionId, Timestamp};

use crate::{
    control::{Control, parse_id},
    error::{ControlError, FieldViolation},
    list::{ListRequest, Listed},
};

/// Longest name of a request that may be repeated.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// A redrive or purge as it is asked for.
#[derive(Clone, Debug)]
pub struct RedriveRequest {
    pub subscription_id: String,
    pub kind: RedriveKind,
    /// Empty lists and absent times choose all.
    pub ids: Vec<String>,
    pub reasons: Vec<String>,
    pub from: Option<Timestamp>,
    pub before: Option<Timestamp>,
    /// A repeat with the same text begins nothing new. May be empty.
    pub request_id: String,
}

/// Control of redrives and purges.
pub struct RedriveControl<'a> {
    control: &'a Control,
}

impl<'a> RedriveControl<'a> {
    #[must_use]
    pub fn new(control: &'a Control) -> Self {
        Self { control }
    }

    /// Begins a redrive or purge, which goes on by itself.
    ///
    /// # Errors
    /// If a field is wrong, the account has no such subscription to redrive for, or one of the subscription runs already.
    pub async fn start(&self, tenant: Tenant, request: RedriveRequest) -> Result<Redrive, ControlError> {
        let subscription = match request.kind {
            RedriveKind::Deliver => {
                self.control.subscription(tenant, &request.subscription_id)?.subscription.id
            }
            RedriveKind::Purge => parse_id::<SubscriptionId>("subscription_id", &request.subscription_id)?,
        };
        let id = self.redrive_id(tenant, &request.request_id)?;
        let new = NewRedrive { id, subscription, kind: request.kind, filter: filter(&request)? };
        let started = self.control.delivery.start_redrive(tenant.account(), new).await;
        started.map_err(|error| of_redrive(error, ControlError::RedriveRefused { subscription }))
    }

    /// # Errors
    /// If the account has no such redrive, or the dead letters are on another node.
    pub async fn get(&self, tenant: Tenant, id: &str) -> Result<Redrive, ControlError> {
        let id = parse_id::<RedriveId>("id", id)?;
        let unknown = || ControlError::RedriveUnknown { id };
        let redrives = self.control.delivery.redrives(tenant.account()).await;
        let redrives = redrives.map_err(|error| of_redrive(error, unknown()))?;
        redrives.into_iter().find(|redrive| redrive.start.id == id).ok_or_else(unknown)
    }

    /// Redrives of the account that run or ended lately, or those of one subscription, by id.
    ///
    /// # Errors
    /// If `subscription_id` is not an id, or the dead letters are on another node.
    pub async fn list(
        &self,
        tenant: Tenant,
        subscription_id: Option<&str>,
        request: ListRequest<RedriveId>,
    ) -> Result<Listed<Redrive, RedriveId>, ControlError> {
        let subscription =
            subscription_id.map(|id| parse_id::<SubscriptionId>("subscription_id", id)).transpose()?;
        let redrives = match self.control.delivery.redrives(tenant.account()).await {
            Ok(redrives) => redrives,
            Err(RedriveError::Route(elsewhere)) => return Err(elsewhere.into()),
            Err(RedriveError::Command(_)) => return Err(ChangeError::Unavailable.into()),
        };
        let chosen = redrives.into_iter().filter(|redrive| {
            subscription.is_none_or(|subscription| redrive.start.subscription == subscription)
                && request.after.is_none_or(|after| redrive.start.id > after)
        });
        Ok(request.page(chosen.map(|redrive| (redrive.start.id, redrive))))
    }

    /// Cancels a redrive that runs; one that has ended stays as it is.
    ///
    /// # Errors
    /// If the account has no such redrive, or the dead letters have no leader here.
    pub async fn cancel(&self, tenant: Tenant, id: &str) -> Result<Redrive, ControlError> {
        let id = parse_id::<RedriveId>("id", id)?;
        let cancelled = self.control.delivery.cancel_redrive(tenant.account(), id).await;
        cancelled.map_err(|error| of_redrive(error, ControlError::RedriveUnknown { id }))
    }

    /// Dead letters of the subscription that left the list, in its count of dead-lettered events all the same.
    ///
    /// # Errors
    /// If the account has no such subscription.
    pub fn withdrawals(&self, tenant: Tenant, id: &str) -> Result<Withdrawals, ControlError> {
        let subscription = self.control.subscription(tenant, id)?.subscription;
        Ok(self.control.delivery.withdrawals(tenant.account(), subscription.id))
    }

    fn redrive_id(&self, tenant: Tenant, request_id: &str) -> Result<RedriveId, ControlError> {
        if request_id.len() > REQUEST_ID_BYTES_MAX {
            let problem = format!("has {} bytes; at most {REQUEST_ID_BYTES_MAX} are kept", request_id.len());
            return Err(FieldViolation::new("request_id", problem).into());
        }
        let mut bytes = [0; 16];
        if request_id.is_empty() {
            self.control.environment.random().fill(&mut bytes);
        } else {
            bytes = EventIdHash::of(&tenant.account().to_string(), request_id).0.to_be_bytes();
        }
        Ok(RedriveId::from_bytes(bytes))
    }
}

fn filter(request: &RedriveRequest) -> Result<DeadLetterFilter, FieldViolation> {
    if request.ids.len() > DeadLetterFilter::IDS_MAX {
        let problem = format!("names {} ids, at most {}", request.ids.len(), DeadLetterFilter::IDS_MAX);
        return Err(FieldViolation::new("filter.ids", problem));
    }
    let ids = request.ids.iter().enumerate().map(|(index, id)| {
        let number = u128::from_str_radix(id, 16).ok().filter(|_| id.len() == 32);
        number.ok_or_else(|| FieldViolation::new(format!("filter.ids[{index}]"), "is no id of a dead letter"))
    });
    let reasons = request.reasons.iter().enumerate().map(|(index, name)| {
        let reason = (0..=u8::MAX).filter_map(Reason::from_number).find(|reason| reason.name() == name);
        let problem = || "is no reason: `fanfare deadletter list` shows the reasons of the letters";
        reason.ok_or_else(|| FieldViolation::new(format!("filter.reasons[{index}]"), problem()))
    });
    Ok(DeadLetterFilter {
        ids: ids.collect::<Result<BTreeSet<_>, _>>()?,
        reasons: reasons.collect::<Result<BTreeSet<_>, _>>()?,
        from: request.from,
        before: request.before,
    })
}

/// `refused` is what a refusal of the state machine means.
fn of_redrive(error: RedriveError, refused: ControlError) -> ControlError {
    match error {
        RedriveError::Route(elsewhere) => elsewhere.into(),
        RedriveError::Command(CommandError::Refused(Refusal::Redrive)) => refused,
        RedriveError::Command(CommandError::Unknown) => ChangeError::Unknown.into(),
        RedriveError::Command(_) => ChangeError::Unavailable.into(),
    }
}

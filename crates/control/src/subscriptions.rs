//! Subscriptions: event types that go to a sink. A change is answered when every partition that it concerns has taken
//! it, or the time for that is over; it is never answered by an error once the catalog has made it.

use std::{ops::Bound, sync::Arc};

use fanfare_catalog::{AccountView, ChangeError, NewSubscription, ObjectKind, Tenant};
use fanfare_model::{AccountId, SinkId, StartAt, SubscribedType, Subscription, SubscriptionId};

use crate::{
    control::{Control, UpdateRounds, parse_id},
    error::{ControlError, FieldViolation},
    list::{ListRequest, Listed},
};

/// Wanted state of a subscription.
#[derive(Clone, Debug)]
pub struct SubscriptionSettings {
    pub description: String,
    pub sink_id: String,
    pub selectors: Vec<Selector>,
}

/// A choice of one event type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    pub event_type: String,
    pub version: SelectorVersion,
}

/// Schema version that a subscription asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelectorVersion {
    /// Latest version at the time of the change; as published if the type has no schema.
    Latest,
    Pinned(u32),
    /// None: every event as it was published.
    AsPublished,
}

/// A subscription and the progress of its newest change.
#[derive(Clone, Debug)]
pub struct SubscriptionStatus {
    pub subscription: Arc<Subscription>,
    /// A partition has not confirmed the newest change, which takes effect there by itself.
    pub reconciling: bool,
}

impl Control {
    /// # Errors
    /// If a field is wrong, or the catalog refuses the change.
    pub async fn create_subscription(
        &self,
        tenant: Tenant,
        settings: SubscriptionSettings,
        start: StartAt,
    ) -> Result<SubscriptionStatus, ControlError> {
        let created = self
            .catalog
            .create_subscription(tenant, new_subscription(&*self.account(tenant)?, settings)?, start)
            .await?;
        Ok(self.in_effect(created).await)
    }

    /// # Errors
    /// If the account has no such subscription.
    pub fn subscription(&self, tenant: Tenant, id: &str) -> Result<SubscriptionStatus, ControlError> {
        let subscription = self.stored_subscription(tenant, parse_id("id", id)?)?;
        Ok(self.status_of(subscription))
    }

    fn stored_subscription(
        &self,
        tenant: Tenant,
        id: SubscriptionId,
    ) -> Result<Arc<Subscription>, ControlError> {
        let subscription = self.account(tenant)?.subscriptions.get(&id).cloned();
        let unknown = || ChangeError::NotFound { kind: ObjectKind::Subscription, name: id.to_string() };
        Ok(subscription.ok_or_else(unknown)?)
    }

    /// # Errors
    /// If the account is gone.
    pub fn list_subscriptions(
        &self,
        tenant: Tenant,
        request: &ListRequest<SubscriptionId>,
    ) -> Result<Listed<SubscriptionStatus, SubscriptionId>, ControlError> {
        let account = self.account(tenant)?;
        let subscriptions = account.subscriptions.range((request.start(), Bound::Unbounded));
        let statuses = subscriptions.map(|(id, subscription)| (*id, self.status_of(subscription.clone())));
        Ok(request.page(statuses))
    }

    /// Changes a subscription to what `change` makes of the stored one. `etag` is that of the state that was read;
    /// an empty one merges the change into the newest.
    ///
    /// # Errors
    /// As [`Self::create_subscription`], or if there is no such subscription.
    pub async fn update_subscription(
        &self,
        tenant: Tenant,
        id: &str,
        etag: &str,
        change: impl Fn(&Subscription) -> SubscriptionSettings + Send,
    ) -> Result<SubscriptionStatus, ControlError> {
        let id = parse_id::<SubscriptionId>("subscription.id", id)?;
        let mut rounds = UpdateRounds::new(etag);
        loop {
            let stored = self.stored_subscription(tenant, id)?;
            let expected = Some(rounds.expected(&*stored)?);
            let new = new_subscription(&*self.account(tenant)?, change(&stored))?;
            match self.catalog.update_subscription(tenant, id, new, expected).await {
                Err(error) if rounds.goes_on_after(&error) => {}
                answer => return Ok(self.in_effect(answer?).await),
            }
        }
    }

    /// Deletes a subscription; answers whether every partition has confirmed the deletion.
    ///
    /// # Errors
    /// If there is no such subscription, it is not as `etag` says, or the catalog refuses the change.
    pub async fn delete_subscription(
        &self,
        tenant: Tenant,
        id: &str,
        etag: &str,
    ) -> Result<bool, ControlError> {
        let id = parse_id("id", id)?;
        let stored = self.stored_subscription(tenant, id)?;
        self.catalog_at(tenant, etag, &*stored)?.delete_subscription(tenant, id).await?;
        Ok(self.reconciled(tenant.account(), id).await)
    }

    /// # Errors
    /// As [`Self::delete_subscription`].
    pub async fn pause_subscription(
        &self,
        tenant: Tenant,
        id: &str,
        etag: &str,
    ) -> Result<SubscriptionStatus, ControlError> {
        let id = parse_id("id", id)?;
        let stored = self.stored_subscription(tenant, id)?;
        let paused = self.catalog_at(tenant, etag, &*stored)?.pause_subscription(tenant, id).await?;
        Ok(self.in_effect(paused).await)
    }

    /// # Errors
    /// As [`Self::delete_subscription`].
    pub async fn resume_subscription(
        &self,
        tenant: Tenant,
        id: &str,
        etag: &str,
    ) -> Result<SubscriptionStatus, ControlError> {
        let id = parse_id("id", id)?;
        let stored = self.stored_subscription(tenant, id)?;
        let resumed = self.catalog_at(tenant, etag, &*stored)?.resume_subscription(tenant, id).await?;
        Ok(self.in_effect(resumed).await)
    }

    /// The subscription as changed, once its partitions have the change or the time for it is over.
    async fn in_effect(&self, changed: Arc<Subscription>) -> SubscriptionStatus {
        let reconciling = !self.reconciled(changed.account, changed.id).await;
        SubscriptionStatus { subscription: changed, reconciling }
    }

    /// Waits until the partitions of the account have the newest state of the subscription; whether they do.
    async fn reconciled(&self, account: AccountId, id: SubscriptionId) -> bool {
        // A damaged partition never confirms: waiting for it would only delay the same answer.
        self.delivery.damage(account).is_none() && self.delivery.reconciled(account, id).await.is_ok()
    }

    fn status_of(&self, subscription: Arc<Subscription>) -> SubscriptionStatus {
        let reconciling = !self.delivery.is_in_effect(subscription.account, subscription.id);
        SubscriptionStatus { subscription, reconciling }
    }
}

fn new_subscription(
    account: &AccountView,
    settings: SubscriptionSettings,
) -> Result<NewSubscription, FieldViolation> {
    let SubscriptionSettings { description, sink_id, selectors } = settings;
    let sink = parse_id::<SinkId>("subscription.sink_id", &sink_id)?;
    let types = selectors.into_iter().map(|selector| resolved(account, selector)).collect();
    Ok(NewSubscription { description, sink, types })
}

/// The selector with the version that it stands for at this time. The catalog refuses types and versions that do not
/// exist.
fn resolved(account: &AccountView, Selector { event_type, version }: Selector) -> SubscribedType {
    let latest = || {
        let schema = account.event_types.get(&event_type)?.schema.as_ref()?;
        Some(account.schemas.get(schema)?.latest_version())
    };
    let schema_version = match version {
        SelectorVersion::Latest => latest(),
        SelectorVersion::Pinned(version) => Some(version),
        SelectorVersion::AsPublished => None,
    };
    SubscribedType { event_type, schema_version }
}

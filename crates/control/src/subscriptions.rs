//! Subscriptions: event types that go to a sink. A change is answered when every partition that it concerns has taken
//! it.

use std::{ops::Bound, sync::Arc};

use fanfare_catalog::{ChangeError, NewSubscription, ObjectKind, Tenant};
use fanfare_model::{SinkId, StartAt, SubscribedType, Subscription, SubscriptionId};

use crate::{
    control::{Control, UpdateRounds, parse_id},
    error::{ControlError, FieldViolation, Unreadable},
    list::{ListRequest, Listed},
};

/// Wanted state of a subscription.
#[derive(Clone, Debug)]
pub struct SubscriptionSettings {
    pub description: String,
    pub sink_id: String,
    pub types: Vec<SubscribedType>,
}

impl Control {
    /// # Errors
    /// If a field is wrong, the catalog refuses the change, or it is made and not in effect in every partition.
    pub async fn create_subscription(
        &self,
        tenant: Tenant,
        settings: SubscriptionSettings,
        start: StartAt,
    ) -> Result<Arc<Subscription>, ControlError> {
        let created = self.catalog.create_subscription(tenant, new_subscription(settings)?, start).await?;
        self.in_effect(tenant, created).await
    }

    /// # Errors
    /// If the account has no such subscription.
    pub fn subscription(&self, tenant: Tenant, id: &str) -> Result<Arc<Subscription>, ControlError> {
        self.stored_subscription(tenant, parse_id("id", id)?)
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
    ) -> Result<Listed<Arc<Subscription>, SubscriptionId>, ControlError> {
        let account = self.account(tenant)?;
        let subscriptions = account.subscriptions.range((request.start(), Bound::Unbounded));
        Ok(request.page(subscriptions.map(|(id, subscription)| (*id, subscription.clone()))))
    }

    /// Changes a subscription to what `change` makes of the stored one. `expected_revision` is the revision that was read;
    /// with none, the change is merged into the newest.
    ///
    /// # Errors
    /// As [`Self::create_subscription`], or if there is no such subscription.
    pub async fn update_subscription(
        &self,
        tenant: Tenant,
        id: &str,
        expected_revision: Option<u64>,
        change: impl Fn(&Subscription) -> SubscriptionSettings + Send,
    ) -> Result<Arc<Subscription>, ControlError> {
        let id = parse_id::<SubscriptionId>("subscription.id", id)?;
        let mut rounds = UpdateRounds::new(expected_revision);
        loop {
            let stored = self.stored_subscription(tenant, id)?;
            let expected = Some(rounds.expected(stored.revision));
            let new = new_subscription(change(&stored))?;
            match self.catalog.update_subscription(tenant, id, new, expected).await {
                Err(error) if rounds.goes_on_after(&error) => {}
                answer => return self.in_effect(tenant, answer?).await,
            }
        }
    }

    /// # Errors
    /// If there is no such subscription, the catalog refuses the change, or it is made and not in effect in every
    /// partition.
    pub async fn delete_subscription(&self, tenant: Tenant, id: &str) -> Result<(), ControlError> {
        let id = parse_id("id", id)?;
        self.catalog.delete_subscription(tenant, id).await?;
        self.reconciled(tenant, id).await
    }

    /// # Errors
    /// As [`Self::delete_subscription`].
    pub async fn pause_subscription(
        &self,
        tenant: Tenant,
        id: &str,
    ) -> Result<Arc<Subscription>, ControlError> {
        let id = parse_id("id", id)?;
        let paused = self.catalog.pause_subscription(tenant, id).await?;
        self.in_effect(tenant, paused).await
    }

    /// # Errors
    /// As [`Self::delete_subscription`].
    pub async fn resume_subscription(
        &self,
        tenant: Tenant,
        id: &str,
    ) -> Result<Arc<Subscription>, ControlError> {
        let id = parse_id("id", id)?;
        let resumed = self.catalog.resume_subscription(tenant, id).await?;
        self.in_effect(tenant, resumed).await
    }

    /// The subscription as changed, once its partitions have the change.
    async fn in_effect(
        &self,
        tenant: Tenant,
        changed: Arc<Subscription>,
    ) -> Result<Arc<Subscription>, ControlError> {
        self.reconciled(tenant, changed.id).await?;
        Ok(changed)
    }

    /// Waits until the partitions of the account have the newest state of the subscription.
    async fn reconciled(&self, tenant: Tenant, id: SubscriptionId) -> Result<(), ControlError> {
        if let Some(damage) = self.delivery.damage(tenant.account()) {
            // A damaged partition never confirms: waiting for it would only delay the same answer.
            return Err(ControlError::Damaged { damage, consequence: Unreadable::ChangeNotInEffect });
        }
        Ok(self.delivery.reconciled(tenant.account(), id).await?)
    }
}

fn new_subscription(settings: SubscriptionSettings) -> Result<NewSubscription, FieldViolation> {
    let SubscriptionSettings { description, sink_id, types } = settings;
    let sink = parse_id::<SinkId>("subscription.sink_id", &sink_id)?;
    Ok(NewSubscription { description, sink, types })
}

//! Deliveries: outcomes of a subscription's events.

use fanfare_catalog::Tenant;
use fanfare_delivery::SubscriptionStats;

use crate::{
    control::Control,
    error::{ControlError, Unreadable},
};

impl Control {
    /// Counts of a subscription's events by outcome, and the state of its deliveries.
    ///
    /// # Errors
    /// If the account has no such subscription, or a partition of the account is damaged or on another node.
    pub fn subscription_stats(&self, tenant: Tenant, id: &str) -> Result<SubscriptionStats, ControlError> {
        let subscription = self.subscription(tenant, id)?.subscription;
        if let Some(damage) = self.delivery.damage(tenant.account()) {
            return Err(ControlError::Damaged { damage, consequence: Unreadable::OutcomesUnknown });
        }
        Ok(self.delivery.stats(tenant.account(), subscription.id)?)
    }
}

//! The place of one partition, whether this node leads the partition or not.

use std::sync::Arc;

use fanfare_model::{AccountId, SubscriptionId};
use fanfare_partition::Partition;
use tokio::sync::watch;

use super::LeaderContext;
use crate::subscription::Subscription;

/// A partition, and its leader while this node leads the partition.
pub(crate) struct PartitionSlot {
    pub(crate) partition: Partition,
    /// None while no leader runs.
    pub(crate) leader: watch::Sender<Option<Arc<LeaderContext>>>,
    /// Incremented when a subscription is attached, changed or detached here, and when leadership begins or ends.
    pub(crate) changed: watch::Sender<u64>,
}

impl PartitionSlot {
    pub(crate) fn new(partition: Partition) -> Self {
        Self { partition, leader: watch::Sender::new(None), changed: watch::Sender::new(0) }
    }

    pub(crate) fn is_leading(&self) -> bool {
        self.leader.borrow().is_some()
    }

    /// The subscription, if this node leads the partition and the subscription is attached.
    pub(crate) fn subscription(&self, account: AccountId, id: SubscriptionId) -> Option<Arc<Subscription>> {
        self.leader.borrow().as_ref()?.subscriptions().get(account, id).cloned()
    }

    /// # Panics
    /// If a leader runs already: two would deliver the events of a key out of order.
    pub(crate) fn set_leader(&self, leader: Arc<LeaderContext>) {
        let earlier = self.leader.send_replace(Some(leader));
        assert!(earlier.is_none(), "invariant violation: two leaders deliver from one partition");
        self.notify();
    }

    pub(crate) fn remove_leader(&self) {
        self.leader.send_replace(None);
        self.notify();
    }

    pub(crate) fn notify(&self) {
        self.changed.send_modify(|version| *version += 1);
    }
}

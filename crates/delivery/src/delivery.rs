//! The handle: runs a leader for each partition that this node leads, and answers questions about deliveries.

use std::{sync::Arc, sync::OnceLock, time::Duration};

use fanfare_catalog::{Catalog, json_schema::SchemaCache};
use fanfare_cluster::{Directory, RouteError};
use fanfare_environment::Environment;
use fanfare_model::{AccountId, PartitionId, Stream, Subscription, SubscriptionId};
use fanfare_partition::{Partition, ReadError};
use fanfare_sinks::Factory;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    DeliveryOptions,
    context::{DeliveryContext, Intervals},
    dead_letters::{DeadLetter, DeadLetterError, DeadLetterPage, DeadLetterQuery, DeadLetterStream},
    leader::PartitionSlot,
    partitions::{PartitionTasks, RESTART_MAX, Slots},
    sink_pool::SinkPool,
    stats::SubscriptionStats,
};

/// Size of the pinned schemas' documents that are kept compiled.
const SCHEMA_BYTES_MAX: usize = 32 << 20;

/// Everything that deliveries depend on.
#[derive(Clone)]
pub struct DeliveryParts {
    pub catalog: Catalog,
    /// Where the partitions of `events` and `dead-letters` are.
    pub directory: Directory,
    pub sinks: Factory,
    /// Time, and the seed of the jitter.
    pub environment: Environment,
}

/// Reason why a change of a subscription is not known to be in effect.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error("partition {partition} did not confirm in time; it takes effect there later")]
    Timeout { partition: PartitionId },
    #[error("partition {partition} has no leader; it takes effect when there is one")]
    NoLeader { partition: PartitionId },
    #[error("{0}, which has not confirmed it; it takes effect there by itself")]
    NotLocal(RouteError),
    #[error(
        "partition {partition} goes on by earlier choices of types: it keeps at most 16, and takes a further one when \
         the backlog has passed one"
    )]
    Backlog { partition: PartitionId },
}

/// Runs deliveries for every partition this node leads. Cheap to clone.
#[derive(Clone)]
pub struct Delivery {
    pub(crate) context: Arc<DeliveryContext>,
    directory: Directory,
    slots: watch::Receiver<Arc<Slots>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Delivery {
    /// Starts one leader per led partition: fan-out, attachments, deliveries and retention. Partitions that the
    /// directory adds, moves or removes later are followed.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    #[must_use]
    pub fn start(parts: DeliveryParts, options: DeliveryOptions) -> Self {
        Self::start_with_intervals(parts, options, Intervals::default())
    }

    pub(crate) fn start_with_intervals(
        parts: DeliveryParts,
        options: DeliveryOptions,
        intervals: Intervals,
    ) -> Self {
        let DeliveryParts { catalog, directory, sinks, environment } = parts;
        let options = Arc::new(options);
        let context = Arc::new(DeliveryContext {
            catalog,
            dead_letters: DeadLetterStream::new(directory.clone()),
            sinks: SinkPool::new(sinks, options.clone()),
            catch_up_limiter: Arc::default(),
            schemas: Arc::new(SchemaCache::new(SCHEMA_BYTES_MAX)),
            redrive_started: Notify::new(),
            options,
            intervals,
            seed: environment.random().next_u64(),
            started: Instant::now(),
            draining: CancellationToken::new(),
            drain_until: OnceLock::new(),
        });
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let mut partitions = PartitionTasks::new(context.clone(), tasks.clone(), cancel.clone());
        let slots = partitions.slots();
        let mut locations = directory.watch();
        let now = locations.borrow_and_update().clone();
        partitions.follow(&now);
        tasks.spawn(partitions.run(locations));
        Self { context, directory, slots, tasks, cancel }
    }

    /// Waits until every partition of the account's shard has attached the subscription as it is in the catalog, or
    /// detached it if it is not there any more. Events committed after that are matched accordingly.
    ///
    /// # Errors
    /// If a partition did not within the time for it, or is on another node. The change takes effect later all the
    /// same.
    pub async fn reconciled(
        &self,
        account: AccountId,
        subscription: SubscriptionId,
    ) -> Result<(), ReconcileError> {
        let deadline = Instant::now() + Duration::from_millis(self.context.intervals.reconcile_timeout_ms);
        for partition in self.shard(account) {
            if let Err(elsewhere @ RouteError::NotLocal { .. }) = self.directory.local(partition) {
                return Err(ReconcileError::NotLocal(elsewhere));
            }
            if timeout_at(deadline, self.confirmed(partition, account, subscription)).await.is_err() {
                return Err(self.unreconciled(partition, account, subscription));
            }
        }
        Ok(())
    }

    /// True if every partition of the account's shard has what [`Self::reconciled`] waits for. A partition on another node
    /// is not known to.
    #[must_use]
    pub fn is_in_effect(&self, account: AccountId, subscription: SubscriptionId) -> bool {
        self.shard(account).into_iter().all(|partition| {
            let slot = self.slots.borrow().get(&partition).cloned();
            slot.is_some_and(|slot| self.is_reconciled(&slot, account, subscription))
        })
    }

    /// The damage of the account's partitions on this node, if there is any: events of a damaged range can be neither
    /// delivered nor accounted for.
    #[must_use]
    pub fn damage(&self, account: AccountId) -> Option<ReadError> {
        let local = |partition| self.directory.local(partition).ok();
        self.shard(account).into_iter().filter_map(local).find_map(|partition| partition.damage())
    }

    /// Outcomes over all partitions of the account.
    ///
    /// # Errors
    /// If a partition is not on this node: numbers without it would look complete.
    pub fn stats(
        &self,
        account: AccountId,
        subscription: SubscriptionId,
    ) -> Result<SubscriptionStats, RouteError> {
        let paused = self.configured(account, subscription).is_some_and(|configured| configured.paused);
        let mut stats = SubscriptionStats::default();
        for id in self.shard(account) {
            let partition = self.directory.recovered_now(id)?;
            match self.slot(&partition) {
                Some(slot) => stats.add(&slot, account, subscription, self.context.now_ms()),
                None => stats.add_replicated(&partition, subscription),
            }
        }
        stats.conclude(paused);
        Ok(stats)
    }

    /// # Errors
    /// If a partition of the stream is not on this node, or cannot be read.
    pub async fn list_dead_letters(
        &self,
        account: AccountId,
        query: DeadLetterQuery,
    ) -> Result<DeadLetterPage, DeadLetterError> {
        self.context.dead_letters.list(account, query).await
    }

    /// # Errors
    /// As [`Self::list_dead_letters`].
    pub async fn dead_letter(
        &self,
        account: AccountId,
        id: &str,
    ) -> Result<Option<DeadLetter>, DeadLetterError> {
        self.context.dead_letters.get(account, id).await
    }

    /// No new attempts; running ones end, up to `drain`; then progress is replicated and everything stops.
    pub async fn shutdown(&self, drain: Duration) {
        // The deadline of the first call holds.
        self.context.drain_until.get_or_init(|| Instant::now() + drain);
        self.context.draining.cancel();
        self.tasks.close();
        // A leader that waits for its partition does not drain by itself.
        let idle = self.slots.borrow().values().all(|slot| !slot.is_leading());
        if idle || timeout_at(Instant::now() + drain + RESTART_MAX, self.tasks.wait()).await.is_err() {
            self.cancel.cancel();
        }
        self.tasks.wait().await;
    }

    /// The partitions that the account's events go to; all, if the catalog does not know it.
    fn shard(&self, account: AccountId) -> Vec<PartitionId> {
        let view = self.context.catalog.view();
        match view.account(account) {
            Some(account) => {
                account.account.shard.partitions.iter().copied().map(PartitionId::events).collect()
            }
            None => self.directory.partitions_of(Stream::Events),
        }
    }

    /// The slot of this replica; none while its task is about to start.
    fn slot(&self, partition: &Partition) -> Option<Arc<PartitionSlot>> {
        let slot = self.slots.borrow().get(&partition.id()).cloned();
        slot.filter(|slot| slot.partition.is_same_replica(partition))
    }

    /// The subscription in the newest catalog.
    fn configured(&self, account: AccountId, subscription: SubscriptionId) -> Option<Arc<Subscription>> {
        self.context.catalog.view().account(account)?.subscriptions.get(&subscription).cloned()
    }

    /// Ends when the partition on this node has applied the newest revision of the subscription, or its deletion.
    async fn confirmed(&self, partition: PartitionId, account: AccountId, subscription: SubscriptionId) {
        let mut slots = self.slots.clone();
        loop {
            let slot = slots.borrow_and_update().get(&partition).cloned();
            let confirmed = async {
                match &slot {
                    Some(slot) => {
                        let mut changed = slot.changed.subscribe();
                        let confirmed = |_: &u64| self.is_reconciled(slot, account, subscription);
                        changed.wait_for(confirmed).await.is_ok()
                    }
                    None => false,
                }
            };
            tokio::select! {
                biased;
                true = confirmed => return,
                Ok(()) = slots.changed() => {}
                else => std::future::pending().await,
            }
        }
    }

    /// Reason why the partition has not attached the configured subscription.
    fn unreconciled(
        &self,
        partition: PartitionId,
        account: AccountId,
        subscription: SubscriptionId,
    ) -> ReconcileError {
        let slot = self.slots.borrow().get(&partition).cloned();
        let Some(slot) = slot.filter(|slot| slot.is_leading()) else {
            return ReconcileError::NoLeader { partition };
        };
        let configured = self.configured(account, subscription);
        let attached = slot.partition.attachment(subscription).map(|attachment| attachment.epoch);
        match configured {
            Some(configured) if attached == Some(configured.epoch) => ReconcileError::Backlog { partition },
            Some(_) | None => ReconcileError::Timeout { partition },
        }
    }

    /// The partition has applied the newest revision of the subscription, or its deletion. The leader takes pauses,
    /// sinks and deletions into account before it proposes the change, so that the replicated attachment answers for
    /// all of them.
    fn is_reconciled(&self, slot: &PartitionSlot, account: AccountId, subscription: SubscriptionId) -> bool {
        let configured = self.configured(account, subscription);
        match (configured, slot.partition.attachment(subscription)) {
            (Some(configured), Some(attachment)) => {
                attachment.epoch == configured.epoch && attachment.filter_revision() >= configured.revision
            }
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests;

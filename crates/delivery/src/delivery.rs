//! The handle: runs a leader for each partition that this node leads, and answers questions about deliveries.

use std::{sync::Arc, sync::OnceLock, time::Duration};

use fanfare_catalog::{Catalog, json_schema::SchemaCache};
use fanfare_environment::Clock;
use fanfare_model::{AccountId, PartitionId, Subscription, SubscriptionId, Timestamp};
use fanfare_partition::{Partition, ReadError, Role};
use fanfare_sinks::Factory;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    DeliveryOptions,
    context::{DeliveryContext, Intervals, PartitionSlot},
    dead_letters::{self, DeadLetter, DeadLetterPage, DeadLetterQuery, DeadLetterStream},
    leader::{Exit, PartitionLeader},
    sink_pool::SinkPool,
    stats::SubscriptionStats,
};

/// Size of the pinned schemas' documents that are kept compiled.
const SCHEMA_BYTES_MAX: usize = 32 << 20;
/// Pause before a leader that failed starts again, doubled up to the most.
const RESTART: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(5);

/// Everything that deliveries depend on.
#[derive(Clone)]
pub struct DeliveryParts {
    pub catalog: Catalog,
    pub events: Vec<Partition>,
    /// Partitions of the stream `dead-letters`, one or more.
    pub dead_letters: Vec<Partition>,
    pub sinks: Factory,
    pub clock: Arc<dyn Clock>,
    /// Seed of the jitter.
    pub seed: u64,
}

/// Reason why a change of a subscription is not known to be in effect.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error("partition {partition} did not confirm in time; it takes effect there later")]
    Timeout { partition: PartitionId },
    #[error("partition {partition} has no leader; it takes effect when there is one")]
    NoLeader { partition: PartitionId },
    #[error(
        "partition {partition} goes on by earlier choices of types: it keeps at most 16, and takes a further one when \
         the backlog has passed one"
    )]
    Backlog { partition: PartitionId },
}

/// Runs deliveries for every partition this node leads. Cheap to clone.
#[derive(Clone)]
pub struct Delivery {
    context: Arc<DeliveryContext>,
    slots: Arc<Vec<Arc<PartitionSlot>>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Delivery {
    /// Starts one leader per led partition: fan-out, attachments, deliveries and retention.
    ///
    /// # Panics
    /// Without a partition for dead letters, or outside a Tokio runtime.
    #[must_use]
    pub fn start(parts: DeliveryParts, options: DeliveryOptions) -> Self {
        Self::start_with_intervals(parts, options, Intervals::default())
    }

    pub(crate) fn start_with_intervals(
        parts: DeliveryParts,
        options: DeliveryOptions,
        intervals: Intervals,
    ) -> Self {
        let context = Arc::new(DeliveryContext {
            catalog: parts.catalog,
            dead_letters: DeadLetterStream::new(parts.dead_letters, options.dead_letter_bytes_max),
            sinks: SinkPool::new(parts.sinks, options.sink_concurrency),
            catch_up_limiter: Arc::default(),
            schemas: Arc::new(SchemaCache::new(SCHEMA_BYTES_MAX)),
            clock: parts.clock,
            options: Arc::new(options),
            intervals,
            seed: parts.seed,
            started: Instant::now(),
            draining: CancellationToken::new(),
            drain_until: OnceLock::new(),
        });
        let slots: Vec<_> =
            parts.events.into_iter().map(|partition| Arc::new(PartitionSlot::new(partition))).collect();
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        for slot in &slots {
            tasks.spawn(follow(context.clone(), slot.clone(), cancel.clone()));
        }
        for partition in context.dead_letters.partitions() {
            let stop = context.draining.clone();
            tasks.spawn(dead_letters::keep_trimmed(partition.clone(), intervals, stop));
        }
        Self { context, slots: Arc::new(slots), tasks, cancel }
    }

    /// Waits until every partition of the account's shard has attached the subscription as it is in the catalog, or
    /// detached it if it is not there any more. Events committed after that are matched accordingly.
    ///
    /// # Errors
    /// If a partition did not within the time for it. The change takes effect later all the same.
    pub async fn reconciled(
        &self,
        account: AccountId,
        subscription: SubscriptionId,
    ) -> Result<(), ReconcileError> {
        let deadline = Instant::now() + Duration::from_millis(self.context.intervals.reconcile_timeout_ms);
        for slot in self.shard(account) {
            let mut changed = slot.changed.subscribe();
            let confirmed = changed.wait_for(|_| self.is_reconciled(slot, account, subscription));
            if timeout_at(deadline, confirmed).await.is_err() {
                return Err(self.unreconciled(slot, account, subscription));
            }
        }
        Ok(())
    }

    /// The damage of the account's partitions, if there is any: events of a damaged range can be neither delivered nor
    /// accounted for.
    #[must_use]
    pub fn damage(&self, account: AccountId) -> Option<ReadError> {
        self.shard(account).find_map(|slot| slot.partition.damage())
    }

    #[must_use]
    pub fn stats(&self, account: AccountId, subscription: SubscriptionId) -> SubscriptionStats {
        let paused = self.configured(account, subscription).is_some_and(|configured| configured.paused);
        let mut stats = SubscriptionStats::default();
        for slot in self.shard(account) {
            stats.add(slot, account, subscription, Timestamp(self.context.clock.unix_ms()));
        }
        stats.conclude(paused);
        stats
    }

    /// # Errors
    /// If the stream cannot be read.
    pub async fn list_dead_letters(
        &self,
        account: AccountId,
        query: DeadLetterQuery,
    ) -> Result<DeadLetterPage, ReadError> {
        self.context.dead_letters.list(account, query).await
    }

    /// # Errors
    /// If the stream cannot be read.
    pub async fn dead_letter(&self, account: AccountId, id: &str) -> Result<Option<DeadLetter>, ReadError> {
        self.context.dead_letters.get(account, id).await
    }

    /// No new attempts; running ones end, up to `drain`; then progress is replicated and everything stops.
    pub async fn shutdown(&self, drain: Duration) {
        // The deadline of the first call holds.
        self.context.drain_until.get_or_init(|| Instant::now() + drain);
        self.context.draining.cancel();
        self.tasks.close();
        // A leader that waits for its partition does not drain by itself.
        let idle = self.slots.iter().all(|slot| !slot.is_leading());
        if idle || timeout_at(Instant::now() + drain + RESTART_MAX, self.tasks.wait()).await.is_err() {
            self.cancel.cancel();
        }
        self.tasks.wait().await;
    }

    /// The partitions that the account's events go to; all, if the catalog does not know it.
    fn shard(&self, account: AccountId) -> impl Iterator<Item = &Arc<PartitionSlot>> {
        let view = self.context.catalog.view();
        let shard = view.account(account).map(|account| account.account.shard.partitions.clone());
        self.slots.iter().filter(move |slot| {
            let index = slot.partition.id().index;
            shard.as_ref().is_none_or(|shard| shard.contains(&index))
        })
    }

    /// The subscription in the newest catalog.
    fn configured(&self, account: AccountId, subscription: SubscriptionId) -> Option<Arc<Subscription>> {
        self.context.catalog.view().account(account)?.subscriptions.get(&subscription).cloned()
    }

    /// Reason why the partition has not attached the configured subscription.
    fn unreconciled(
        &self,
        slot: &PartitionSlot,
        account: AccountId,
        subscription: SubscriptionId,
    ) -> ReconcileError {
        let partition = slot.partition.id();
        let configured = self.configured(account, subscription);
        let attached = slot.partition.attachment(subscription).map(|attachment| attachment.epoch);
        match configured {
            _ if !slot.is_leading() => ReconcileError::NoLeader { partition },
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

/// Runs a leader whenever this node leads the partition.
async fn follow(context: Arc<DeliveryContext>, slot: Arc<PartitionSlot>, cancel: CancellationToken) {
    let mut role = slot.partition.role();
    let mut pause = RESTART;
    loop {
        let led = async {
            let role = role.wait_for(|role| matches!(role, Role::Leader { .. })).await;
            role.ok().map(|role| *role)
        };
        let led = tokio::select! {
            () = cancel.cancelled() => return,
            () = context.draining.cancelled() => return,
            led = led => led,
        };
        let Some(Role::Leader { term }) = led else { return };
        let leader_cancel = cancel.child_token();
        let began = Instant::now();
        let leader = async {
            match PartitionLeader::new(context.clone(), slot.clone(), term, leader_cancel.clone()) {
                Ok(leader) => leader.run().await,
                Err(exit) => exit,
            }
        };
        tokio::pin!(leader);
        let exit = tokio::select! {
            exit = &mut leader => exit,
            () = lost(&mut role, term) => {
                leader_cancel.cancel();
                leader.await
            }
        };
        match exit {
            Exit::Drained => return,
            Exit::Cancelled => {}
            Exit::Failed => {
                pause =
                    if began.elapsed() > RESTART_MAX * 2 { RESTART } else { (pause * 2).min(RESTART_MAX) };
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = context.draining.cancelled() => return,
                    () = sleep(pause) => {}
                }
            }
        }
    }
}

/// Ends when this node no longer leads in `term`, or the partition has stopped.
async fn lost(role: &mut watch::Receiver<Role>, term: u64) {
    let changed = role.wait_for(|role| *role != Role::Leader { term }).await;
    drop(changed);
}

#[cfg(test)]
mod tests;

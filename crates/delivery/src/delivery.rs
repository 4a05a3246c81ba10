//! The handle: starts what runs while this node leads partitions, and answers questions about it.

use std::{sync::Arc, sync::OnceLock, time::Duration};

use fanfare_catalog::{Catalog, json_schema::SchemaCache};
use fanfare_model::{AccountId, PartitionId, Subscription, SubscriptionId};
use fanfare_partition::{Clock, Partition, ReadError, Role};
use fanfare_sinks::Factory;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    DeliveryOptions,
    context::{Lead, Node, Pace},
    dead_letter::DeadLetter,
    leader::{Ended, Scope},
    letters::{self, DeadLetterPage, DeadLetterQuery, Letters},
    sink_pool::SinkPool,
    stats::SubscriptionStats,
};

/// Documents of pinned schemas that are kept compiled.
const SCHEMA_BYTES_MAX: usize = 32 << 20;
/// Pause before a scope that failed starts again, doubled up to the most.
const RESTART: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(5);

/// What deliveries stand on.
#[derive(Clone)]
pub struct DeliveryParts {
    pub catalog: Catalog,
    pub events: Vec<Partition>,
    /// Partitions of the stream `dead-letters`, one or more.
    pub dead_letters: Vec<Partition>,
    pub sinks: Factory,
    pub clock: Arc<dyn Clock>,
    /// Of the jitter.
    pub seed: u64,
}

/// Why a change of a subscription is not known to be in effect.
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
    node: Arc<Node>,
    leads: Arc<Vec<Arc<Lead>>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Delivery {
    /// Starts one scope per led partition: fan-out, attachments, deliveries and retention.
    ///
    /// # Panics
    /// Without a partition for dead letters, or outside a Tokio runtime.
    #[must_use]
    pub fn start(parts: DeliveryParts, options: DeliveryOptions) -> Self {
        Self::start_at_pace(parts, options, Pace::default())
    }

    pub(crate) fn start_at_pace(parts: DeliveryParts, options: DeliveryOptions, pace: Pace) -> Self {
        let node = Arc::new(Node {
            catalog: parts.catalog,
            letters: Letters::new(parts.dead_letters, options.dead_letter_bytes_max),
            sinks: SinkPool::new(parts.sinks, options.sink_concurrency),
            restraint: Arc::default(),
            schemas: Arc::new(SchemaCache::new(SCHEMA_BYTES_MAX)),
            clock: parts.clock,
            options: Arc::new(options),
            pace,
            seed: parts.seed,
            draining: CancellationToken::new(),
            drain_until: OnceLock::new(),
        });
        let leads: Vec<_> =
            parts.events.into_iter().map(|partition| Arc::new(Lead::new(partition))).collect();
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        for lead in &leads {
            tasks.spawn(follow(node.clone(), lead.clone(), cancel.clone()));
        }
        for partition in node.letters.partitions() {
            let stop = node.draining.clone();
            tasks.spawn(letters::keep_trimmed(partition.clone(), pace, stop));
        }
        Self { node, leads: Arc::new(leads), tasks, cancel }
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
        let deadline = Instant::now() + Duration::from_millis(self.node.pace.reconcile_timeout_ms);
        for lead in self.shard(account) {
            let mut changed = lead.changed.subscribe();
            let confirmed = changed.wait_for(|_| self.is_reconciled(lead, account, subscription));
            if timeout_at(deadline, confirmed).await.is_err() {
                return Err(self.unreconciled(lead, account, subscription));
            }
        }
        Ok(())
    }

    /// What of the account's partitions cannot be read any more, if anything: what is there can be neither delivered
    /// nor accounted for.
    #[must_use]
    pub fn damage(&self, account: AccountId) -> Option<ReadError> {
        self.shard(account).find_map(|lead| lead.partition.damage())
    }

    #[must_use]
    pub fn stats(&self, account: AccountId, subscription: SubscriptionId) -> SubscriptionStats {
        let paused = self.wanted(account, subscription).is_some_and(|wanted| wanted.paused);
        let mut stats = SubscriptionStats::default();
        for lead in self.shard(account) {
            stats.add(lead, subscription, self.node.clock.now());
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
        self.node.letters.list(account, query).await
    }

    /// # Errors
    /// If the stream cannot be read.
    pub async fn dead_letter(&self, account: AccountId, id: &str) -> Result<Option<DeadLetter>, ReadError> {
        self.node.letters.get(account, id).await
    }

    /// No new attempts; running ones end, up to `drain`; then progress is replicated and everything stops.
    pub async fn shutdown(&self, drain: Duration) {
        // Of two calls the first one's deadline holds.
        self.node.drain_until.get_or_init(|| Instant::now() + drain);
        self.node.draining.cancel();
        self.tasks.close();
        // A scope that waits for its partition does not drain by itself.
        let idle = self.leads.iter().all(|lead| !*lead.leads.borrow());
        if idle || timeout_at(Instant::now() + drain + RESTART_MAX, self.tasks.wait()).await.is_err() {
            self.cancel.cancel();
        }
        self.tasks.wait().await;
    }

    /// The partitions that the account's events go to; all, if the catalog does not know it.
    fn shard(&self, account: AccountId) -> impl Iterator<Item = &Arc<Lead>> {
        let view = self.node.catalog.view();
        let shard = view.account(account).map(|account| account.account.shard.partitions.clone());
        self.leads.iter().filter(move |lead| {
            let index = lead.partition.id().index;
            shard.as_ref().is_none_or(|shard| shard.contains(&index))
        })
    }

    /// As it is in the newest catalog.
    fn wanted(&self, account: AccountId, subscription: SubscriptionId) -> Option<Arc<Subscription>> {
        self.node.catalog.view().account(account)?.subscriptions.get(&subscription).cloned()
    }

    /// Why the partition has not attached what is wanted.
    fn unreconciled(&self, lead: &Lead, account: AccountId, subscription: SubscriptionId) -> ReconcileError {
        let partition = lead.partition.id();
        let wanted = self.wanted(account, subscription);
        let attached = lead.cell(subscription).map(|cell| cell.epoch);
        match wanted {
            _ if !*lead.leads.borrow() => ReconcileError::NoLeader { partition },
            Some(wanted) if attached == Some(wanted.epoch) => ReconcileError::Backlog { partition },
            Some(_) | None => ReconcileError::Timeout { partition },
        }
    }

    fn is_reconciled(&self, lead: &Lead, account: AccountId, subscription: SubscriptionId) -> bool {
        if !*lead.leads.borrow() {
            return false;
        }
        let wanted = self.wanted(account, subscription);
        let cell = lead.cell(subscription);
        match (wanted, cell) {
            (Some(wanted), Some(cell)) => {
                cell.epoch == wanted.epoch && cell.lock().choices.revision() >= wanted.revision
            }
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

/// Runs a scope whenever this node leads the partition.
async fn follow(node: Arc<Node>, lead: Arc<Lead>, cancel: CancellationToken) {
    let mut role = lead.partition.role();
    let mut pause = RESTART;
    loop {
        let led = async {
            let role = role.wait_for(|role| matches!(role, Role::Leader { .. })).await;
            role.ok().map(|role| *role)
        };
        let led = tokio::select! {
            () = cancel.cancelled() => return,
            () = node.draining.cancelled() => return,
            led = led => led,
        };
        let Some(Role::Leader { term }) = led else { return };
        let scope_cancel = cancel.child_token();
        let began = Instant::now();
        let scope = async {
            match Scope::new(node.clone(), lead.clone(), term, scope_cancel.clone()) {
                Ok(scope) => scope.run().await,
                Err(ended) => ended,
            }
        };
        tokio::pin!(scope);
        let ended = tokio::select! {
            ended = &mut scope => ended,
            () = lost(&mut role, term) => {
                scope_cancel.cancel();
                scope.await
            }
        };
        match ended {
            Ended::Drained => return,
            Ended::Cancelled => {}
            Ended::Failed => {
                pause =
                    if began.elapsed() > RESTART_MAX * 2 { RESTART } else { (pause * 2).min(RESTART_MAX) };
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = node.draining.cancelled() => return,
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

//! Leads one partition: created when leadership begins, cancelled when leadership is lost.
//!
//! One loop owns the subscriptions, the fan-out and the commands to the partition, one command at a time: progress,
//! attachments and trims can never overtake each other.

mod context;
mod progress_queue;
mod slot;
mod worker;

mod advance;
mod fan_out;
mod reconcile;
mod retention;

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use fanfare_catalog::{AccountView, View};
use fanfare_model::{AccountId, Offset, SubscriptionId};
use fanfare_partition::{AccountFilter, Attachment, CommandError, Positions};
use tokio::{
    sync::watch,
    task::yield_now,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{
    advance::MATCHED_BYTES_MAX,
    fan_out::FollowedRead,
    reconcile::{Change, Changed},
    retention::Trims,
};
pub(crate) use self::{context::LeaderContext, slot::PartitionSlot};
use crate::{
    context::DeliveryContext,
    filter::{AttachedFilters, FilterIndex, FilterRecordError},
    subscription::{Subscription, state::SubscriptionState},
};

/// A frontier that moved over no matched event is replicated after this.
const FRONTIER_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct PartitionLeader {
    context: Arc<LeaderContext>,
    slot: Arc<PartitionSlot>,
    term: u64,
    index: FilterIndex<Arc<Subscription>>,
    /// The catalog as far as it was taken into account here.
    seen: BTreeMap<AccountId, Arc<AccountView>>,
    /// The newest revision of the catalog that anything was attached under.
    newest_attached: u64,
    /// The catalog has not been as new as that yet: nothing can be matched.
    awaits_catalog: bool,
    positions: watch::Receiver<Positions>,
    catalog: watch::Receiver<Arc<View>>,
    read: Option<PendingRead>,
    pipeline: ProposalPipeline,
    trims: Trims,
    draining: bool,
}

type PendingRead = Pin<Box<dyn Future<Output = FollowedRead> + Send>>;

/// Commands on their way to the partition's state machine.
struct ProposalPipeline {
    running: Option<Pin<Box<dyn Future<Output = Finished> + Send>>>,
    changes: VecDeque<Change>,
    /// Attachments change, or are about to: the fan-out waits.
    reconciling: bool,
    /// All that was matched is replicated, or about to be: an advance was begun since the fan-out waits.
    caught_up: bool,
    /// As replicated.
    frontier: Offset,
    /// Upper bound of the bytes that newly matched subscriptions add to the next advance.
    matched_bytes: usize,
    /// When progress that is not replicated began to wait.
    waiting_since: Option<Instant>,
    /// Subscriptions whose change failed, with the time of the next try. Others do not wait for it.
    postponed: BTreeMap<SubscriptionId, Instant>,
}

enum Finished {
    Advanced { frontier: Offset, subscriptions: Vec<Arc<Subscription>>, result: Result<(), CommandError> },
    Reconciled(Vec<Changed>),
    Trimmed(Result<Offset, CommandError>),
}

/// Why a leader exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Cancelled,
    Drained,
    /// Something failed that a new start from the replicated state cures, or waits out.
    Failed,
}

impl PartitionLeader {
    /// # Errors
    /// If what is attached cannot be understood.
    pub(crate) fn new(
        delivery: Arc<DeliveryContext>,
        slot: Arc<PartitionSlot>,
        term: u64,
        cancel: CancellationToken,
    ) -> Result<Self, Exit> {
        let partition = slot.partition.clone();
        let state = partition.delivery_state();
        let context = Arc::new(LeaderContext::new(delivery.clone(), partition, state.frontier, cancel));
        let mut leader = Self {
            term,
            index: FilterIndex::default(),
            seen: BTreeMap::new(),
            newest_attached: 0,
            awaits_catalog: true,
            positions: context.partition.positions(),
            catalog: delivery.catalog.watch(),
            read: None,
            pipeline: ProposalPipeline::new(state.frontier),
            trims: Trims::default(),
            draining: false,
            context,
            slot,
        };
        for (attachment, _) in &state.attachments {
            leader.add_subscription(attachment)?;
        }
        leader.take_catalog();
        Ok(leader)
    }

    pub(crate) async fn run(mut self) -> Exit {
        self.slot.set_leader(self.context.clone());
        let exit = self.drive().await;
        if exit == Exit::Failed {
            // Before the slot is free: the next leader of this term starts from the state that the command leaves.
            self.pipeline.end(&self.context.cancel).await;
        }
        self.slot.remove_leader();
        self.context.cancel.cancel();
        self.context.tasks.close();
        self.context.tasks.wait().await;
        exit
    }

    async fn drive(&mut self) -> Exit {
        let context = self.context.clone();
        let cancelled = context.cancel.cancelled();
        tokio::pin!(cancelled);
        let draining = context.delivery.draining.cancelled();
        tokio::pin!(draining);
        loop {
            self.check_retention();
            self.begin_command();
            self.start_read();
            if self.draining && self.is_drained() {
                return Exit::Drained;
            }
            let wake_at = self.wake_at();
            tokio::select! {
                biased;
                () = &mut cancelled => return Exit::Cancelled,
                finished = poll(&mut self.pipeline.running) => {
                    self.pipeline.running = None;
                    if let Err(exit) = self.finish_command(finished) {
                        return exit;
                    }
                }
                found = poll(&mut self.read) => {
                    self.read = None;
                    match &found.chunk {
                        Ok(chunk) => {
                            self.fan_out(&found, chunk);
                            // The next chunk may be at hand already, and others want to run, too.
                            yield_now().await;
                        }
                        Err(error) => {
                            tracing::error!(partition = %context.partition.id(), %error, "failed to read events for delivery; restarting the partition's delivery");
                            return Exit::Failed;
                        }
                    }
                }
                changed = self.catalog.changed() => match changed {
                    Ok(()) => self.take_catalog(),
                    Err(_catalog_stopped) => return Exit::Failed,
                },
                changed = self.positions.changed() => if changed.is_err() {
                    return Exit::Failed;
                },
                () = context.progress.notified() => {}
                () = &mut draining, if !self.draining => self.drain(),
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {}
            }
        }
    }

    fn start_read(&mut self) {
        let fan_out_offset = self.context.fan_out_offset();
        let end = self.positions.borrow_and_update().high_watermark;
        let full = self.pipeline.matched_bytes >= MATCHED_BYTES_MAX;
        let waits = full || self.pipeline.reconciling || self.awaits_catalog || self.draining;
        if self.read.is_some() || waits || fan_out_offset >= end {
            return;
        }
        let partition = self.context.partition.clone();
        let bytes_max = self.context.delivery.options.fanout_chunk_bytes;
        let followed = self.index.followed().clone();
        self.read = Some(Box::pin(async move {
            FollowedRead {
                chunk: partition.read(fan_out_offset, AccountFilter::Set(followed.clone()), bytes_max).await,
                followed,
            }
        }));
    }

    fn begin_command(&mut self) {
        if self.pipeline.running.is_some() {
            return;
        }
        let changes = !self.draining && self.pipeline.has_due_changes(Instant::now());
        // An attachment takes effect at an offset that the fan-out must not have passed when it learns of it.
        self.pipeline.reconciling = changes;
        self.pipeline.caught_up &= changes;
        let due = self.advance_is_due();
        let ready = changes && self.read.is_none();
        let owed = ready && self.owes_progress();
        if ready && !owed {
            self.begin_reconciling();
        } else if due || owed {
            self.pipeline.caught_up |= ready;
            self.begin_advance();
        } else if !changes {
            self.begin_trim();
        }
    }

    fn finish_command(&mut self, finished: Finished) -> Result<(), Exit> {
        match finished {
            Finished::Advanced { frontier, subscriptions, result } => {
                self.advanced(frontier, &subscriptions, result)
            }
            Finished::Reconciled(changes) => self.reconciled(changes),
            Finished::Trimmed(result) => self.trimmed(result),
        }
    }

    /// When to look again if nothing happens.
    fn wake_at(&self) -> Option<Instant> {
        let drain_until = self.context.delivery.drain_until.get().copied().filter(|_| self.draining);
        let idle = self.pipeline.running.is_none();
        let retry_at = self.pipeline.postponed.values().copied().min().filter(|_| idle);
        let advance_at = self.advance_at().filter(|_| idle);
        let retention_at = Some(self.trims.next_check());
        [drain_until, retry_at, advance_at, retention_at].into_iter().flatten().min()
    }

    fn drain(&mut self) {
        self.draining = true;
        self.read = None;
        for subscription in self.context.subscriptions().iter() {
            subscription.wake.notify_one();
        }
    }

    /// Nothing is under way and all progress is replicated, or it takes too long.
    fn is_drained(&self) -> bool {
        let late = self.context.delivery.drain_until.get().is_none_or(|until| *until <= Instant::now());
        let idle = self.pipeline.running.is_none()
            && self.context.progress.is_empty()
            && self.context.subscriptions().iter().all(|subscription| {
                let machine = &subscription.lock().machine;
                // The actions of a detached subscription were aborted.
                machine.is_detached() || machine.busy() == 0
            });
        idle || late
    }

    fn add_subscription(&mut self, attachment: &Attachment) -> Result<(), Exit> {
        let options = self.context.delivery.options.clone();
        let (counters, record) = self.context.partition.progress(attachment.subscription).unwrap_or_default();
        let values = self.context.input_values();
        let machine = SubscriptionState::restore(options, attachment, counters, record, values);
        let filters = AttachedFilters::of(attachment).map_err(|error| self.unreadable(attachment, &error))?;
        let Attachment { subscription: id, account, epoch, .. } = *attachment;
        self.newest_attached = self.newest_attached.max(epoch).max(attachment.filter_revision());
        let subscription = Subscription::new(id, account, epoch, machine, filters);
        self.context.change_subscriptions(|subscriptions| subscriptions.insert(subscription));
        Ok(())
    }

    fn unreadable(&self, attachment: &Attachment, error: &FilterRecordError) -> Exit {
        let (partition, subscription) = (self.context.partition.id(), attachment.subscription);
        tracing::error!(
            %partition, %subscription, %error,
            "failed to decode the filter of a subscription; restarting the partition's delivery"
        );
        Exit::Failed
    }
}

impl ProposalPipeline {
    fn new(frontier: Offset) -> Self {
        Self {
            running: None,
            changes: VecDeque::new(),
            reconciling: false,
            caught_up: false,
            frontier,
            matched_bytes: 0,
            waiting_since: None,
            postponed: BTreeMap::new(),
        }
    }

    /// True if a change need not wait; forgets what was postponed until `now`.
    fn has_due_changes(&mut self, now: Instant) -> bool {
        self.postponed.retain(|_, at| *at > now);
        self.due_changes().next().is_some()
    }

    fn due_changes(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| !self.postponed.contains_key(&change.subscription()))
    }

    /// The first due changes, `count` at most.
    fn take_due_changes(&mut self, count: usize) -> Vec<Change> {
        let Self { changes, postponed, .. } = self;
        let mut due = Vec::new();
        changes.retain(|change| {
            let is_taken = due.len() < count && !postponed.contains_key(&change.subscription());
            if is_taken {
                due.push(change.clone());
            }
            !is_taken
        });
        due
    }

    fn check_advance(&self, frontier: Offset) {
        let before = self.frontier;
        assert!(
            frontier >= before,
            "invariant violation: the frontier goes back from {before} to {frontier}"
        );
    }

    fn check_trim(&self, log_start: Offset) {
        let frontier = self.frontier;
        assert!(
            log_start <= frontier,
            "invariant violation: the log is trimmed to {log_start}, and matched to {frontier}"
        );
    }

    /// Waits for the command under way, whatever becomes of it: the next leader of the same term must not read the
    /// state before it is applied, and repeat what it did.
    async fn end(&mut self, cancel: &CancellationToken) {
        if let Some(command) = self.running.take() {
            cancel.run_until_cancelled(command).await;
        }
    }
}

/// The future's outcome; never, if there is none.
async fn poll<T>(future: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    fn running() -> (ProposalPipeline, oneshot::Sender<()>) {
        let (applied, is_applied) = oneshot::channel();
        let mut commands = ProposalPipeline::new(Offset::ZERO);
        commands.running = Some(Box::pin(async move {
            is_applied.await.expect("the test says when it is applied");
            Finished::Trimmed(Ok(Offset::ZERO))
        }));
        (commands, applied)
    }

    #[tokio::test]
    async fn a_scope_that_failed_ends_after_its_command_or_when_it_is_cancelled() {
        let cancel = CancellationToken::new();
        let (mut commands, applied) = running();
        let mut end = Box::pin(commands.end(&cancel));
        assert!((&mut end).now_or_never().is_none(), "the command is under way");
        applied.send(()).unwrap();
        end.await;
        let (mut commands, _never_applied) = running();
        cancel.cancel();
        commands.end(&cancel).await;
    }
}

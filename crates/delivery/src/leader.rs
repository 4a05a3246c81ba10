//! What this node does while it leads a partition: created when leadership begins, cancelled when it is lost.
//!
//! One loop owns the fan-out and the commands to the partition, one command at a time: progress, attachments and
//! trims can never overtake each other.

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
    fan_out::{Found, Index},
    reconcile::{Change, Changed},
    retention::Trims,
};
use crate::{
    context::{Lead, Node},
    spec::{ChoiceError, Choices},
    subscription::state::Flight,
    subscription::{Cell, Ground},
};

type Cells = BTreeMap<AccountId, BTreeMap<SubscriptionId, Arc<Cell>>>;

/// A frontier that moved over nothing that was matched is replicated after this.
const FRONTIER_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct Scope {
    ground: Arc<Ground>,
    lead: Arc<Lead>,
    term: u64,
    index: Index,
    cells: Cells,
    /// The catalog as far as it was taken into account here.
    seen: BTreeMap<AccountId, Arc<AccountView>>,
    /// The newest revision of the catalog that anything was attached under.
    newest_attached: u64,
    /// The catalog has not been as new as that yet: nothing can be matched.
    awaits_catalog: bool,
    positions: watch::Receiver<Positions>,
    catalog: watch::Receiver<Arc<View>>,
    reading: Option<Reading>,
    commands: Commands,
    trims: Trims,
    draining: bool,
}

type Reading = Pin<Box<dyn Future<Output = Found> + Send>>;

/// What goes to the partition's state machine.
struct Commands {
    running: Option<Pin<Box<dyn Future<Output = Finished> + Send>>>,
    changes: VecDeque<Change>,
    /// Attachments change, or are about to: the fan-out waits.
    reconciling: bool,
    /// All that was matched is replicated, or about to be: an advance was begun since the fan-out waits.
    caught_up: bool,
    /// As replicated.
    frontier: Offset,
    /// What the next advance has to carry of newly matched subscriptions, at most.
    matched_bytes: usize,
    /// When progress that is not replicated began to wait.
    waiting_since: Option<Instant>,
    retry_at: Option<Instant>,
}

enum Finished {
    Advanced { frontier: Offset, cells: Vec<Arc<Cell>>, result: Result<(), CommandError> },
    Reconciled(Vec<Changed>),
    Trimmed(Result<Offset, CommandError>),
}

/// Why a scope ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Cancelled,
    Drained,
    /// Something failed that a new start from the replicated state cures, or waits out.
    Failed,
}

impl Scope {
    /// # Errors
    /// If what is attached cannot be understood.
    pub(crate) fn new(
        node: Arc<Node>,
        lead: Arc<Lead>,
        term: u64,
        cancel: CancellationToken,
    ) -> Result<Self, Ended> {
        let partition = lead.partition.clone();
        let state = partition.delivery_state();
        let ground = Arc::new(Ground::new(node.clone(), partition, state.frontier, cancel));
        let mut scope = Self {
            term,
            index: Index::default(),
            cells: BTreeMap::new(),
            seen: BTreeMap::new(),
            newest_attached: 0,
            awaits_catalog: true,
            positions: ground.partition.positions(),
            catalog: node.catalog.watch(),
            reading: None,
            commands: Commands::new(state.frontier),
            trims: Trims::default(),
            draining: false,
            ground,
            lead,
        };
        for (attachment, _) in &state.attachments {
            scope.add_cell(attachment).inspect_err(|_| scope.lead.cells.write().clear())?;
        }
        scope.take_catalog();
        Ok(scope)
    }

    pub(crate) async fn run(mut self) -> Ended {
        self.lead.leads.send_replace(true);
        self.lead.bump();
        let ended = self.drive().await;
        if ended == Ended::Failed {
            self.commands.end(&self.ground.cancel).await;
        }
        self.lead.leads.send_replace(false);
        self.lead.bump();
        self.ground.cancel.cancel();
        self.ground.tasks.close();
        self.ground.tasks.wait().await;
        self.lead.cells.write().clear();
        ended
    }

    async fn drive(&mut self) -> Ended {
        let ground = self.ground.clone();
        let cancelled = ground.cancel.cancelled();
        tokio::pin!(cancelled);
        let draining = ground.node.draining.cancelled();
        tokio::pin!(draining);
        loop {
            self.check_retention();
            self.begin_command();
            self.begin_reading();
            if self.draining && self.is_drained() {
                return Ended::Drained;
            }
            let wake_at = self.wake_at();
            tokio::select! {
                biased;
                () = &mut cancelled => return Ended::Cancelled,
                finished = poll(&mut self.commands.running) => {
                    self.commands.running = None;
                    if let Err(ended) = self.finish_command(finished) {
                        return ended;
                    }
                }
                found = poll(&mut self.reading) => {
                    self.reading = None;
                    match &found.chunk {
                        Ok(chunk) => {
                            self.fan_out(&found, chunk);
                            // The next chunk may be at hand already, and others want to run, too.
                            yield_now().await;
                        }
                        Err(error) => {
                            tracing::error!(partition = %ground.partition.id(), %error, "read events to deliver");
                            return Ended::Failed;
                        }
                    }
                }
                changed = self.catalog.changed() => match changed {
                    Ok(()) => self.take_catalog(),
                    Err(_catalog_stopped) => return Ended::Failed,
                },
                changed = self.positions.changed() => if changed.is_err() {
                    return Ended::Failed;
                },
                () = ground.wake.notified() => {}
                () = &mut draining, if !self.draining => self.drain(),
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {}
            }
        }
    }

    fn begin_reading(&mut self) {
        let front = self.ground.front();
        let end = self.positions.borrow_and_update().high_watermark;
        let full = self.commands.matched_bytes >= MATCHED_BYTES_MAX;
        let waits = full || self.commands.reconciling || self.awaits_catalog || self.draining;
        if self.reading.is_some() || waits || front >= end {
            return;
        }
        let partition = self.ground.partition.clone();
        let bytes_max = self.ground.node.options.fanout_chunk_bytes;
        let followed = self.index.followed().clone();
        self.reading = Some(Box::pin(async move {
            Found {
                chunk: partition.read(front, AccountFilter::Set(followed.clone()), bytes_max).await,
                followed,
            }
        }));
    }

    fn begin_command(&mut self) {
        if self.commands.running.is_some() {
            return;
        }
        self.commands.retry_at = self.commands.retry_at.filter(|at| *at > Instant::now());
        let waits = self.commands.retry_at.is_some() || self.draining;
        let changes = !waits && !self.commands.changes.is_empty();
        // An attachment takes effect at an offset that the fan-out must not have passed when it learns of it.
        self.commands.reconciling = changes;
        self.commands.caught_up &= changes;
        let due = self.advance_is_due();
        let ready = changes && self.reading.is_none();
        let owed = ready && self.owes_progress();
        if ready && !owed {
            self.begin_reconciling();
        } else if due || owed {
            self.commands.caught_up |= ready;
            self.begin_advance();
        } else if !changes {
            self.begin_trim();
        }
    }

    fn finish_command(&mut self, finished: Finished) -> Result<(), Ended> {
        match finished {
            Finished::Advanced { frontier, cells, result } => self.advanced(frontier, &cells, result),
            Finished::Reconciled(changes) => self.reconciled(changes),
            Finished::Trimmed(result) => self.trimmed(result),
        }
    }

    /// When to look again if nothing happens.
    fn wake_at(&self) -> Option<Instant> {
        let drain_until = self.ground.node.drain_until.get().copied().filter(|_| self.draining);
        let idle = self.commands.running.is_none();
        let retry_at = self.commands.retry_at.filter(|_| idle);
        let advance_at = self.advance_at().filter(|_| idle);
        let retention_at = Some(self.trims.next_check());
        [drain_until, retry_at, advance_at, retention_at].into_iter().flatten().min()
    }

    fn drain(&mut self) {
        self.draining = true;
        self.reading = None;
        for cell in self.lead.cells.read().values() {
            cell.wake.notify_one();
        }
    }

    /// Nothing is under way and all progress is replicated, or it takes too long.
    fn is_drained(&self) -> bool {
        let late = self.ground.node.drain_until.get().is_none_or(|until| *until <= Instant::now());
        let idle = self.commands.running.is_none()
            && !self.ground.is_dirty()
            && self.lead.cells.read().values().all(|cell| {
                let state = cell.lock();
                // What ran for one that is gone was aborted.
                state.gone || state.flight.busy() == 0
            });
        idle || late
    }

    fn add_cell(&mut self, attachment: &Attachment) -> Result<(), Ended> {
        let options = self.ground.node.options.clone();
        let state = self.ground.partition.counters(attachment.subscription).unwrap_or_default();
        let flight = Flight::restore(options, attachment, state, self.ground.moment());
        let ids = (attachment.subscription, attachment.account, attachment.epoch);
        let choices = Choices::of(attachment).map_err(|error| self.unreadable(attachment, error))?;
        let cell = Cell::new(ids, flight, choices);
        self.newest_attached = self.newest_attached.max(attachment.epoch).max(attachment.filter_revision());
        self.cells.entry(attachment.account).or_default().insert(attachment.subscription, cell.clone());
        self.lead.cells.write().insert(attachment.subscription, cell);
        Ok(())
    }

    fn unreadable(&self, attachment: &Attachment, error: ChoiceError) -> Ended {
        let (partition, subscription) = (self.ground.partition.id(), attachment.subscription);
        tracing::error!(%partition, %subscription, %error, "read what a subscription chooses");
        Ended::Failed
    }
}

impl Commands {
    fn new(frontier: Offset) -> Self {
        Self {
            running: None,
            changes: VecDeque::new(),
            reconciling: false,
            caught_up: false,
            frontier,
            matched_bytes: 0,
            waiting_since: None,
            retry_at: None,
        }
    }

    /// Waits for the command under way, whatever becomes of it: the next scope of the same term must not read the
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

fn cell_of(cells: &Cells, account: AccountId, subscription: SubscriptionId) -> Option<&Arc<Cell>> {
    cells.get(&account)?.get(&subscription)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    fn running() -> (Commands, oneshot::Sender<()>) {
        let (applied, is_applied) = oneshot::channel();
        let mut commands = Commands::new(Offset::ZERO);
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

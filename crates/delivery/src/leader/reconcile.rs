//! Makes what is attached here equal to what the catalog wants: attaches, re-attaches, detaches.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use fanfare_catalog::{AccountView, View};
use fanfare_model::{AccountId, Offset, SubscriptionId};
use fanfare_partition::{Attach, Attachment, CommandError, Partition, Reason, Refusal};
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::{Ended, Finished, Scope, cell_of, fan_out::Wish};
use crate::{
    schema_pin::Pin,
    spec::{Choice, Specs},
    subscription::Cell,
    worker::ensure_running,
};

/// Attachments under way at once.
const CHANGES_AT_ONCE: usize = 64;
const RETRY: Duration = Duration::from_secs(1);

/// A command that brings the partition nearer to the catalog.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Attach(Attach),
    Detach { subscription: SubscriptionId, account: AccountId, epoch: u64 },
}

pub(super) struct Changed {
    change: Change,
    result: Result<Option<Attachment>, CommandError>,
}

impl Scope {
    /// Takes up what changed in the catalog: pauses and sinks at once, the rest as commands.
    pub(super) fn take_catalog(&mut self) {
        let view = self.catalog.borrow_and_update().clone();
        if !self.is_as_new_as_attachments(&view) {
            return;
        }
        self.awaits_catalog = false;
        let known = self.cells.keys().chain(self.seen.keys());
        let gone: BTreeSet<_> =
            known.filter(|account| !view.accounts.contains_key(account)).copied().collect();
        for account in gone {
            self.seen.remove(&account);
            self.take_account(account, None);
        }
        for (account, next) in &view.accounts {
            if self.seen.get(account).is_some_and(|seen| Arc::ptr_eq(seen, next)) {
                continue;
            }
            let earlier = self.seen.insert(*account, next.clone());
            for id in earlier.iter().flat_map(|earlier| earlier.sinks.keys()) {
                if !next.sinks.contains_key(id) {
                    self.ground.node.sinks.forget(*id);
                }
            }
            self.take_account(*account, Some(next));
        }
        self.lead.bump();
    }

    /// Whether something has to be replicated before the next changes, while the fan-out waits: what was matched by
    /// the choices that change, and what subscriptions that end have settled. One advance does it; what others settle
    /// meanwhile is not waited for, that may never cease.
    pub(super) fn owes_progress(&self) -> bool {
        if !self.commands.caught_up && self.ground.is_dirty() {
            return true;
        }
        self.commands.changes.iter().take(CHANGES_AT_ONCE).any(|change| {
            let cell = cell_of(&self.cells, change.account(), change.subscription());
            cell.is_some_and(|cell| {
                let state = cell.lock();
                state.gone && state.dirty
            })
        })
    }

    pub(super) fn begin_reconciling(&mut self) {
        let count = self.commands.changes.len().min(CHANGES_AT_ONCE);
        let changes: Vec<_> = self.commands.changes.drain(..count).collect();
        let partition = self.ground.partition.clone();
        self.commands.running = Some(Box::pin(async move {
            let apply = |change| apply(partition.clone(), change);
            Finished::Reconciled(stream::iter(changes).map(apply).buffered(CHANGES_AT_ONCE).collect().await)
        }));
    }

    pub(super) fn reconciled(&mut self, changes: Vec<Changed>) -> Result<(), Ended> {
        self.commands.reconciling = false;
        let mut accounts = BTreeSet::new();
        for Changed { change, result } in changes {
            match (change, result) {
                (Change::Attach(attach), Ok(Some(attachment))) => {
                    accounts.insert(attach.account);
                    self.attached(&attachment)?;
                }
                (Change::Detach { subscription, account, .. }, Ok(_)) => {
                    accounts.insert(account);
                    self.detached(subscription, account);
                }
                (change, Err(CommandError::Refused(refusal))) => {
                    let (partition, subscription) = (self.ground.partition.id(), change.subscription());
                    if refusal == Refusal::Filter {
                        tracing::warn!(%partition, %subscription, "a change of types waits for the backlog");
                    } else {
                        tracing::error!(%partition, ?change, %refusal, "attach or detach a subscription");
                    }
                    accounts.insert(change.account());
                    self.commands.retry_at = Some(Instant::now() + RETRY);
                }
                // It concerns this subscription alone.
                (change, Err(CommandError::Unreadable(error))) => {
                    let (partition, subscription) = (self.ground.partition.id(), change.subscription());
                    tracing::warn!(%partition, %subscription, %error, "look for where a subscription starts");
                    accounts.insert(change.account());
                    self.commands.retry_at = Some(Instant::now() + RETRY);
                }
                (_, Err(_)) | (Change::Attach(_), Ok(None)) => return Err(Ended::Failed),
            }
        }
        for account in accounts {
            let view = self.seen.get(&account).cloned();
            self.take_account(account, view.as_ref());
        }
        self.lead.bump();
        Ok(())
    }

    /// A leader acts only on a catalog that knows everything it has attached.
    fn is_as_new_as_attachments(&self, view: &View) -> bool {
        let enough = self.newest_attached <= view.revision;
        if !enough {
            let partition = self.ground.partition.id();
            tracing::warn!(%partition, revision = view.revision, "the catalog is older than the attachments; waiting");
        }
        enough
    }

    /// Makes cells, index and pending changes of one account fit its view.
    fn take_account(&mut self, account: AccountId, view: Option<&Arc<AccountView>>) {
        self.commands.changes.retain(|change| change.account() != account);
        let here = self.ground.partition.id().index;
        let view = view.filter(|view| view.account.shard.partitions.contains(&here));
        let cells = self.cells.entry(account).or_default().clone();
        for (id, cell) in &cells {
            let Some((subscription, view)) = view.and_then(|view| Some((view.subscriptions.get(id)?, view)))
            else {
                self.retire(cell);
                continue;
            };
            if cell.epoch < subscription.epoch {
                // What is pending is cancelled when the new epoch is attached.
                end(cell);
                self.commands.changes.push_back(Change::attach(subscription));
                continue;
            }
            self.equip(cell, subscription, view);
            if cell.lock().choices.revision() < subscription.revision {
                self.commands.changes.push_back(Change::attach(subscription));
            }
        }
        for (id, subscription) in view.into_iter().flat_map(|view| &view.subscriptions) {
            if !cells.contains_key(id) {
                self.commands.changes.push_back(Change::attach(subscription));
            }
        }
        let front = self.ground.front();
        self.index.replace(account, cells.values().filter_map(|cell| wishes(cell, front)));
        if cells.is_empty() {
            self.cells.remove(&account);
        }
    }

    /// Gives the subscription its sink and what its pins need. Its choice of types is what is attached.
    fn equip(&self, cell: &Arc<Cell>, subscription: &fanfare_model::Subscription, view: &AccountView) {
        let sink = view.sinks.get(&subscription.sink).map(|sink| self.ground.node.sinks.get(sink));
        let mut state = cell.lock();
        let state = &mut *state;
        state.flight.set_paused(subscription.paused);
        let same = match (&state.sink, &sink) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !same {
            state.sink = sink;
            let now_ms = self.ground.moment().now_ms;
            state.flight.sink_changed(now_ms);
        }
        state.specs = Some(Arc::new(Specs::new(&state.choices, view, &self.ground.node.schemas)));
        if state.running || !state.flight.is_done() {
            ensure_running(&self.ground, cell, &mut state.running);
        }
    }

    /// Deleted: nothing starts any more, what runs is aborted, what was settled is counted before it is detached.
    fn retire(&mut self, cell: &Arc<Cell>) {
        end(cell);
        let Cell { subscription, account, epoch, .. } = **cell;
        self.commands.changes.push_back(Change::Detach { subscription, account, epoch });
    }

    fn attached(&mut self, attachment: &Attachment) -> Result<(), Ended> {
        let known = cell_of(&self.cells, attachment.account, attachment.subscription);
        if let Some(cell) = known.filter(|cell| cell.epoch == attachment.epoch) {
            let front = self.ground.front();
            let mut state = cell.lock();
            let needed = state.flight.low_water().map_or(front, |oldest| oldest.min(front));
            let changed = state.choices.change(attachment, needed);
            self.newest_attached = self.newest_attached.max(attachment.filter_revision());
            return changed.map_err(|error| self.unreadable(attachment, error));
        }
        if let Some(earlier) = known {
            end(earlier);
        }
        self.add_cell(attachment)
    }

    fn detached(&mut self, subscription: SubscriptionId, account: AccountId) {
        if let Some(cells) = self.cells.get_mut(&account) {
            cells.remove(&subscription);
        }
        self.lead.cells.write().remove(&subscription);
    }
}

impl Change {
    fn attach(subscription: &fanfare_model::Subscription) -> Self {
        Self::Attach(Attach {
            subscription: subscription.id,
            account: subscription.account,
            epoch: subscription.epoch,
            filter_revision: subscription.revision,
            filter: Choice::of(subscription).encode(),
            start: subscription.start,
        })
    }

    fn subscription(&self) -> SubscriptionId {
        match self {
            Self::Attach(attach) => attach.subscription,
            Self::Detach { subscription, .. } => *subscription,
        }
    }

    fn account(&self) -> AccountId {
        match self {
            Self::Attach(attach) => attach.account,
            Self::Detach { account, .. } => *account,
        }
    }
}

/// By event type.
type Wishes = Vec<(String, Wish)>;

/// What the subscription wants of the events from `front` on, for the index.
fn wishes(cell: &Arc<Cell>, front: Offset) -> Option<(Arc<Cell>, Wishes)> {
    let state = cell.lock();
    let specs = state.specs.as_ref().filter(|_| !state.gone)?;
    let wishes = specs.from(front).flat_map(|(span, spec)| {
        let wish = move |pin: Option<&Arc<Pin>>| Wish { span: span.clone(), pin: pin.cloned() };
        spec.types().map(move |(event_type, pin)| (event_type.to_owned(), wish(pin)))
    });
    Some((cell.clone(), wishes.collect()))
}

/// Nothing of it starts any more, and what runs is aborted.
fn end(cell: &Cell) {
    let mut state = cell.lock();
    state.gone = true;
    if state.running {
        cell.wake.notify_one();
    }
}

async fn apply(partition: Partition, change: Change) -> Changed {
    let result = match &change {
        Change::Attach(attach) => partition.attach(attach.clone()).await.map(Some),
        Change::Detach { subscription, epoch, .. } => {
            partition.detach(*subscription, *epoch, Reason::Deleted).await.map(|()| None)
        }
    };
    Changed { change, result }
}

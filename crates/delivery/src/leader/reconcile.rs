//! Makes what is attached here equal to what the catalog wants: attaches, re-attaches, detaches.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use fanfare_catalog::{AccountView, View};
use fanfare_model::{AccountId, SubscriptionId};
use fanfare_partition::{Attach, Attachment, CommandError, Partition, Reason, Refusal};
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::{Exit, Finished, PartitionLeader};
use crate::{
    filter::{FilterHistory, FilterRecord},
    subscription::{Subscription, event::SubscriptionEvent},
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

impl PartitionLeader {
    /// Takes up what changed in the catalog: pauses and sinks at once, the rest as commands.
    pub(super) fn take_catalog(&mut self) {
        let view = self.catalog.borrow_and_update().clone();
        if !self.is_as_new_as_attachments(&view) {
            return;
        }
        self.awaits_catalog = false;
        let ended: BTreeSet<_> = {
            let subscriptions = self.context.subscriptions();
            let accounts = subscriptions.accounts().chain(self.seen.keys());
            accounts.filter(|account| !view.accounts.contains_key(account)).copied().collect()
        };
        for account in ended {
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
                    self.context.delivery.sinks.remove(*id);
                }
            }
            self.take_account(*account, Some(next));
        }
        self.slot.notify();
    }

    /// Progress has to be replicated before the next changes, while the fan-out waits: matches by the filters that
    /// change, and settlements of subscriptions that end. One advance does it; settlements of other subscriptions are
    /// not waited for, as they may never cease.
    pub(super) fn owes_progress(&self) -> bool {
        if !self.pipeline.caught_up && !self.context.progress.is_empty() {
            return true;
        }
        let subscriptions = self.context.subscriptions();
        self.pipeline.due_changes().take(CHANGES_AT_ONCE).any(|change| {
            subscriptions.get(change.account(), change.subscription()).is_some_and(|subscription| {
                let locked = subscription.lock();
                locked.machine.is_detached() && locked.progress_queued
            })
        })
    }

    pub(super) fn begin_reconciling(&mut self) {
        let changes = self.pipeline.take_due_changes(CHANGES_AT_ONCE);
        let partition = self.context.partition.clone();
        self.pipeline.running = Some(Box::pin(async move {
            let apply = |change| apply(partition.clone(), change);
            Finished::Reconciled(stream::iter(changes).map(apply).buffered(CHANGES_AT_ONCE).collect().await)
        }));
    }

    pub(super) fn reconciled(&mut self, changes: Vec<Changed>) -> Result<(), Exit> {
        self.pipeline.reconciling = false;
        let mut accounts = BTreeSet::new();
        for Changed { change, result } in changes {
            match (change, result) {
                (Change::Attach(attach), Ok(Some(attachment))) => {
                    accounts.insert(attach.account);
                    self.attached(&attachment)?;
                }
                (Change::Detach { subscription, account, .. }, Ok(_)) => {
                    accounts.insert(account);
                    self.on_detached(subscription, account);
                }
                (change, Err(CommandError::Refused(refusal))) => {
                    let (partition, subscription) = (self.context.partition.id(), change.subscription());
                    if refusal == Refusal::Filter {
                        tracing::warn!(%partition, %subscription, "the partition keeps too many filters of the subscription; a change of types waits for the backlog");
                    } else {
                        tracing::error!(%partition, ?change, %refusal, "a change of a subscription was refused; retrying in a second");
                    }
                    accounts.insert(change.account());
                    self.pipeline.postponed.insert(subscription, Instant::now() + RETRY);
                }
                // It concerns this subscription alone.
                (change, Err(CommandError::Unreadable(error))) => {
                    let (partition, subscription) = (self.context.partition.id(), change.subscription());
                    tracing::warn!(%partition, %subscription, %error, "failed to find the start of a subscription; retrying in a second");
                    accounts.insert(change.account());
                    self.pipeline.postponed.insert(subscription, Instant::now() + RETRY);
                }
                (_, Err(_)) | (Change::Attach(_), Ok(None)) => return Err(Exit::Failed),
            }
        }
        for account in accounts {
            let view = self.seen.get(&account).cloned();
            self.take_account(account, view.as_ref());
        }
        self.slot.notify();
        Ok(())
    }

    /// A leader acts only on a catalog that knows everything it has attached.
    fn is_as_new_as_attachments(&self, view: &View) -> bool {
        let enough = self.newest_attached <= view.revision;
        if !enough {
            let partition = self.context.partition.id();
            tracing::warn!(%partition, revision = view.revision, "the catalog is older than the attachments; waiting");
        }
        enough
    }

    /// Makes subscriptions, index and pending changes of one account fit its view.
    fn take_account(&mut self, account: AccountId, view: Option<&Arc<AccountView>>) {
        self.pipeline.changes.retain(|change| change.account() != account);
        let here = self.context.partition.id().index;
        let view = view.filter(|view| view.account.shard.partitions.contains(&here));
        let subscriptions = self.context.subscriptions().of_account(account);
        for subscription in &subscriptions {
            let configured = view.and_then(|view| Some((view.subscriptions.get(&subscription.id)?, view)));
            let Some((config, view)) = configured else {
                self.retire(subscription);
                continue;
            };
            if subscription.epoch < config.epoch {
                // Pending events are cancelled when the new epoch is attached.
                self.detach(subscription);
                self.pipeline.changes.push_back(Change::attach(config));
                continue;
            }
            self.equip(subscription, config, view);
            if subscription.lock().attached_filters.revision() < config.revision {
                self.pipeline.changes.push_back(Change::attach(config));
            }
        }
        for (id, config) in view.into_iter().flat_map(|view| &view.subscriptions) {
            if self.context.subscriptions().get(account, *id).is_none() {
                self.pipeline.changes.push_back(Change::attach(config));
            }
        }
    }

    /// Gives the subscription its sink and its filters: the attached ones, with the schemas of their pins.
    fn equip(
        &mut self,
        subscription: &Arc<Subscription>,
        config: &fanfare_model::Subscription,
        view: &AccountView,
    ) {
        let sink = view.sinks.get(&config.sink).map(|sink| self.context.delivery.sinks.get(sink));
        let mut locked = subscription.lock();
        let same_sink = match (&locked.sink, &sink) {
            (Some(old), Some(new)) => Arc::ptr_eq(&old.breaker, &new.breaker),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        locked.sink = sink;
        let is_current =
            locked.filters.as_ref().is_some_and(|filters| filters.is_current(&locked.attached_filters, view));
        if !is_current {
            let schemas = &self.context.delivery.schemas;
            let filters = Arc::new(FilterHistory::new(&locked.attached_filters, view, schemas));
            let needed = filters.from(self.context.fan_out_offset());
            self.index.insert(subscription.account, subscription.id, subscription.clone(), needed);
            locked.filters = Some(filters);
        }
        if locked.machine.is_detached() {
            self.index.remove(subscription.account, subscription.id);
        }
        self.context.update_locked(subscription, &mut locked, |machine, inputs, actions| {
            machine.on(SubscriptionEvent::PauseChanged { paused: config.paused }, inputs, actions);
            if !same_sink {
                machine.on(SubscriptionEvent::SinkChanged, inputs, actions);
            }
        });
    }

    /// Deleted: nothing starts any more, running actions are aborted, and settled events are counted before the
    /// subscription is detached.
    fn retire(&mut self, subscription: &Arc<Subscription>) {
        self.detach(subscription);
        let Subscription { id: subscription, account, epoch, .. } = **subscription;
        self.pipeline.changes.push_back(Change::Detach { subscription, account, epoch });
    }

    /// Nothing of the subscription starts any more, and running actions are aborted.
    fn detach(&mut self, subscription: &Arc<Subscription>) {
        self.index.remove(subscription.account, subscription.id);
        self.context.update(subscription, |machine, inputs, actions| {
            machine.on(SubscriptionEvent::Detached, inputs, actions);
        });
    }

    fn attached(&mut self, attachment: &Attachment) -> Result<(), Exit> {
        let attached = self.context.subscriptions().get(attachment.account, attachment.subscription).cloned();
        if let Some(subscription) = &attached {
            if subscription.epoch == attachment.epoch {
                let fan_out_offset = self.context.fan_out_offset();
                let mut locked = subscription.lock();
                let needed =
                    locked.machine.low_water().map_or(fan_out_offset, |oldest| oldest.min(fan_out_offset));
                let changed = locked.attached_filters.change(attachment, needed);
                self.newest_attached = self.newest_attached.max(attachment.filter_revision());
                return changed.map_err(|error| self.unreadable(attachment, &error));
            }
            subscription.check_replaced_by(attachment.epoch);
            self.detach(subscription);
        }
        self.add_subscription(attachment)
    }

    fn on_detached(&mut self, subscription: SubscriptionId, account: AccountId) {
        self.index.remove(account, subscription);
        self.context.change_subscriptions(|subscriptions| subscriptions.remove(account, subscription));
    }
}

impl Change {
    fn attach(config: &fanfare_model::Subscription) -> Self {
        Self::Attach(Attach {
            subscription: config.id,
            account: config.account,
            epoch: config.epoch,
            filter_revision: config.revision,
            filter: FilterRecord::of(config).encode(),
            start: config.start,
        })
    }

    pub(super) fn subscription(&self) -> SubscriptionId {
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

async fn apply(partition: Partition, change: Change) -> Changed {
    let result = match &change {
        Change::Attach(attach) => partition.attach(attach.clone()).await.map(Some),
        Change::Detach { subscription, epoch, .. } => {
            partition.detach(*subscription, *epoch, Reason::Deleted).await.map(|()| None)
        }
    };
    Changed { change, result }
}

//! Shared by the leader of a partition and the workers of its subscriptions.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use fanfare_model::{AccountId, Offset, SubscriptionId};
use fanfare_partition::Partition;
use parking_lot::{RwLock, RwLockReadGuard};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{progress_queue::ProgressQueue, worker};
use crate::{
    context::DeliveryContext,
    filter::SchemaPin,
    subscription::{
        InputValues, Locked, Subscription,
        buffered_event::SchemaCheck,
        event::{Actions, Inputs},
        state::SubscriptionState,
    },
};

/// The subscriptions attached to a partition.
#[derive(Default)]
pub(crate) struct SubscriptionMap {
    accounts: BTreeMap<AccountId, BTreeMap<SubscriptionId, Arc<Subscription>>>,
}

pub(crate) struct LeaderContext {
    pub(crate) delivery: Arc<DeliveryContext>,
    pub(crate) partition: Partition,
    pub(crate) tasks: TaskTracker,
    /// Leadership is lost, or the leader starts again.
    pub(crate) cancel: CancellationToken,
    pub(crate) progress: ProgressQueue,
    /// Below it an event may have a dead letter whose advance was never committed: at first the high watermark when this
    /// leadership began, as an earlier leader may have written it.
    letters_below: AtomicU64,
    /// Changed by the leader alone.
    subscriptions: RwLock<SubscriptionMap>,
    fan_out_offset: AtomicU64,
    draws: AtomicU64,
}

impl SubscriptionMap {
    pub(super) fn insert(&mut self, subscription: Arc<Subscription>) {
        self.accounts.entry(subscription.account).or_default().insert(subscription.id, subscription);
    }

    pub(super) fn remove(&mut self, account: AccountId, id: SubscriptionId) {
        if let Some(subscriptions) = self.accounts.get_mut(&account) {
            subscriptions.remove(&id);
            if subscriptions.is_empty() {
                self.accounts.remove(&account);
            }
        }
    }

    pub(crate) fn get(&self, account: AccountId, id: SubscriptionId) -> Option<&Arc<Subscription>> {
        self.accounts.get(&account)?.get(&id)
    }

    pub(super) fn of_account(&self, account: AccountId) -> Vec<Arc<Subscription>> {
        self.accounts.get(&account).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    pub(super) fn accounts(&self) -> impl Iterator<Item = &AccountId> {
        self.accounts.keys()
    }

    /// In order of account and id.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Subscription>> {
        self.accounts.values().flat_map(BTreeMap::values)
    }
}

impl LeaderContext {
    pub(crate) fn new(
        delivery: Arc<DeliveryContext>,
        partition: Partition,
        fan_out_offset: Offset,
        cancel: CancellationToken,
    ) -> Self {
        let letters_below = AtomicU64::new(partition.positions().borrow().high_watermark.0);
        let draws = AtomicU64::new(delivery.seed.rotate_left(u32::from(partition.id().index)));
        Self {
            delivery,
            partition,
            tasks: TaskTracker::new(),
            cancel,
            progress: ProgressQueue::default(),
            letters_below,
            subscriptions: RwLock::default(),
            fan_out_offset: AtomicU64::new(fan_out_offset.0),
            draws,
        }
    }

    pub(crate) fn subscriptions(&self) -> RwLockReadGuard<'_, SubscriptionMap> {
        self.subscriptions.read()
    }

    /// For the leader.
    pub(super) fn change_subscriptions(&self, change: impl FnOnce(&mut SubscriptionMap)) {
        change(&mut self.subscriptions.write());
    }

    /// The event may have a dead letter although it is not settled: the stream is asked before an attempt.
    pub(crate) fn may_have_letter(&self, offset: Offset) -> bool {
        offset.0 < self.letters_below.load(Ordering::SeqCst)
    }

    /// The check of an event that the fan-out matched.
    pub(super) fn check_of(&self, offset: Offset, pin: Option<Arc<SchemaPin>>) -> SchemaCheck {
        if self.may_have_letter(offset) { SchemaCheck::of_inherited(pin) } else { SchemaCheck::of(pin) }
    }

    /// A dead letter of the event may have been written; nobody knows.
    pub(super) fn set_may_have_letter(&self, offset: Offset) {
        self.letters_below.fetch_max(offset.plus(1).0, Ordering::SeqCst);
    }

    /// The oldest event that a subscription still needs whose account keeps within its share of the log: another
    /// account's flood does not take the event away.
    pub(super) fn protected_from(&self) -> Option<Offset> {
        let subscriptions = self.subscriptions();
        let needed = subscriptions.iter().filter_map(|subscription| {
            let oldest = subscription.lock().machine.low_water()?;
            (!self.partition.is_over_share(subscription.account)).then_some(oldest)
        });
        needed.min()
    }

    pub(crate) fn fan_out_offset(&self) -> Offset {
        Offset(self.fan_out_offset.load(Ordering::SeqCst))
    }

    /// Publishes the fan-out position. Must be called *before* events below it are handed over: a subscription that
    /// falls behind on one of them reads the log up to this position, and would otherwise rejoin the fan-out without
    /// having read the event.
    pub(super) fn set_fan_out_offset(&self, fan_out_offset: Offset) {
        let before = self.fan_out_offset.swap(fan_out_offset.0, Ordering::SeqCst);
        assert!(
            before <= fan_out_offset.0,
            "invariant violation: the fan-out goes back from {before} to {fan_out_offset}"
        );
    }

    /// Changes the state machine of a subscription, wakes its worker if the change gives it something to do, and
    /// queues the progress. For everyone but the worker.
    pub(crate) fn update<R>(
        self: &Arc<Self>,
        subscription: &Arc<Subscription>,
        change: impl FnOnce(&mut SubscriptionState, &mut Inputs<'_>, &mut Actions) -> R,
    ) -> R {
        let mut locked = subscription.lock();
        self.update_locked(subscription, &mut locked, change)
    }

    /// Like [`Self::update`], under the lock of the subscription.
    pub(crate) fn update_locked<R>(
        self: &Arc<Self>,
        subscription: &Arc<Subscription>,
        locked: &mut Locked,
        change: impl FnOnce(&mut SubscriptionState, &mut Inputs<'_>, &mut Actions) -> R,
    ) -> R {
        let mut actions = Actions::default();
        let result = locked.run(self.input_values(), &mut actions, change);
        debug_assert!(actions.work.is_empty(), "only the worker runs actions");
        if actions.run_worker {
            if locked.worker_runs {
                subscription.wake.notify_one();
            } else if !locked.machine.is_detached() {
                locked.worker_runs = true;
                worker::spawn(self, subscription);
            }
        }
        if actions.progressed {
            self.progress.push(subscription, locked);
        }
        result
    }

    /// Changes the state machine for its worker, which runs the actions.
    pub(crate) fn update_for_worker(
        &self,
        subscription: &Arc<Subscription>,
        actions: &mut Actions,
        change: impl FnOnce(&mut SubscriptionState, &mut Inputs<'_>, &mut Actions),
    ) {
        let mut locked = subscription.lock();
        locked.run(self.input_values(), actions, change);
        if std::mem::take(&mut actions.progressed) {
            self.progress.push(subscription, &mut locked);
        }
    }

    pub(crate) fn input_values(&self) -> InputValues {
        let (now_ms, fan_out_offset) = (self.delivery.now_ms(), self.fan_out_offset());
        InputValues { now_ms, fan_out_offset, random: self.random() }
    }

    /// `SplitMix64`: a counter that is stirred.
    fn random(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self.draws.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

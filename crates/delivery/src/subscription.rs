//! One subscription in one partition: the state machine behind its lock, and what its worker needs.
//!
//! The lock is held briefly and never across an await. [`crate::leader::LeaderContext::update`] is the way in.

pub(crate) mod buffered_event;
pub(crate) mod event;
pub(crate) mod state;
pub(crate) mod window;

mod dead_letter_queue;
mod key_queue;
mod log_position;
mod parked_keys;

mod action;
mod attempt;
mod counters;
mod cursor;
mod outcome;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use fanfare_model::{AccountId, Offset, SubscriptionId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use self::{
    event::{Actions, Inputs},
    state::SubscriptionState,
};
use crate::{
    filter::{AttachedFilters, FilterHistory},
    judgement::CircuitBreaker,
    sink_pool::OpenSink,
};

/// Looks for dead letters from before, for each event of a window and for each parked key.
const LETTER_LOOKS: usize = 3;

pub(crate) struct Subscription {
    pub(crate) id: SubscriptionId,
    pub(crate) account: AccountId,
    pub(crate) epoch: u64,
    /// Wakes the worker.
    pub(crate) wake: Notify,
    /// Events whose dead letters are still looked for.
    letter_looks: AtomicUsize,
    locked: Mutex<Locked>,
}

pub(crate) struct Locked {
    pub(crate) machine: SubscriptionState,
    pub(crate) attached_filters: AttachedFilters,
    /// None until the catalog is known: before, nothing can be matched or read again.
    pub(crate) filters: Option<Arc<FilterHistory>>,
    /// None while the catalog does not know the subscription.
    pub(crate) sink: Option<Arc<OpenSink>>,
    pub(crate) worker_runs: bool,
    /// The subscription is in the leader's progress queue.
    pub(crate) progress_queued: bool,
}

impl Subscription {
    pub(crate) fn new(
        id: SubscriptionId,
        account: AccountId,
        epoch: u64,
        machine: SubscriptionState,
        attached_filters: AttachedFilters,
    ) -> Arc<Self> {
        let letter_looks =
            AtomicUsize::new(LETTER_LOOKS * (machine.options.window_events + machine.parked_keys()));
        let locked = Locked {
            machine,
            attached_filters,
            filters: None,
            sink: None,
            worker_runs: false,
            progress_queued: false,
        };
        Arc::new(Self { id, account, epoch, wake: Notify::new(), letter_looks, locked: Mutex::new(locked) })
    }

    /// An earlier leader wrote dead letters without replicating that only for events of its window, those that it took in
    /// since its last advance among them, and for the first events of parked keys: no backlog of millions is looked up,
    /// and no event again and again.
    pub(crate) fn take_letter_look(&self) -> bool {
        let left = |looks: usize| looks.checked_sub(1);
        self.letter_looks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok()
    }

    /// One more event may have a dead letter.
    pub(crate) fn add_letter_look(&self) {
        self.letter_looks.fetch_add(2, Ordering::Relaxed);
    }

    /// # Panics
    /// If the epoch is not a later one: progress of this one would count again.
    pub(crate) fn check_replaced_by(&self, epoch: u64) {
        let (id, own) = (self.id, self.epoch);
        assert!(epoch > own, "invariant violation: epoch {epoch} of subscription {id} replaces epoch {own}");
    }

    /// For looking. Changes of the machine go through [`crate::leader::LeaderContext::update`], which wakes worker and
    /// leader.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Locked> {
        self.locked.lock()
    }
}

/// Values from outside at one moment: the inputs of a state machine but for the circuit breaker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InputValues {
    /// Monotonic.
    pub(crate) now_ms: u64,
    pub(crate) fan_out_offset: Offset,
    pub(crate) random: u64,
}

impl Locked {
    /// Runs a change of the machine with these values and the circuit breaker of the sink.
    pub(crate) fn run<R>(
        &mut self,
        values: InputValues,
        actions: &mut Actions,
        change: impl FnOnce(&mut SubscriptionState, &mut Inputs<'_>, &mut Actions) -> R,
    ) -> R {
        let InputValues { now_ms, fan_out_offset, random } = values;
        let mut without_sink = CircuitBreaker::new(usize::MAX);
        let mut shared = self.sink.as_ref().map(|sink| sink.breaker.lock());
        let breaker: &mut CircuitBreaker = match &mut shared {
            Some(guard) => guard,
            None => &mut without_sink,
        };
        let of_node;
        let retry = match &self.sink {
            Some(sink) => &sink.retry,
            None => {
                of_node = self.machine.options.clone();
                &of_node.retry
            }
        };
        let mut inputs = Inputs { now_ms, fan_out_offset, random, breaker, retry };
        change(&mut self.machine, &mut inputs, actions)
    }
}

//! One subscription in one partition, shared by the fan-out, its task, the advance and whoever asks for stats.
//!
//! The lock is held for moments and never across an await.

pub(crate) mod state;
pub(crate) mod window;

mod key_queue;
mod parked_keys;

mod action;
mod attempt;
mod catch_up;
mod counters;
mod cursor;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use fanfare_model::{AccountId, Offset, SubscriptionId};
use fanfare_partition::Partition;
use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    context::Node,
    sink_pool::OpenSink,
    spec::{Choices, Specs},
    subscription::state::{Flight, Moment},
};

pub(crate) struct Cell {
    pub(crate) subscription: SubscriptionId,
    pub(crate) account: AccountId,
    pub(crate) epoch: u64,
    /// Wakes the task.
    pub(crate) wake: Notify,
    state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) flight: Flight,
    /// As attached.
    pub(crate) choices: Choices,
    /// None until the catalog is known: nothing can be matched before, nor read again.
    pub(crate) specs: Option<Arc<Specs>>,
    /// None while the catalog does not know the subscription.
    pub(crate) sink: Option<Arc<OpenSink>>,
    /// A task works on it.
    pub(crate) running: bool,
    /// It is in the scope's list of what the next advance has to carry.
    pub(crate) dirty: bool,
    /// Deleted: nothing may be attempted any more.
    pub(crate) gone: bool,
}

impl Cell {
    pub(crate) fn new(ids: (SubscriptionId, AccountId, u64), flight: Flight, choices: Choices) -> Arc<Self> {
        let (subscription, account, epoch) = ids;
        let state =
            State { flight, choices, specs: None, sink: None, running: false, dirty: false, gone: false };
        Arc::new(Self { subscription, account, epoch, wake: Notify::new(), state: Mutex::new(state) })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// What a leader's tasks in one partition share.
pub(crate) struct Ground {
    pub(crate) node: Arc<Node>,
    pub(crate) partition: Partition,
    pub(crate) tasks: TaskTracker,
    /// Leadership is lost, or the scope starts again.
    pub(crate) cancel: CancellationToken,
    /// Wakes the scope.
    pub(crate) wake: Notify,
    /// Half of some window waits for replication.
    pub(crate) urgent: AtomicBool,
    front: AtomicU64,
    /// What lies below it may have been settled before and not replicated as that.
    pub(crate) known_to: Offset,
    /// In the order of their waiting.
    dirty: Mutex<VecDeque<Arc<Cell>>>,
    started: Instant,
    draws: AtomicU64,
}

impl Ground {
    pub(crate) fn new(
        node: Arc<Node>,
        partition: Partition,
        front: Offset,
        cancel: CancellationToken,
    ) -> Self {
        let known_to = partition.positions().borrow().high_watermark;
        let draws = AtomicU64::new(node.seed.rotate_left(u32::from(partition.id().index)));
        Self {
            node,
            partition,
            tasks: TaskTracker::new(),
            cancel,
            wake: Notify::new(),
            urgent: AtomicBool::new(false),
            front: AtomicU64::new(front.0),
            known_to,
            dirty: Mutex::default(),
            started: Instant::now(),
            draws,
        }
    }

    pub(crate) fn front(&self) -> Offset {
        Offset(self.front.load(Ordering::SeqCst))
    }

    /// The fan-out takes charge of everything below `front`. Comes before it hands the first of these events over, so
    /// that who reads by itself reads them too.
    pub(crate) fn claim(&self, front: Offset) {
        self.front.store(front.0, Ordering::SeqCst);
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment { now_ms: self.now_ms(), front: self.front(), random: self.random() }
    }

    pub(crate) fn at(&self, now_ms: u64) -> Instant {
        self.started + std::time::Duration::from_millis(now_ms)
    }

    /// The cell has something to replicate.
    pub(crate) fn touch(&self, cell: &Arc<Cell>, state: &mut State) {
        let urgent = state.flight.wants_advance() && !self.urgent.swap(true, Ordering::SeqCst);
        let first = !state.dirty && {
            state.dirty = true;
            let mut dirty = self.dirty.lock();
            dirty.push_back(cell.clone());
            dirty.len() == 1
        };
        if first || urgent {
            self.wake.notify_one();
        }
    }

    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.lock().is_empty()
    }

    pub(crate) fn take_dirty(&self) -> VecDeque<Arc<Cell>> {
        std::mem::take(&mut self.dirty.lock())
    }

    /// Those who found no room in the advance that is begun are first in the next one, which follows at once.
    pub(crate) fn put_back(&self, mut waiting: VecDeque<Arc<Cell>>) {
        let mut dirty = self.dirty.lock();
        waiting.append(&mut dirty);
        *dirty = waiting;
        self.urgent.store(true, Ordering::SeqCst);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).expect("a process runs for less than eons")
    }

    /// SplitMix64: a counter that is stirred.
    fn random(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self.draws.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

//! Subscriptions with progress to replicate, in the order of their waiting.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::subscription::{Locked, Subscription};

#[derive(Default)]
pub(crate) struct ProgressQueue {
    waiting: Mutex<VecDeque<Arc<Subscription>>>,
    /// The next advance is not to wait for its interval.
    urgent: AtomicBool,
    /// Wakes the leader.
    wake: Notify,
}

impl ProgressQueue {
    /// Queues the subscription, unless it is queued. Wakes the leader for the first one, and when half of a window
    /// waits for replication.
    pub(crate) fn push(&self, subscription: &Arc<Subscription>, locked: &mut Locked) {
        let newly_urgent = locked.machine.needs_advance() && !self.urgent.swap(true, Ordering::SeqCst);
        let first = !std::mem::replace(&mut locked.progress_queued, true) && {
            let mut waiting = self.waiting.lock();
            waiting.push_back(subscription.clone());
            waiting.len() == 1
        };
        if first || newly_urgent {
            self.wake.notify_one();
        }
    }

    pub(crate) fn take(&self) -> VecDeque<Arc<Subscription>> {
        self.urgent.store(false, Ordering::SeqCst);
        std::mem::take(&mut self.waiting.lock())
    }

    /// Subscriptions that found no room in an advance are first in the next one, which follows at once.
    pub(crate) fn put_back(&self, mut unfit: VecDeque<Arc<Subscription>>) {
        let mut waiting = self.waiting.lock();
        unfit.append(&mut waiting);
        *waiting = unfit;
        self.urgent.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.lock().is_empty()
    }

    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::SeqCst)
    }

    pub(crate) fn wake_leader(&self) {
        self.wake.notify_one();
    }

    pub(crate) async fn notified(&self) {
        self.wake.notified().await;
    }
}

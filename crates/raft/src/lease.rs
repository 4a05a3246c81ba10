//! The time until which a leader may act without asking anybody.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use openraft::{
    async_runtime::{Instant, watch::WatchReceiver},
    metrics::RaftDataMetrics,
    type_config::alias::{InstantOf, WatchReceiverOf},
};

use crate::{apply::Adapter, entry::Types};

/// Share of the lease that voters grant after which a leader stops acting: the rest is for clocks that run apart and
/// for an action that was just begun.
const SAFE_PERCENT: u32 = 80;

/// The right of a leader to act, as it stands at each moment. Cheap to clone and to ask.
///
/// A voter that answers a leader's message elects nobody else for `election_max_ms` from then on. So a leader may act
/// for 80 % of that after it *sent* the last message that a quorum answered. A sole voter needs nobody's answer.
#[derive(Clone)]
pub struct LeaderLease {
    metrics: WatchReceiverOf<Types, RaftDataMetrics<Types>>,
    is_sole_voter: Arc<AtomicBool>,
    refusals: LeaseRefusals,
    duration: Duration,
}

/// Counts proposals that were refused because of the lease alone.
#[derive(Clone, Default)]
pub(crate) struct LeaseRefusals(Arc<AtomicU64>);

impl LeaseRefusals {
    pub(crate) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The end of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseEnd {
    /// No quorum has answered this replica as a leader.
    Never,
    At(InstantOf<Types>),
    /// The replica leads as its group's only voter.
    Unlimited,
}

impl LeaderLease {
    /// `granted` is the time that voters grant.
    pub(crate) fn new(raft: &openraft::Raft<Types, Adapter>, granted: Duration) -> Self {
        let duration = granted * SAFE_PERCENT / 100;
        let (is_sole_voter, refusals) = (Arc::default(), LeaseRefusals::default());
        Self { metrics: raft.data_metrics(), is_sole_voter, refusals, duration }
    }

    /// True if this replica leads and may act now. To be asked right before each action.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        match self.end() {
            LeaseEnd::Never => false,
            LeaseEnd::At(end) => InstantOf::<Types>::now() < end,
            LeaseEnd::Unlimited => true,
        }
    }

    /// Waits until the lease is valid. Of a replica that no longer leads, for ever.
    pub async fn valid(&mut self) {
        while !self.is_valid() {
            if self.metrics.changed().await.is_err() {
                // The engine is gone.
                return std::future::pending().await;
            }
        }
    }

    /// Number of proposals that this replica refused because it heard no quorum, though nobody else was known to lead.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refusals.0.load(Ordering::Relaxed)
    }

    pub(crate) fn counter(&self) -> &LeaseRefusals {
        &self.refusals
    }

    pub(crate) fn set_sole_voter(&self, is_sole_voter: bool) {
        self.is_sole_voter.store(is_sole_voter, Ordering::Release);
    }

    pub(crate) fn end(&self) -> LeaseEnd {
        // First, so that a group of one never looks at the engine's metrics.
        if self.is_sole_voter.load(Ordering::Acquire) {
            return LeaseEnd::Unlimited;
        }
        let answered = self.metrics.borrow_watched().last_quorum_acked;
        answered.map_or(LeaseEnd::Never, |sent| LeaseEnd::At(sent.into_inner() + self.duration))
    }
}

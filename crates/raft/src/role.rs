//! The role of a replica, as the rest of the node watches it.

use std::collections::BTreeSet;

use openraft::{
    ServerState,
    async_runtime::{AsyncRuntime, watch::WatchReceiver},
    errors::Fatal,
    metrics::RaftServerMetrics,
    type_config::alias::InstantOf,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    apply::Adapter,
    entry::{LeaderId, Types, voters},
    id::{Identity, ReplicaId},
    lease::{LeaderLease, LeaseEnd},
    runtime::GroupRuntime,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// No leader known, or this replica is starting or was shut down.
    Unknown,
    Follower {
        leader: ReplicaId,
    },
    /// Leads in `term`, and the blank entry of that term is applied: it may act while its [`LeaderLease`] is valid.
    Leader {
        term: u64,
    },
    /// Was elected in `term` and has not heard from a quorum for so long that another may lead. It takes no proposals
    /// and must not act. It is the leader of the same term again when a quorum answers.
    LeaseExpired {
        term: u64,
    },
    /// Stopped for good; see the process's log.
    Failed,
}

impl Role {
    /// The term in which this replica was elected and not replaced as far as it knows, whether it may act or not.
    #[must_use]
    pub fn elected_term(self) -> Option<u64> {
        match self {
            Self::Leader { term } | Self::LeaseExpired { term } => Some(term),
            Self::Unknown | Self::Follower { .. } | Self::Failed => None,
        }
    }
}

/// Derives the role from openraft's state, from what was applied, and from the lease.
pub(crate) struct RoleTask {
    pub(crate) raft: openraft::Raft<Types, Adapter>,
    pub(crate) identity: Identity,
    pub(crate) applied_leader: watch::Receiver<Option<LeaderId>>,
    pub(crate) lease: LeaderLease,
    pub(crate) role: watch::Sender<Role>,
    pub(crate) stop: CancellationToken,
}

impl RoleTask {
    pub(crate) async fn run(mut self) {
        let mut server = self.raft.server_metrics();
        loop {
            let metrics = server.borrow_and_update().clone();
            let role = self.role_of(&metrics);
            self.publish(role);
            let expires_at = match (role, self.lease.end()) {
                (Role::Leader { .. }, LeaseEnd::At(end)) => Some(end),
                _ => None,
            };
            let expired = matches!(role, Role::LeaseExpired { .. });
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    self.lease.set_sole_voter(false);
                    return self.publish(Role::Unknown);
                }
                changed = server.changed() => if changed.is_err() { return self.finish() },
                changed = self.applied_leader.changed() => if changed.is_err() { return self.finish() },
                // Mostly renewed by then, which is looked at once per lease and not once per answer.
                () = passes(expires_at) => {}
                () = self.lease.valid(), if expired => {}
            }
        }
    }

    fn role_of(&mut self, metrics: &RaftServerMetrics<Types>) -> Role {
        let applied = *self.applied_leader.borrow_and_update();
        let own = self.identity.replica.0;
        let leading = metrics.state == ServerState::Leader && metrics.vote.committed;
        let members = metrics.membership_config.membership();
        self.lease.set_sole_voter(leading && voters(members) == BTreeSet::from([own]));
        if leading && applied == Some(metrics.vote.leader_id) {
            let term = metrics.vote.leader_id.term;
            return if self.lease.is_valid() { Role::Leader { term } } else { Role::LeaseExpired { term } };
        }
        match metrics.current_leader {
            Some(leader) if leader != own => Role::Follower { leader: ReplicaId(leader) },
            _ => Role::Unknown,
        }
    }

    fn publish(&self, role: Role) {
        let mut former = role;
        self.role.send_if_modified(|current| {
            former = std::mem::replace(current, role);
            former != role
        });
        let Identity { group, replica } = self.identity;
        match (former, role) {
            (Role::Leader { .. }, Role::LeaseExpired { term }) => tracing::warn!(
                %group, %replica, term,
                "no quorum answers this leader; it takes no proposals and pauses until one does"
            ),
            (Role::LeaseExpired { .. }, Role::Leader { term }) => tracing::info!(
                %group, %replica, term, refused = self.lease.refusals(),
                "a quorum answers this leader again; it goes on"
            ),
            _ => (),
        }
    }

    /// The engine is gone without having been asked to go.
    fn finish(&self) {
        let state = self.raft.metrics().borrow_watched().running_state.clone();
        match state {
            Err(Fatal::Stopped) | Ok(()) if self.stop.is_cancelled() => self.publish(Role::Unknown),
            state => {
                let reason = state.err().map_or_else(String::new, |fatal| fatal.to_string());
                let Identity { group, replica } = self.identity;
                tracing::error!(
                    %group, %replica, reason,
                    "group failed; this replica neither votes nor applies until the node is restarted"
                );
                self.publish(Role::Failed);
            }
        }
    }
}

/// Ends at `time`; never, if there is none.
async fn passes(time: Option<InstantOf<Types>>) {
    match time {
        Some(time) => GroupRuntime::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

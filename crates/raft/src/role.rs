//! The role of a replica, as the rest of the node watches it.

use openraft::{ServerState, async_runtime::watch::WatchReceiver, errors::Fatal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    apply::Adapter,
    entry::{LeaderId, Types},
    id::ReplicaId,
    replica::Identity,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// No leader known, or this replica is starting or was shut down.
    Unknown,
    Follower {
        leader: ReplicaId,
    },
    /// Leads in `term`, and the blank entry of that term is applied: it may act.
    Leader {
        term: u64,
    },
    /// Stopped for good; see the process's log.
    Failed,
}

/// Derives the role from openraft's state and from what was applied.
pub(crate) struct RoleTask {
    pub(crate) raft: openraft::Raft<Types, Adapter>,
    pub(crate) identity: Identity,
    pub(crate) applied_leader: watch::Receiver<Option<LeaderId>>,
    pub(crate) role: watch::Sender<Role>,
    pub(crate) stop: CancellationToken,
}

impl RoleTask {
    pub(crate) async fn run(mut self) {
        let mut server = self.raft.server_metrics();
        loop {
            let metrics = server.borrow_watched().clone();
            let applied = *self.applied_leader.borrow_and_update();
            let leading = metrics.state == ServerState::Leader && metrics.vote.committed;
            let role = if leading && applied == Some(metrics.vote.leader_id) {
                Role::Leader { term: metrics.vote.leader_id.term }
            } else {
                match metrics.current_leader {
                    Some(leader) if leader != self.identity.replica.0 => {
                        Role::Follower { leader: ReplicaId(leader) }
                    }
                    _ => Role::Unknown,
                }
            };
            self.publish(role);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return self.publish(Role::Unknown),
                changed = server.changed() => if changed.is_err() { return self.finish() },
                changed = self.applied_leader.changed() => if changed.is_err() { return self.finish() },
            }
        }
    }

    fn publish(&self, role: Role) {
        self.role.send_if_modified(|current| std::mem::replace(current, role) != role);
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

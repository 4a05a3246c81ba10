//! What a replica may do, as others watch it.

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::apply::Adapter;
use crate::entry::{LeaderId, Types};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// No leader known, or this replica is starting or was shut down.
    Unknown,
    Follower {
        leader: u64,
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
    pub(crate) replica: u64,
    pub(crate) group: String,
    pub(crate) applied_leader: watch::Receiver<Option<LeaderId>>,
    pub(crate) role: watch::Sender<Role>,
    pub(crate) stop: CancellationToken,
}

impl RoleTask {
    pub(crate) async fn run(mut self) {
        let mut server = self.raft.server_metrics();
        loop {
            let seen = server.borrow_watched().clone();
            let applied = *self.applied_leader.borrow_and_update();
            let leading = seen.state == ServerState::Leader && seen.vote.committed;
            let role = if leading && applied == Some(seen.vote.leader_id) {
                Role::Leader { term: seen.vote.leader_id.term }
            } else {
                match seen.current_leader {
                    Some(leader) if leader != self.replica => Role::Follower { leader },
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
        self.role.send_if_modified(|known| std::mem::replace(known, role) != role);
    }

    /// The engine is gone without having been asked to go.
    fn finish(&self) {
        let state = self.raft.metrics().borrow_watched().running_state.clone();
        match state {
            Err(Fatal::Stopped) | Ok(()) if self.stop.is_cancelled() => self.publish(Role::Unknown),
            state => {
                let reason = state.err().map_or_else(String::new, |fatal| fatal.to_string());
                tracing::error!(group = %self.group, replica = self.replica, reason, "group stopped for good");
                self.publish(Role::Failed);
            }
        }
    }
}

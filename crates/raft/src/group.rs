//! The handle of one Raft group on this node: proposing, reading, membership, shutdown.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fanfare_log::Log;
use openraft::{
    ChangeMembers,
    errors::{InitializeError, RaftError},
};
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::{
    entry::NodeAddress,
    error::{MembershipError, OpenError, ProposeError},
    failure::GroupFailure,
    host::Host,
    id::{GroupId, Identity, ReplicaId},
    lease::LeaderLease,
    machine::{Proposal, StateMachine, is_application},
    options::GroupOptions,
    proposal::PendingProposal,
    replica::Replica,
    role::Role,
};

/// A replica and where it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub replica: ReplicaId,
    pub node: u64,
    pub address: String,
}

/// One Raft group of this node. Cheap to clone.
pub struct Group<S: StateMachine> {
    machine: Arc<RwLock<S>>,
    replica: Arc<Replica>,
}

impl<S: StateMachine> Clone for Group<S> {
    fn clone(&self) -> Self {
        Self { machine: self.machine.clone(), replica: self.replica.clone() }
    }
}

impl<S: StateMachine> Group<S> {
    /// Recovers machine and log of one replica and starts its tasks. Does not wait for a leader, but a group whose
    /// only voter is this replica has begun to elect it. `log` is the log named after `group`, opened for `replica`.
    ///
    /// # Errors
    /// If checkpoint or log are damaged, do not fit each other, or cannot be read.
    ///
    /// # Panics
    /// If the group is open on this host already.
    pub async fn open(
        host: &Host,
        group: GroupId,
        replica: ReplicaId,
        log: Log,
        machine: S,
        options: GroupOptions,
    ) -> Result<Self, OpenError> {
        let machine = Arc::new(RwLock::new(machine));
        let replica = Replica::open(host, Identity { group, replica }, log, machine.clone(), options).await?;
        Ok(Self { machine, replica: Arc::new(replica) })
    }

    /// First start of a new group: makes `founders` its voters. Does nothing if the group has a log already.
    ///
    /// # Errors
    /// If the group has stopped.
    ///
    /// # Panics
    /// If this replica is not one of `founders`.
    pub async fn initialize(&self, founders: Vec<Member>) -> Result<(), ProposeError> {
        let founders: BTreeMap<u64, NodeAddress> = founders.into_iter().map(Member::into_node).collect();
        let own = self.replica.identity.replica;
        assert!(founders.contains_key(&own.0), "a replica initializes only a group that it is a member of");
        match self.replica.raft.initialize(founders).await {
            // The engine campaigns by itself; a second campaign would make the answers to the first one void.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotInMembers(_)) | RaftError::Fatal(_)) => {
                Err(ProposeError::Stopped)
            }
        }
    }

    /// Hands a proposal to Raft, bound to `term`. Proposals handed over by one task keep their order.
    /// Bounded: waits while too many are in flight.
    ///
    /// # Errors
    /// If this replica does not lead in `term`, or the cluster's format version is too low; the proposal is then
    /// certainly not applied.
    ///
    /// # Panics
    /// If the proposal's kind is 0 or 255.
    pub async fn propose(
        &self,
        term: u64,
        proposal: Proposal,
    ) -> Result<PendingProposal<S::Reply>, ProposeError> {
        assert!(is_application(proposal.kind), "kinds 0 and 255 are not the proposer's");
        self.replica.check_format(S::format_version(&proposal))?;
        self.replica.propose(term, proposal).await
    }

    #[must_use]
    pub fn role(&self) -> watch::Receiver<Role> {
        self.replica.role.clone()
    }

    /// The lease to look at right before each action of a leader. The role follows it within a moment.
    #[must_use]
    pub fn lease(&self) -> LeaderLease {
        self.replica.lease.clone()
    }

    /// Reads the machine between two applied runs. Keep it short: applying waits.
    pub fn read<R>(&self, look: impl FnOnce(&S) -> R) -> R {
        look(&self.machine.read())
    }

    #[must_use]
    pub fn log(&self) -> &Log {
        &self.replica.applier.log
    }

    /// The damage or the entry that the group failed of, if it did. A failed disk is not among them.
    #[must_use]
    pub fn failure(&self) -> Option<&GroupFailure> {
        self.replica.applier.failure.get()
    }

    /// Adds a replica that receives the log and does not vote. Leader only; returns when the change is committed, not
    /// when the learner has caught up.
    ///
    /// # Errors
    /// If this replica does not lead, or another change is in progress.
    pub async fn add_learner(&self, member: Member) -> Result<(), MembershipError> {
        let (replica, node) = member.into_node();
        self.replica.membership_changed(self.replica.raft.add_learner(replica, node, false).await)
    }

    /// Makes exactly these members vote; former voters leave the group. Leader only; each must be a learner or voter.
    ///
    /// # Errors
    /// If this replica does not lead, or another change is in progress.
    pub async fn set_voters(&self, replicas: BTreeSet<ReplicaId>) -> Result<(), MembershipError> {
        let voters = replicas.into_iter().map(|replica| replica.0).collect();
        let change = ChangeMembers::ReplaceAllVoters(voters);
        self.replica.membership_changed(self.replica.raft.change_membership(change, false).await)
    }

    /// Asks replica `to` to lead instead of this one. The role tells when it does.
    ///
    /// # Errors
    /// If the group has stopped.
    pub async fn transfer_leadership(&self, to: ReplicaId) -> Result<(), ProposeError> {
        self.replica.raft.trigger().transfer_leader(to.0).await.map_err(|_| ProposeError::Stopped)
    }

    /// Writes a checkpoint if anything was applied since the last, and stops the group's tasks. The store stays open.
    pub async fn shutdown(&self) {
        self.replica.shutdown().await;
    }
}

#[cfg(test)]
impl<S: StateMachine> Group<S> {
    /// A proposal of a proposer with a stale view of the role.
    pub(crate) async fn submit_unchecked(
        &self,
        term: u64,
        proposal: Proposal,
    ) -> Result<PendingProposal<S::Reply>, ProposeError> {
        let permit = self.replica.permit(0).await?;
        self.replica.submit(term, proposal, permit).await
    }
}

impl Member {
    fn into_node(self) -> (u64, NodeAddress) {
        (self.replica.0, NodeAddress { node: self.node, address: self.address })
    }
}

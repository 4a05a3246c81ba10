//! One open replica behind its [`Group`](crate::Group) handles: its engine, its tasks, its permits, without the type
//! of its machine.

use std::{collections::BTreeSet, marker::PhantomData, sync::Arc, time::Duration};

use fanfare_environment::Environment;
use fanfare_log::Log;
use openraft::errors::{ClientWriteError, RaftError};
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    time,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    apply::{Adapter, Applier},
    checkpoint::Checkpoints,
    checkpoint_task::{self, CheckpointTask},
    engine::{PERMIT_BYTES, PROPOSAL_PERMITS, engine_config},
    entry::{Application, LeaderId, ProposalResponder, Types, voters},
    error::{MembershipError, OpenError, ProposeError},
    failure::FailureLatch,
    format_version::{ClusterFormat, FormatVersion},
    host::Host,
    id::{GroupId, Identity},
    inbox::{Endpoint, EndpointTasks, Registration},
    lease::LeaderLease,
    log_storage::LogStorage,
    machine::{Machine, Proposal},
    members::MembersRecord,
    network::Network,
    options::GroupOptions,
    proposal::{PendingProposal, write_error},
    recovery::Recovery,
    replay::Replay,
    role::{Role, RoleTask},
};

pub(crate) struct Replica {
    pub(crate) identity: Identity,
    pub(crate) raft: openraft::Raft<Types, Adapter>,
    pub(crate) applier: Arc<Applier>,
    pub(crate) role: watch::Receiver<Role>,
    format: ClusterFormat,
    pub(crate) lease: LeaderLease,
    permits: Arc<Semaphore>,
    registration: Registration,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl Replica {
    pub(crate) async fn open(
        host: &Host,
        identity: Identity,
        log: Log,
        machine: Arc<dyn Machine>,
        options: GroupOptions,
    ) -> Result<Self, OpenError> {
        let Identity { group, replica } = identity;
        let refused = |reason: String| OpenError::Group { group, reason };
        let config = engine_config(group, host.timing()).map_err(|e| refused(e.to_string()))?;
        let bounds = log.bounds();
        // Read before the engine starts, which may save a vote of its own.
        let has_voted = log.vote().is_some();
        let environment = host.environment().clone();

        let applier = Applier {
            machine,
            progress: Mutex::default(),
            checkpoints: Checkpoints::new(host.store().clone(), group, environment.clone()),
            log: log.clone(),
            installed: Arc::default(),
            members: Arc::new(MembersRecord::new(host.store().clone(), group, environment.clone())),
            applied_leader: watch::Sender::new(None),
            failure: FailureLatch::default(),
        };
        let applier = recover(applier, group, &environment).await?;
        let network = Network { peers: host.peers().clone(), identity };
        let failure = applier.failure.clone();
        let storage = LogStorage::new(&applier, environment.clone());
        let failed = |reason: String| match failure.get() {
            Some(failure) => OpenError::unusable(group, failure.clone(), &bounds),
            None => refused(reason),
        };
        // Before the engine: its election writes to the log, which must be readable to its end by then.
        let replay = Replay { replica, applier: &applier, storage: &storage, environment: &environment };
        replay.run().await.map_err(|e| failed(e.to_string()))?;
        let raft = openraft::Raft::new(replica.0, config, network, storage, Adapter(applier.clone())).await;
        let raft = raft.map_err(|e| failed(e.to_string()))?;

        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let role = watch::Sender::new(Role::Unknown);
        let lease = Duration::from_millis(host.timing().election_max_ms);
        let leader_lease = LeaderLease::new(&raft, lease);
        let silent_until = has_voted.then(|| time::Instant::now() + lease);
        let receiving = EndpointTasks { tasks: tasks.clone(), stop: stop.clone() };
        let transfers = host.inbox().transfers().clone();
        let endpoint = Endpoint::new(replica, raft.clone(), silent_until, transfers, receiving);
        let open = Self {
            identity,
            raft: raft.clone(),
            applier: applier.clone(),
            role: role.subscribe(),
            format: host.format().clone(),
            lease: leader_lease.clone(),
            permits: Arc::new(Semaphore::new(PROPOSAL_PERMITS as usize)),
            // Registered when the engine runs: a request that arrives must find a log and a machine that are recovered.
            registration: host.inbox().register(group, endpoint),
            tasks: tasks.clone(),
            stop: stop.clone(),
            _stop_on_drop: stop.clone().drop_guard(),
        };
        tasks.spawn(CheckpointTask::new(options, applier.clone(), raft.clone(), stop.clone()).run());
        let applied_leader = applier.applied_leader.subscribe();
        tasks.spawn(RoleTask { raft, identity, applied_leader, lease: leader_lease, role, stop }.run());
        match open.begin_elections(silent_until).await {
            // A sole voter may have failed of an entry by now: its group is open and failed, as at any later moment.
            Err(_) if failure.get().is_some() => (),
            begun => begun.map_err(|e| failed(e.to_string()))?,
        }
        Ok(open)
    }

    /// An entry above the cluster's format would stop this group on every member that has not been upgraded.
    pub(crate) fn check_format(&self, needed: FormatVersion) -> Result<(), ProposeError> {
        let cluster = self.format.current();
        if needed <= cluster {
            return Ok(());
        }
        let Identity { group, replica } = self.identity;
        tracing::error!(
            %group, %replica, needed = needed.0, cluster = cluster.0,
            "refused to propose an entry above the cluster's format version"
        );
        Err(ProposeError::AboveFormat { needed, cluster })
    }

    /// Waits for permits, then hands the proposal over.
    pub(crate) async fn propose<R>(
        &self,
        term: u64,
        proposal: Proposal,
    ) -> Result<PendingProposal<R>, ProposeError> {
        let permit = self.permit(proposal.payload.len()).await?;
        match *self.role.borrow() {
            Role::Leader { term: current } if current == term => (),
            Role::Leader { .. } => return Err(ProposeError::TermEnded),
            Role::Follower { leader } => return Err(ProposeError::NotLeader { leader: Some(leader) }),
            Role::LeaseExpired { .. } => {
                self.lease.counter().count();
                return Err(ProposeError::NotLeader { leader: None });
            }
            Role::Unknown => return Err(ProposeError::NotLeader { leader: None }),
            Role::Failed => return Err(ProposeError::Stopped),
        }
        self.submit(term, proposal, permit).await
    }

    pub(crate) async fn permit(&self, payload_bytes: usize) -> Result<OwnedSemaphorePermit, ProposeError> {
        let permits = u32::try_from(payload_bytes / PERMIT_BYTES + 1).unwrap_or(PROPOSAL_PERMITS);
        let acquired = self.permits.clone().acquire_many_owned(permits.min(PROPOSAL_PERMITS)).await;
        acquired.map_err(|_| ProposeError::Stopped)
    }

    /// The role that the proposer saw may be stale, so openraft compares the term again where it appends.
    pub(crate) async fn submit<R>(
        &self,
        term: u64,
        proposal: Proposal,
        permit: OwnedSemaphorePermit,
    ) -> Result<PendingProposal<R>, ProposeError> {
        let (sender, result) = oneshot::channel();
        let replica = self.identity.replica;
        let leader = LeaderId { term, node_id: replica.0 };
        let responder = ProposalResponder { sender, _permit: permit };
        let write = self.raft.write(Application(proposal)).with_leader(leader).responder(responder);
        write.await.map_err(|_| ProposeError::Stopped)?;
        Ok(PendingProposal { result, replica, refusals: self.lease.counter().clone(), reply: PhantomData })
    }

    /// A sole voter campaigns at once: it has nobody to wait for. Any other replica first keeps the silence that its
    /// restart may owe to a leader.
    async fn begin_elections(&self, silent_until: Option<time::Instant>) -> Result<(), ProposeError> {
        let effective =
            self.raft.with_raft_state(|state| voters(state.membership_state.effective().membership()));
        let voters = effective.await.map_err(|_| ProposeError::Stopped)?;
        if voters == BTreeSet::from([self.identity.replica.0]) {
            return self.campaign().await;
        }
        let Some(silent_until) = silent_until else {
            self.raft.runtime_config().elect(true);
            return Ok(());
        };
        // A candidate votes for itself, so a campaign breaks the lease as much as a vote for another does.
        let (raft, stop) = (self.raft.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => (),
                () = time::sleep_until(silent_until) => raft.runtime_config().elect(true),
            }
        });
        Ok(())
    }

    /// Campaigns once. openraft's clock would campaign for a sole voter, too, and the later of two campaigns makes the
    /// answers to the earlier one void; so the clock starts when this one has begun.
    async fn campaign(&self) -> Result<(), ProposeError> {
        self.raft.trigger().elect(false).await.map_err(|_| ProposeError::Stopped)?;
        self.raft.with_raft_state(|_| ()).await.map_err(|_| ProposeError::Stopped)?;
        self.raft.runtime_config().elect(true);
        Ok(())
    }

    pub(crate) fn membership_changed<T>(
        &self,
        result: Result<T, RaftError<Types, ClientWriteError<Types>>>,
    ) -> Result<(), MembershipError> {
        match result {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(refusal))) => {
                Err(MembershipError::Refused { reason: refusal.to_string() })
            }
            Err(RaftError::APIError(other)) => {
                Err(write_error(&other, self.identity.replica, self.lease.counter()).into())
            }
            Err(RaftError::Fatal(_)) => Err(ProposeError::Stopped.into()),
        }
    }

    pub(crate) async fn shutdown(&self) {
        let Identity { group, replica } = self.identity;
        // First: a vote or an append that is taken now would be answered by an engine that is stopping.
        self.registration.remove();
        self.permits.close();
        self.stop.cancel();
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%group, %replica, %error, "failed to stop the group's engine; its task is abandoned");
        }
        self.tasks.close();
        self.tasks.wait().await;
        // A failed store has been reported by its own callback.
        // After the engine and its tasks have ended: nothing is applied behind this checkpoint, so the next start has the
        // least to replay.
        if let Err(error) = checkpoint_task::save(&self.applier).await {
            tracing::warn!(
                %group, %replica, %error,
                "failed to save a checkpoint at shutdown; the next start replays more of the log"
            );
        }
    }
}

async fn recover(
    applier: Applier,
    group: GroupId,
    environment: &Environment,
) -> Result<Arc<Applier>, OpenError> {
    let Applier { checkpoints, log, machine, .. } = &applier;
    let recovery = Recovery { group, checkpoints, log, machine, environment };
    let progress = recovery.run().await?;
    *applier.progress.lock() = progress;
    Ok(Arc::new(applier))
}

//! One Raft group of this node: opening, proposing, reading, membership, shutdown.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use fanfare_log::{Bounds, Log, Position, Store};
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader, InitializeError, RaftError};
use openraft::raft::ClientWriteResult;
use openraft::{ChangeMembers, Config, SnapshotPolicy};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::apply::{Adapter, Applier};
use crate::checkpoint::Checkpoints;
use crate::checkpoint_task::{self, CheckpointTask};
use crate::entry::{Application, Broker, Completion, LeaderId, Types, position_of, voters};
use crate::log_storage::LogStorage;
use crate::machine::{Machine, Proposal, StateMachine, is_application};
use crate::network::Network;
use crate::peer::{Inbox, PeerTransport};
use crate::recovery::Recovery;
use crate::role::{Role, RoleTask};

/// Proposals under way per group: one place for each begun `PLACE_BYTES` of payload, so at most 64 MiB.
const PLACES: u32 = 1024;
const PLACE_BYTES: usize = 64 << 10;
/// A snapshot that a peer has not installed by then is sent again.
const SNAPSHOT_TIMEOUT_MS: u64 = 10_000;

#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// Path-safe; the same on all replicas.
    pub name: String,
    /// Never reused: a replica that lost its log comes back under another id.
    pub replica: u64,
    pub heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
    pub checkpoint_interval_ms: u64,
    /// Entries between two snapshots. Only for machines without an anchor.
    pub snapshot_entries: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub replica: u64,
    pub broker: u64,
    pub address: String,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("open group {group}")]
    Log {
        group: String,
        #[source]
        source: fanfare_log::OpenError,
    },
    #[error("open group {group}: {what}")]
    Group { group: String, what: String },
    /// Files of this group are damaged; other groups of the store may be sound. `what` names the file and the place;
    /// a group does not open without what it cannot read, so none of its offsets can be read.
    #[error("open group {group}: {what}")]
    Corrupt { group: String, what: String, first_offset: u64, end_offset: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Not proposed; another replica may lead.
    #[error("this replica does not lead")]
    NotLeader { leader: Option<u64> },
    /// Certainly not applied in that term.
    #[error("the term has ended")]
    TermEnded,
    /// May or may not be applied.
    #[error("the outcome is unknown: leadership was lost before the entry was applied")]
    Unknown,
    #[error("the group has stopped")]
    Stopped,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum MembershipError {
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error("change the members: {what}")]
    Refused { what: String },
}

/// Resolves when the proposal is applied. Dropping it does not cancel the proposal.
pub struct Pending<R> {
    answer: oneshot::Receiver<ClientWriteResult<Types>>,
    replica: u64,
    reply: PhantomData<fn() -> R>,
}

#[derive(Debug)]
pub struct Applied<R> {
    pub position: Position,
    pub base_offset: u64,
    pub reply: R,
}

impl<R: Any> Pending<R> {
    pub async fn applied(self) -> Result<Applied<R>, ProposeError> {
        let response = match self.answer.await {
            Err(_) => return Err(ProposeError::Unknown),
            Ok(Err(refusal)) => return Err(write_error(&refusal, self.replica)),
            Ok(Ok(response)) => response,
        };
        let reply = response.data.reply.expect("an applied proposal has a reply");
        let reply =
            *(reply as Box<dyn Any>).downcast::<R>().expect("the machine of this group made the reply");
        let base_offset = response.data.base_offset;
        Ok(Applied { position: position_of(response.log_id), base_offset, reply })
    }
}

/// One Raft group of this node. Cheap to clone.
pub struct Group<S: StateMachine> {
    machine: Arc<RwLock<S>>,
    shared: Arc<Shared>,
}

struct Shared {
    raft: openraft::Raft<Types, Adapter>,
    applier: Arc<Applier>,
    replica: u64,
    window: Arc<Semaphore>,
    role: watch::Receiver<Role>,
    damage: Arc<OnceLock<String>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl<S: StateMachine> Clone for Group<S> {
    fn clone(&self) -> Self {
        Self { machine: self.machine.clone(), shared: self.shared.clone() }
    }
}

impl<S: StateMachine> Group<S> {
    /// Recovers machine and log, starts the group's tasks. Does not wait for a leader, but a group whose only
    /// voter is this replica has begun to elect it.
    pub async fn open(
        options: GroupOptions,
        store: Store,
        log: Log,
        machine: S,
        transport: Arc<dyn PeerTransport>,
    ) -> Result<Self, OpenError> {
        let machine = Arc::new(RwLock::new(machine));
        let shared = Shared::open(options, store, log, machine.clone(), transport).await?;
        Ok(Self { machine, shared: Arc::new(shared) })
    }

    /// First start of a new group: makes `members` its voters. Does nothing if the group has a log already.
    ///
    /// # Panics
    /// If this replica is not one of `members`.
    pub async fn initialize(&self, members: Vec<Member>) -> Result<(), ProposeError> {
        let Shared { raft, replica, .. } = &*self.shared;
        let members: BTreeMap<u64, Broker> = members.into_iter().map(Member::into_node).collect();
        assert!(members.contains_key(replica), "a replica initializes only a group that it is a member of");
        match raft.initialize(members).await {
            // It campaigns by itself; a second campaign would make the answers to its own void.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotInMembers(_)) | RaftError::Fatal(_)) => {
                Err(ProposeError::Stopped)
            }
        }
    }

    /// Hands a proposal to Raft, bound to `term`. Proposals handed over by one task keep their order.
    /// Bounded: waits while too many are under way.
    ///
    /// # Panics
    /// If the proposal's kind is 0 or 255.
    pub async fn propose(&self, term: u64, proposal: Proposal) -> Result<Pending<S::Reply>, ProposeError> {
        assert!(is_application(proposal.kind), "kinds 0 and 255 are not the proposer's");
        let Shared { window, role, .. } = &*self.shared;
        let places = u32::try_from(proposal.payload.len() / PLACE_BYTES + 1).unwrap_or(PLACES).min(PLACES);
        let place = window.clone().acquire_many_owned(places).await.map_err(|_| ProposeError::Stopped)?;
        match *role.borrow() {
            Role::Leader { term: current } if current == term => (),
            Role::Leader { .. } => return Err(ProposeError::TermEnded),
            Role::Follower { leader } => return Err(ProposeError::NotLeader { leader: Some(leader) }),
            Role::Unknown => return Err(ProposeError::NotLeader { leader: None }),
            Role::Failed => return Err(ProposeError::Stopped),
        }
        self.shared.submit(term, proposal, place).await
    }

    pub fn role(&self) -> watch::Receiver<Role> {
        self.shared.role.clone()
    }

    /// Reads the machine between two applied runs. Keep it short: applying waits.
    pub fn read<R>(&self, look: impl FnOnce(&S) -> R) -> R {
        look(&self.machine.read())
    }

    pub fn log(&self) -> &Log {
        &self.shared.applier.log
    }

    /// What the group failed of, if it was a damaged entry of its log: the file and the place.
    pub fn damage(&self) -> Option<&str> {
        self.shared.damage.get().map(String::as_str)
    }

    /// Where the transport delivers what peers send to this replica.
    pub fn inbox(&self) -> Inbox {
        Inbox::new(self.shared.raft.clone(), self.shared.replica)
    }

    /// Adds a replica that receives the log and does not vote. Leader only; returns when the change is
    /// committed, not when the learner has caught up.
    pub async fn add_learner(&self, member: Member) -> Result<(), MembershipError> {
        let (replica, node) = member.into_node();
        self.shared.changed(self.shared.raft.add_learner(replica, node, false).await)
    }

    /// Makes exactly these members vote; former voters leave the group. Leader only; each must be a learner
    /// or voter.
    pub async fn set_voters(&self, replicas: BTreeSet<u64>) -> Result<(), MembershipError> {
        let change = ChangeMembers::ReplaceAllVoters(replicas);
        self.shared.changed(self.shared.raft.change_membership(change, false).await)
    }

    /// Asks replica `to` to lead instead of this one. Watch the role to see whether it did.
    pub async fn hand_over(&self, to: u64) -> Result<(), ProposeError> {
        self.shared.raft.trigger().transfer_leader(to).await.map_err(|_| ProposeError::Stopped)
    }

    /// Writes a checkpoint if anything was applied since the last, and stops the group's tasks. The store
    /// stays open.
    pub async fn shutdown(&self) {
        self.shared.shutdown().await;
    }
}

#[cfg(test)]
impl<S: StateMachine> Group<S> {
    /// A proposal of somebody whose view of the role is stale.
    pub(crate) async fn submit_unchecked(
        &self,
        term: u64,
        proposal: Proposal,
    ) -> Result<Pending<S::Reply>, ProposeError> {
        let place = self.shared.window.clone().acquire_owned().await.map_err(|_| ProposeError::Stopped)?;
        self.shared.submit(term, proposal, place).await
    }
}

impl Member {
    fn into_node(self) -> (u64, Broker) {
        (self.replica, Broker { broker: self.broker, address: self.address })
    }
}

impl Shared {
    async fn open(
        options: GroupOptions,
        store: Store,
        log: Log,
        machine: Arc<dyn Machine>,
        transport: Arc<dyn PeerTransport>,
    ) -> Result<Self, OpenError> {
        let group = options.name.clone();
        let refused = |what: String| OpenError::Group { group: group.clone(), what };
        let config = config(&options).map_err(|e| refused(e.to_string()))?;
        let bounds = log.bounds();

        let applier = Applier {
            machine,
            progress: Mutex::default(),
            checkpoints: Checkpoints::new(store, &group),
            log: log.clone(),
            installed: Arc::default(),
            applied_leader: watch::Sender::new(None),
        };
        let applier = recover(applier, group.clone()).await?;
        let network = Network { transport, group: group.as_str().into(), replica: options.replica };
        let storage = LogStorage::new(log, applier.installed.clone());
        let damage = storage.damage();
        let failed = |what: String| match damage.get() {
            Some(found) => corrupt(&group, found, &bounds),
            None => refused(what),
        };
        let raft =
            openraft::Raft::new(options.replica, config, network, storage, Adapter(applier.clone())).await;
        let raft = raft.map_err(|e| failed(e.to_string()))?;

        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let role = watch::Sender::new(Role::Unknown);
        let shared = Self {
            raft: raft.clone(),
            applier: applier.clone(),
            replica: options.replica,
            window: Arc::new(Semaphore::new(PLACES as usize)),
            role: role.subscribe(),
            damage: damage.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
            _stop_on_drop: stop.clone().drop_guard(),
        };
        tasks.spawn(CheckpointTask::new(&options, applier.clone(), raft.clone(), stop.clone()).run());
        let applied_leader = applier.applied_leader.subscribe();
        let replica = options.replica;
        tasks.spawn(RoleTask { raft, replica, group: group.clone(), applied_leader, role, stop }.run());
        shared.elect_if_alone().await.map_err(|e| failed(e.to_string()))?;
        Ok(shared)
    }

    /// The role that was seen may be stale, so openraft checks the term again where it appends.
    async fn submit<R>(
        &self,
        term: u64,
        proposal: Proposal,
        place: OwnedSemaphorePermit,
    ) -> Result<Pending<R>, ProposeError> {
        let (answer, waiting) = oneshot::channel();
        let leader = LeaderId { term, node_id: self.replica };
        let completion = Completion { answer, _place: place };
        let write = self.raft.write(Application(proposal)).with_leader(leader).responder(completion);
        write.await.map_err(|_| ProposeError::Stopped)?;
        Ok(Pending { answer: waiting, replica: self.replica, reply: PhantomData })
    }

    /// Without other voters there is nobody to wait for.
    async fn elect_if_alone(&self) -> Result<(), ProposeError> {
        let effective =
            self.raft.with_raft_state(|state| voters(state.membership_state.effective().membership()));
        let alone = effective.await.map_err(|_| ProposeError::Stopped)? == BTreeSet::from([self.replica]);
        if alone {
            return self.elect().await;
        }
        self.raft.runtime_config().elect(true);
        Ok(())
    }

    /// Campaigns once. openraft's clock would campaign for a sole voter, too, and the later of two campaigns makes the
    /// answers to the earlier one void; so the clock starts when this one has begun.
    async fn elect(&self) -> Result<(), ProposeError> {
        self.raft.trigger().elect(false).await.map_err(|_| ProposeError::Stopped)?;
        self.raft.with_raft_state(|_| ()).await.map_err(|_| ProposeError::Stopped)?;
        self.raft.runtime_config().elect(true);
        Ok(())
    }

    fn changed<T>(
        &self,
        result: Result<T, RaftError<Types, ClientWriteError<Types>>>,
    ) -> Result<(), MembershipError> {
        match result {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(refusal))) => {
                Err(MembershipError::Refused { what: refusal.to_string() })
            }
            Err(RaftError::APIError(other)) => Err(write_error(&other, self.replica).into()),
            Err(RaftError::Fatal(_)) => Err(ProposeError::Stopped.into()),
        }
    }

    async fn shutdown(&self) {
        self.window.close();
        self.stop.cancel();
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(replica = self.replica, %error, "the group's engine ended badly");
        }
        self.tasks.close();
        self.tasks.wait().await;
        // A failed store has been reported by its own callback; the next start replays the log.
        if let Err(error) = checkpoint_task::save(&self.applier).await {
            tracing::warn!(replica = self.replica, %error, "no checkpoint at shutdown");
        }
    }
}

pub(crate) fn corrupt(group: &str, what: &str, bounds: &Bounds) -> OpenError {
    let (first_offset, end_offset) = (bounds.start_offset, bounds.next_offset);
    OpenError::Corrupt { group: group.to_owned(), what: what.to_owned(), first_offset, end_offset }
}

async fn recover(applier: Applier, group: String) -> Result<Arc<Applier>, OpenError> {
    let recovered = tokio::task::spawn_blocking(move || {
        let Applier { checkpoints, log, machine, .. } = &applier;
        let progress = Recovery { group: &group, checkpoints, log, machine: &**machine }.run()?;
        *applier.progress.lock() = progress;
        Ok(Arc::new(applier))
    });
    recovered.await.expect("recovery does not panic")
}

fn config(options: &GroupOptions) -> Result<Arc<Config>, openraft::ConfigError> {
    // The longest silence that a follower hears must stay below its election timeout.
    let silence_ms = options.heartbeat_ms + options.heartbeat_ms / 4 + 1;
    let heartbeat_min_ms =
        options.election_min_ms.saturating_sub(silence_ms + 1).min(options.heartbeat_ms / 2);
    let config = Config {
        cluster_name: options.name.clone(),
        heartbeat_interval: options.heartbeat_ms,
        // An append tells a follower as much as a heartbeat does.
        heartbeat_min_interval: Some(heartbeat_min_ms),
        election_timeout_min: options.election_min_ms,
        election_timeout_max: options.election_max_ms,
        install_snapshot_timeout: SNAPSHOT_TIMEOUT_MS,
        // Snapshots are taken when a durable checkpoint has a new base, and the log is purged exactly up to
        // it.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        purge_batch_size: 1,
        api_channel_size: Some(u64::from(PLACES) * 2),
        enable_pre_vote: Some(true),
        // Switched on when the group has had its first chance to elect itself.
        enable_elect: false,
        // Leadership is won anew after each start: what a former leader knew is gone.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().map(Arc::new)
}

fn write_error(refusal: &ClientWriteError<Types>, replica: u64) -> ProposeError {
    match refusal {
        ClientWriteError::ForwardToLeader(ForwardToLeader { leader_id, reason, .. }) => {
            match (leader_id, reason) {
                (Some(leader), ForwardReason::NotLeader) if *leader == replica => ProposeError::TermEnded,
                (_, ForwardReason::LeaseExpired) => ProposeError::NotLeader { leader: None },
                (leader, _) => ProposeError::NotLeader { leader: *leader },
            }
        }
        ClientWriteError::LogEntryDiscarded(_) => ProposeError::Unknown,
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
            ProposeError::TermEnded
        }
    }
}

//! CONTRACT SKELETON: bodies to be written by the owner of this crate.
use std::sync::Arc;
use fanfare_log::{Frame, Log, Payload, Position, Store};
use tokio::sync::watch;

mod contract {
use super::*;
/// What is proposed: one entry of the group's log.
#[derive(Clone, Debug)]
pub struct Proposal { /// 1..=254; 0 and 255 are this crate's.
    pub kind: u8, /// how many offsets it takes
    pub count: u32, pub time_ms: u64, pub payload: Payload }

/// Which of a machine's state an applied entry may change: everything, or only what is derived from the log
/// (the entry is at or below the state index of an installed snapshot or checkpoint).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope { Full, DerivedOnly }

/// A log position that a snapshot is anchored at, and the offset that follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor { pub position: Position, pub next_offset: u64 }

#[derive(Debug, thiserror::Error)]
#[error("restore a checkpoint: {0}")]
pub struct RestoreError(pub &'static str);

/// A deterministic machine over committed entries. No clock, no IO, no randomness.
pub trait StateMachine: Send + Sync + 'static {
    type Reply: Send + Sync + 'static;
    /// Called for every entry of kind 1..=254, in order.
    fn apply(&mut self, frame: &Frame, scope: Scope) -> Self::Reply;
    /// Called once after each run of applied entries (also blanks), outside the lock: publish positions to watchers here.
    fn applied(&self, upto: Position);
    /// The whole accumulated state, versioned and self-contained.
    fn checkpoint(&self) -> Vec<u8>;
    fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError>;
    /// None: ordinary snapshots at the applied position. Some: the log is kept above the anchor, and the log below it is purged.
    fn anchor(&self) -> Option<Anchor>;
    /// After restore at start: rebuild what is derived from the retained log up to and including `upto`. Blocking reads are fine.
    fn recover(&mut self, log: &Log, upto: Position) -> Result<(), fanfare_log::ReadError>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// No leader known, or this replica is starting.
    Unknown,
    Follower { leader: u64 },
    /// Leads in `term`, and the blank entry of that term is applied: it may act.
    Leader { term: u64 },
    /// Stopped for good; see the process's log.
    Failed,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Not proposed; another replica may lead.
    #[error("this replica does not lead")] NotLeader { leader: Option<u64> },
    /// Certainly not applied in that term.
    #[error("the term has ended")] TermEnded,
    /// May or may not be applied.
    #[error("the outcome is unknown: leadership was lost before the entry was applied")] Unknown,
    #[error("the group has stopped")] Stopped,
}

/// Resolves when the proposal is applied. Dropping it does not cancel the proposal.
pub struct Pending<R> { pub(crate) _reply: std::marker::PhantomData<R> }
impl<R> Pending<R> {
    pub async fn applied(self) -> Result<Applied<R>, ProposeError> { todo!() }
}
#[derive(Debug)]
pub struct Applied<R> { pub position: Position, pub base_offset: u64, pub reply: R }

#[derive(Clone, Debug)]
pub struct GroupOptions { pub name: String, pub replica: u64, pub heartbeat_ms: u64, pub election_min_ms: u64, pub election_max_ms: u64, pub checkpoint_interval_ms: u64, /// only for machines without an anchor
    pub snapshot_entries: u64 }

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member { pub replica: u64, pub broker: u64, pub address: String }

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("open group {group}")] Log { group: String, #[source] source: fanfare_log::OpenError },
    #[error("open group {group}: {what}")] Group { group: String, what: String },
}

/// One Raft group of this node. Cheap to clone.
pub struct Group<S: StateMachine> { _inner: Arc<parking_lot::RwLock<S>> }
impl<S: StateMachine> Clone for Group<S> { fn clone(&self) -> Self { todo!() } }
impl<S: StateMachine> Group<S> {
    /// Recovers machine and log, starts the group's tasks. Does not wait for a leader.
    pub async fn open(options: GroupOptions, store: Store, log: Log, machine: S, transport: Arc<dyn PeerTransport>) -> Result<Self, OpenError> { let _ = (options, store, log, machine, transport); todo!() }
    /// First start of a new group: makes `members` its voters. Does nothing if the group has a log already.
    pub async fn initialize(&self, members: Vec<Member>) -> Result<(), ProposeError> { let _ = members; todo!() }
    /// Hands a proposal to Raft, bound to `term`. Proposals handed over by one task keep their order. Bounded: waits while too many are under way.
    pub async fn propose(&self, term: u64, proposal: Proposal) -> Result<Pending<S::Reply>, ProposeError> { let _ = (term, proposal); todo!() }
    pub fn role(&self) -> watch::Receiver<Role> { todo!() }
    /// Reads the machine between two applied runs. Keep it short: applying waits.
    pub fn read<R>(&self, look: impl FnOnce(&S) -> R) -> R { look(&self._inner.read()) }
    pub fn log(&self) -> &Log { todo!() }
    /// Writes a checkpoint if anything was applied since the last, and stops the group's tasks.
    pub async fn shutdown(&self) { todo!() }
}

/// Carries Raft messages between replicas of different brokers.
pub trait PeerTransport: Send + Sync + 'static {}
/// The transport of a node without peers: every call answers unreachable.
pub struct NoPeers;
impl PeerTransport for NoPeers {}
}
pub use contract::*;

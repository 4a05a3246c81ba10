//! The seam between replicas: messages go out through a [`PeerTransport`] and come in through an [`Inbox`].
//!
//! Messages are opaque here and to the transport; it carries them to (group, replica) and brings the answer back.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fanfare_log::Payload;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    apply::Adapter,
    entry::{Types, voters},
    id::{GroupId, ReplicaId},
    rpc::{self, Request},
};

/// Traffic that must not wait for other traffic of the same peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrafficClass {
    /// Votes, heartbeats, leadership transfers.
    Control,
    Append,
    Snapshot,
}

/// One request of a group's replica to another of its replicas.
#[derive(Clone, Debug)]
pub struct Message {
    pub group: GroupId,
    /// The addressee. The receiver refuses messages for any other replica.
    pub to: ReplicaId,
    /// Node and address of the addressee.
    pub node: u64,
    pub address: String,
    pub class: TrafficClass,
    /// Opaque; its parts share memory with the log.
    pub body: Payload,
    /// Time after which nobody waits for the answer. A transport gives up by then, whatever the peer does: a peer that
    /// takes messages and never answers would keep the log from being purged.
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Not worth an immediate retry.
    #[error("replica {replica} of {group} is unreachable: {reason}")]
    Unreachable { group: GroupId, replica: ReplicaId, reason: String },
    #[error("replica {replica} of {group} did not answer in time")]
    Timeout { group: GroupId, replica: ReplicaId },
    /// The receiver does not take the message.
    #[error("message refused: {0}")]
    Refused(&'static str),
}

/// Carries Raft messages between replicas of different nodes.
pub trait PeerTransport: Send + Sync + 'static {
    /// Brings the message to the [`Inbox`] of its node and the answer back. Messages of one class to one replica are
    /// delivered in the order of the calls.
    fn call(&self, message: Message) -> BoxFuture<'static, Result<Bytes, PeerError>>;
}

/// The transport of a node without peers: every call answers unreachable.
pub struct NoPeers;

impl PeerTransport for NoPeers {
    fn call(&self, message: Message) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let Message { group, to: replica, .. } = message;
        let reason = "this node has no peers".to_owned();
        Box::pin(async move { Err(PeerError::Unreachable { group, replica, reason }) })
    }
}

/// The open groups of one host, as a transport delivers to them. Cheap to clone.
#[derive(Clone, Default)]
pub struct Inbox {
    groups: Arc<Mutex<BTreeMap<GroupId, Endpoint>>>,
}

impl Inbox {
    /// Handles one message for replica `to` of `group`; returns the answer to bring back.
    ///
    /// # Errors
    /// If that replica is not open here, has stopped, or cannot read the message.
    pub async fn receive(&self, group: GroupId, to: ReplicaId, body: Bytes) -> Result<Bytes, PeerError> {
        let endpoint = self.groups.lock().get(&group).cloned();
        let endpoint = endpoint.ok_or(PeerError::Refused("the group is not open here"))?;
        if endpoint.replica != to {
            return Err(PeerError::Refused("it is for another replica"));
        }
        endpoint.receive(body).await
    }

    /// # Panics
    /// If the group is open already.
    pub(crate) fn register(&self, group: GroupId, endpoint: Endpoint) -> Registration {
        let mut groups = self.groups.lock();
        let btree_map::Entry::Vacant(vacant) = groups.entry(group) else {
            panic!("group {group} is open on this host already");
        };
        vacant.insert(endpoint);
        drop(groups);
        Registration { inbox: self.clone(), group, removed: AtomicBool::new(false) }
    }
}

/// An open group's row in the table. Removed on drop.
pub(crate) struct Registration {
    inbox: Inbox,
    group: GroupId,
    removed: AtomicBool,
}

impl Registration {
    pub(crate) fn remove(&self) {
        // Only once: after a shutdown the row may already be that of the reopened group.
        if !self.removed.swap(true, Ordering::AcqRel) {
            self.inbox.groups.lock().remove(&self.group);
        }
    }
}

/// One open replica as the receiver of messages.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) replica: ReplicaId,
    pub(crate) raft: openraft::Raft<Types, Adapter>,
    /// Until then no vote is granted: a leader may count on a lease that this replica granted before its restart and
    /// has forgotten since.
    pub(crate) silent_until: Option<Instant>,
}

impl Endpoint {
    async fn receive(&self, body: Bytes) -> Result<Bytes, PeerError> {
        let stopped = PeerError::Refused("the group has stopped");
        let request = Request::decode(body).map_err(|malformed| PeerError::Refused(malformed.0))?;
        let answer = match request {
            Request::Append(append) => {
                self.raft.append_entries(append).await.map(|r| rpc::encode_appended(&r))
            }
            Request::Vote(_) | Request::PreVote(_) if self.owes_silence().await => {
                return Err(PeerError::Refused("it started less than a leader's lease ago"));
            }
            Request::Vote(vote) => self.raft.vote(vote).await.map(|r| rpc::encode_voted(&r)),
            Request::PreVote(vote) => self.raft.pre_vote(vote).await.map(|r| rpc::encode_voted(&r)),
            Request::Snapshot { vote, snapshot } => {
                let installed = self.raft.install_full_snapshot(vote, snapshot).await;
                return installed.map(|r| rpc::encode_installed(&r)).map_err(|_| stopped);
            }
            Request::TransferLeader(transfer) => {
                let transferred = self.raft.handle_transfer_leader(transfer).await;
                return transferred.map(|r| rpc::encode_transferred(&r)).map_err(|_| stopped);
            }
        };
        answer.map_err(|_| stopped)
    }

    async fn owes_silence(&self) -> bool {
        if self.silent_until.is_none_or(|until| until <= Instant::now()) {
            return false;
        }
        // A sole voter has no peer whose lease it could break.
        let own = BTreeSet::from([self.replica.0]);
        let is_sole_voter = self
            .raft
            .with_raft_state(move |state| voters(state.membership_state.effective().membership()) == own);
        !is_sole_voter.await.unwrap_or(false)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.remove();
    }
}

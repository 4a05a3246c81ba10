//! The seam between replicas: messages go out through a [`PeerTransport`] and come in through an [`Inbox`].
//!
//! Messages are opaque here and to the transport; it carries them to (group, replica) and brings the answer
//! back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_log::Payload;
use futures_util::future::BoxFuture;

use crate::apply::Adapter;
use crate::entry::Types;
use crate::rpc::{self, Request};

/// Traffic that must not wait for other traffic of the same peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Votes, heartbeats, hand-overs.
    Control,
    Append,
    Snapshot,
}

/// One request of a group's replica to another of its replicas.
#[derive(Clone, Debug)]
pub struct Message {
    pub group: Arc<str>,
    /// The replica it is for, and where that lives. The receiver refuses what is for another replica.
    pub to: u64,
    pub broker: u64,
    pub address: String,
    pub lane: Lane,
    /// Opaque; its parts share memory with the log.
    pub body: Payload,
    /// When nobody waits for the answer any more. A transport gives up by then, whatever the peer does: a
    /// peer that takes messages and never answers would keep the log from being purged.
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Do not try again at once.
    #[error("replica {replica} of {group} is unreachable: {reason}")]
    Unreachable { group: String, replica: u64, reason: String },
    #[error("replica {replica} of {group} did not answer in time")]
    Timeout { group: String, replica: u64 },
    /// The receiver cannot read the message, or is not what it is for.
    #[error("message refused: {0}")]
    Refused(&'static str),
}

/// Carries Raft messages between replicas of different brokers.
pub trait PeerTransport: Send + Sync + 'static {
    /// Brings the message to its replica's [`Inbox`] and the answer back. Messages of one lane to one replica
    /// are delivered in the order of the calls.
    fn call(&self, message: Message) -> BoxFuture<'static, Result<Bytes, PeerError>>;
}

/// The transport of a node without peers: every call answers unreachable.
pub struct NoPeers;

impl PeerTransport for NoPeers {
    fn call(&self, message: Message) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let group = message.group.to_string();
        let reason = "this node has no peers".to_owned();
        Box::pin(async move { Err(PeerError::Unreachable { group, replica: message.to, reason }) })
    }
}

/// Where a transport delivers messages for one replica. Cheap to clone.
#[derive(Clone)]
pub struct Inbox {
    raft: openraft::Raft<Types, Adapter>,
    replica: u64,
}

impl Inbox {
    pub(crate) fn new(raft: openraft::Raft<Types, Adapter>, replica: u64) -> Self {
        Self { raft, replica }
    }

    /// Handles one message for replica `to` and gives the answer to bring back.
    pub async fn receive(&self, to: u64, body: Bytes) -> Result<Bytes, PeerError> {
        if to != self.replica {
            return Err(PeerError::Refused("it is for another replica"));
        }
        let stopped = PeerError::Refused("the group has stopped");
        let request = Request::decode(body).map_err(|malformed| PeerError::Refused(malformed.0))?;
        let answer = match request {
            Request::Append(append) => {
                self.raft.append_entries(append).await.map(|r| rpc::encode_appended(&r))
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
}

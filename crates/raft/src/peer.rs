//! The seam between nodes: messages leave through a [`PeerConnection`] and arrive at the [`Inbox`](crate::Inbox).
//!
//! There is one connection per peer node, which all groups of a host share. No group owns a stream: a message names its
//! group, its sender and its addressee, so that a transport may share credit and heartbeats among groups. Bodies are
//! opaque to the transport.

mod peers;
mod requests;

use std::sync::Arc;

use fanfare_log::Payload;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

pub(crate) use self::{
    peers::Peers,
    requests::{Answered, Peer, Requests},
};
use crate::id::{GroupId, ReplicaId};

/// Traffic that must not wait for other traffic of the same peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficClass {
    /// Votes, heartbeats, leadership transfers.
    Control,
    Append,
    Snapshot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    Request,
    /// The receiver's answer to the request of the same correlation.
    Answer,
    /// The receiver did not take the request. The body is the reason, as text.
    Refusal,
}

/// One message of a group's replica to another of its replicas.
#[derive(Clone, Debug)]
pub struct Message {
    pub group: GroupId,
    pub from: ReplicaId,
    /// The addressee. The receiver refuses requests for any other replica.
    pub to: ReplicaId,
    pub kind: MessageKind,
    /// Unique among the requests of a host. An answer carries that of its request.
    pub correlation: u64,
    /// Opaque; its parts share memory with the log.
    pub body: Payload,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Not worth an immediate retry.
    #[error("peer is unreachable: {reason}")]
    Unreachable { reason: String },
    /// The connection broke while the request was under way.
    #[error("connection broke before the answer")]
    Broken,
    #[error("peer did not answer in time")]
    Timeout,
    /// The receiver did not take the request.
    #[error("request refused: {reason}")]
    Refused { reason: String },
}

/// Connects a node with its peers.
pub trait PeerTransport: Send + Sync + 'static {
    /// The connection to a node, for all groups of the host. Returns at once; the connection is established, and after a
    /// break established again, when something is sent.
    fn connect(&self, node: u64, address: &str) -> Arc<dyn PeerConnection>;
}

/// Carries messages to one peer node, and takes part in bringing its messages to this node's inbox.
///
/// Messages of one class arrive in the order in which they were sent, or not at all. Loss, reordering and duplicates cost
/// time, but neither safety nor progress. Classes do not wait for each other, and every queue has a limit in count and
/// bytes.
pub trait PeerConnection: Send + Sync + 'static {
    /// Queues a message; waits while the queue of its class is full. A message whose future was dropped before it was
    /// ready is not sent.
    ///
    /// # Errors
    /// If the peer is known to be unreachable.
    fn send(&self, class: TrafficClass, message: Message) -> BoxFuture<'static, Result<(), PeerError>>;

    /// Number of times that this connection broke. What was under way at a break is lost, answers included.
    fn breaks(&self) -> watch::Receiver<u64>;
}

/// The transport of a node without peers: every request is answered as unreachable.
pub struct NoPeers;

impl PeerTransport for NoPeers {
    fn connect(&self, _node: u64, _address: &str) -> Arc<dyn PeerConnection> {
        Arc::new(NoConnection(watch::Sender::default()))
    }
}

struct NoConnection(watch::Sender<u64>);

impl PeerConnection for NoConnection {
    fn send(&self, _class: TrafficClass, _message: Message) -> BoxFuture<'static, Result<(), PeerError>> {
        Box::pin(async { Err(PeerError::Unreachable { reason: "this node has no peers".to_owned() }) })
    }

    fn breaks(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

//! The peer nodes of a host: one connection each, shared by all groups.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{
    entry::NodeAddress,
    id::{Identity, ReplicaId},
    peer::{Peer, PeerConnection, PeerTransport, Requests},
};

/// Snapshots that a host sends at once, to whatever peers. Each is in memory as a whole.
const OUTGOING_TRANSFERS_MAX: usize = 2;

pub(crate) struct Peers {
    transport: Arc<dyn PeerTransport>,
    requests: Requests,
    nodes: Mutex<BTreeMap<u64, PeerNode>>,
    pub(crate) outgoing_transfers: Semaphore,
}

struct PeerNode {
    address: String,
    /// Kept by those who speak to the node, so that the connection to a node that left the cluster is closed.
    connection: Weak<dyn PeerConnection>,
    append_bytes: Arc<Semaphore>,
}

impl Peers {
    pub(crate) fn new(transport: Arc<dyn PeerTransport>, requests: Requests) -> Self {
        let outgoing_transfers = Semaphore::new(OUTGOING_TRANSFERS_MAX);
        Self { transport, requests, nodes: Mutex::default(), outgoing_transfers }
    }

    /// Replica `to` of the group of `own`, over the connection to its node.
    pub(crate) fn peer(&self, own: Identity, to: ReplicaId, at: &NodeAddress) -> Peer {
        let (connection, append_bytes) = self.connection(at);
        let Identity { group, replica } = own;
        Peer { group, from: replica, to, requests: self.requests.clone(), connection, append_bytes }
    }

    fn connection(&self, at: &NodeAddress) -> (Arc<dyn PeerConnection>, Arc<Semaphore>) {
        let mut nodes = self.nodes.lock();
        if let Some(known) = nodes.get(&at.node)
            && known.address == at.address
            && let Some(connection) = known.connection.upgrade()
        {
            return (connection, known.append_bytes.clone());
        }
        let connection = self.transport.connect(at.node, &at.address);
        let append_bytes = Peer::append_budget();
        let node = PeerNode {
            address: at.address.clone(),
            connection: Arc::downgrade(&connection),
            append_bytes: append_bytes.clone(),
        };
        nodes.insert(at.node, node);
        (connection, append_bytes)
    }
}

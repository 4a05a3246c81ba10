//! A transport between hosts of one process, with links that can be cut. For tests of code above groups.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use crate::{
    peer::{Inbox, Message, PeerError, PeerTransport},
    rpc,
};

/// Connects the nodes that joined it. Cheap to clone.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    inboxes: BTreeMap<u64, Inbox>,
    /// (from, to).
    cut: BTreeSet<(u64, u64)>,
}

impl MemoryNetwork {
    /// The transport of one node, for its host.
    #[must_use]
    pub fn transport(&self, node: u64) -> Arc<dyn PeerTransport> {
        Arc::new(NodeTransport { network: self.clone(), node })
    }

    /// Makes a node reachable, or replaces it after a restart.
    pub fn join(&self, node: u64, inbox: Inbox) {
        self.shared.lock().inboxes.insert(node, inbox);
    }

    /// Makes a node unreachable until it joins again.
    pub fn leave(&self, node: u64) {
        self.shared.lock().inboxes.remove(&node);
    }

    /// Cuts the link between two nodes, in both directions.
    pub fn cut(&self, a: u64, b: u64) {
        self.shared.lock().cut.extend([(a, b), (b, a)]);
    }

    /// Mends all links.
    pub fn mend(&self) {
        self.shared.lock().cut.clear();
    }

    fn route(&self, from: u64, to: u64) -> Option<Inbox> {
        let shared = self.shared.lock();
        if shared.cut.contains(&(from, to)) { None } else { shared.inboxes.get(&to).cloned() }
    }
}

struct NodeTransport {
    network: MemoryNetwork,
    node: u64,
}

impl PeerTransport for NodeTransport {
    fn call(&self, message: Message) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let (network, from) = (self.network.clone(), self.node);
        Box::pin(async move {
            let Message { group, to, node, body, .. } = message;
            let unreachable =
                |reason: &str| PeerError::Unreachable { group, replica: to, reason: reason.to_owned() };
            let inbox = network.route(from, node).ok_or_else(|| unreachable("no link"))?;
            let answer = inbox.receive(group, to, rpc::joined(&body)).await?;
            // A link that was cut in between loses the answer.
            network.route(from, node).ok_or_else(|| unreachable("the link was cut"))?;
            Ok(answer)
        })
    }
}

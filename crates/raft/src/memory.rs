//! A transport between replicas of one process, with links that can be cut. For tests of what is built on
//! groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use crate::peer::{Inbox, Message, PeerError, PeerTransport};
use crate::rpc;

/// Connects the replicas that joined it. Cheap to clone.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    inboxes: BTreeMap<(String, u64), Inbox>,
    cut: BTreeSet<(u64, u64)>,
}

impl MemoryNetwork {
    /// The transport of one replica, to open its group with.
    pub fn transport(&self, replica: u64) -> Arc<dyn PeerTransport> {
        Arc::new(Endpoint { network: self.clone(), replica })
    }

    /// Makes a replica reachable, or replaces it after a restart.
    pub fn join(&self, group: &str, replica: u64, inbox: Inbox) {
        self.shared.lock().inboxes.insert((group.to_owned(), replica), inbox);
    }

    /// Makes a replica unreachable until it joins again.
    pub fn leave(&self, group: &str, replica: u64) {
        self.shared.lock().inboxes.remove(&(group.to_owned(), replica));
    }

    /// Cuts the link between two replicas, in both directions.
    pub fn cut(&self, a: u64, b: u64) {
        self.shared.lock().cut.extend([(a, b), (b, a)]);
    }

    /// Mends all links.
    pub fn mend(&self) {
        self.shared.lock().cut.clear();
    }

    fn route(&self, from: u64, message: &Message) -> Option<Inbox> {
        let shared = self.shared.lock();
        if shared.cut.contains(&(from, message.to)) {
            return None;
        }
        shared.inboxes.get(&(message.group.to_string(), message.to)).cloned()
    }
}

struct Endpoint {
    network: MemoryNetwork,
    replica: u64,
}

impl PeerTransport for Endpoint {
    fn call(&self, message: Message) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let (network, from) = (self.network.clone(), self.replica);
        Box::pin(async move {
            let unreachable = |reason: &str| PeerError::Unreachable {
                group: message.group.to_string(),
                replica: message.to,
                reason: reason.to_owned(),
            };
            let inbox = network.route(from, &message).ok_or_else(|| unreachable("no link"))?;
            let answer = inbox.receive(message.to, rpc::joined(&message.body)).await?;
            // A link that was cut in between loses the answer.
            network.route(from, &message).ok_or_else(|| unreachable("the link was cut"))?;
            Ok(answer)
        })
    }
}

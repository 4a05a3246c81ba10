//! A transport between hosts of one process, with links that can be cut and disturbed. For tests of code above groups.

mod link;

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

pub use self::link::{LinkFaults, LinkReport};
use self::link::{LinkState, Queues};
use crate::{
    inbox::Inbox,
    peer::{Message, PeerConnection, PeerError, PeerTransport, TrafficClass},
};

/// Connects the nodes that joined it. Cheap to clone.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    shared: Arc<MemoryNodes>,
}

#[derive(Default)]
struct MemoryNodes {
    inboxes: Mutex<BTreeMap<u64, Inbox>>,
    /// By (from, to).
    links: Mutex<BTreeMap<(u64, u64), Arc<MemoryLink>>>,
    tasks: TaskTracker,
}

impl MemoryNetwork {
    /// The transport of one node, for its host.
    #[must_use]
    pub fn transport(&self, node: u64) -> Arc<dyn PeerTransport> {
        Arc::new(NodeTransport { network: self.clone(), node })
    }

    /// Makes a node reachable, or replaces it after a restart.
    pub fn join(&self, node: u64, inbox: Inbox) {
        self.shared.inboxes.lock().insert(node, inbox);
    }

    /// Makes a node unreachable until it joins again. Its connections break.
    pub fn leave(&self, node: u64) {
        self.shared.inboxes.lock().remove(&node);
        for link in self.links(|from, to| from == node || to == node) {
            link.state.breaks();
        }
    }

    /// Cuts the link between two nodes, in both directions. Its connections break, and sending fails at once.
    pub fn cut(&self, a: u64, b: u64) {
        for link in self.both(a, b) {
            link.state.is_cut(true);
        }
        self.break_link(a, b);
    }

    /// Loses whatever `from` sends to `to`. Neither of them is told.
    pub fn cut_one_way(&self, from: u64, to: u64) {
        self.disturb(from, to, LinkFaults { loses_every: 1, ..LinkFaults::default() });
    }

    /// Breaks the connections between two nodes once: what is under way is lost.
    pub fn break_link(&self, a: u64, b: u64) {
        for link in self.both(a, b) {
            link.state.breaks();
        }
    }

    /// Breaks the connections between two nodes just before the `nth` further message of `class` arrives.
    pub fn break_link_before(&self, from: u64, to: u64, class: TrafficClass, nth: u64) {
        self.shared.link(from, to).state.break_before(class, nth);
    }

    /// Replaces the faults of the link from one node to another.
    pub fn disturb(&self, from: u64, to: u64, faults: LinkFaults) {
        self.shared.link(from, to).state.disturb(faults);
    }

    /// Mends all links.
    pub fn mend(&self) {
        for link in self.links(|_, _| true) {
            link.state.is_cut(false);
            link.state.disturb(LinkFaults::default());
        }
    }

    /// The messages that passed the link from one node to another so far.
    #[must_use]
    pub fn report(&self, from: u64, to: u64) -> LinkReport {
        self.shared.link(from, to).state.report()
    }

    fn both(&self, a: u64, b: u64) -> [Arc<MemoryLink>; 2] {
        [self.shared.link(a, b), self.shared.link(b, a)]
    }

    fn links(&self, chosen: impl Fn(u64, u64) -> bool) -> Vec<Arc<MemoryLink>> {
        let links = self.shared.links.lock();
        links.iter().filter(|((from, to), _)| chosen(*from, *to)).map(|(_, link)| link.clone()).collect()
    }
}

impl MemoryNodes {
    fn link(self: &Arc<Self>, from: u64, to: u64) -> Arc<MemoryLink> {
        let mut links = self.links.lock();
        let new = || Arc::new(MemoryLink::new(self, from, to));
        links.entry((from, to)).or_insert_with(new).clone()
    }
}

struct NodeTransport {
    network: MemoryNetwork,
    node: u64,
}

impl PeerTransport for NodeTransport {
    fn connect(&self, node: u64, _address: &str) -> Arc<dyn PeerConnection> {
        self.network.shared.link(self.node, node)
    }
}

/// One direction between two nodes: the sender's connection.
struct MemoryLink {
    nodes: Weak<MemoryNodes>,
    from: u64,
    to: u64,
    state: Arc<LinkState>,
    queues: Queues,
}

impl MemoryLink {
    /// The queues' tasks hold no link, so that they end with it.
    fn new(nodes: &Arc<MemoryNodes>, from: u64, to: u64) -> Self {
        let state = Arc::new(LinkState::default());
        let (arriving, weak) = (state.clone(), Arc::downgrade(nodes));
        let deliver = move |class, message: Message| {
            let Some(nodes) = weak.upgrade() else { return };
            if arriving.is_breaking(class) {
                arriving.breaks();
                nodes.link(to, from).state.breaks();
                return;
            }
            let Some(inbox) = nodes.inboxes.lock().get(&to).cloned() else { return };
            let way_back = nodes.link(to, from);
            arriving.arrives(class, &message, &way_back.state);
            let connection: Arc<dyn PeerConnection> = way_back;
            inbox.deliver(&connection, class, message);
        };
        let queues = Queues::start(&nodes.tasks, &state, deliver);
        Self { nodes: Arc::downgrade(nodes), from, to, state, queues }
    }
}

impl PeerConnection for MemoryLink {
    fn send(&self, class: TrafficClass, message: Message) -> BoxFuture<'static, Result<(), PeerError>> {
        let unreachable = |reason: &str| PeerError::Unreachable { reason: reason.to_owned() };
        let nodes = self.nodes.upgrade();
        let is_there = nodes.is_some_and(|nodes| nodes.inboxes.lock().contains_key(&self.to));
        if !is_there || self.state.cut() {
            let error = unreachable(&format!("node {} has no link to node {}", self.from, self.to));
            return Box::pin(async { Err(error) });
        }
        self.queues.send(class, message)
    }

    fn breaks(&self) -> watch::Receiver<u64> {
        self.state.subscribe_breaks()
    }
}

//! The parts that all groups of one node share: their timing, transport and environment, and the inbox of those that
//! are open.

use std::sync::Arc;

use fanfare_environment::Environment;
use fanfare_log::Store;

use crate::{
    format_version::{ClusterFormat, FormatVersion},
    inbox::Inbox,
    peer::{NoPeers, PeerTransport, Peers, Requests},
};

/// When replicas speak and how long they wait, for all groups of a cluster alike.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub heartbeat_ms: u64,
    /// A follower campaigns when it has heard no leader for `election_max_ms`, the leader's lease, plus a random time
    /// between `election_min_ms` and `election_max_ms`.
    pub election_min_ms: u64,
    pub election_max_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { heartbeat_ms: 150, election_min_ms: 300, election_max_ms: 600 }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct HostOptions {
    pub timing: Timing,
}

/// Carries the groups of one node and receives their peers' messages. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    shared: Arc<Shared>,
}

struct Shared {
    options: HostOptions,
    store: Store,
    peers: Arc<Peers>,
    environment: Environment,
    inbox: Inbox,
    format: ClusterFormat,
}

impl Host {
    #[must_use]
    pub fn new(
        options: HostOptions,
        store: Store,
        transport: Arc<dyn PeerTransport>,
        environment: Environment,
    ) -> Self {
        let requests = Requests::new(&environment);
        let inbox = Inbox::new(requests.clone());
        let peers = Arc::new(Peers::new(transport, requests));
        let format = ClusterFormat::default();
        Self { shared: Arc::new(Shared { options, store, peers, environment, inbox, format }) }
    }

    /// The host of a node that is alone, with the default timing.
    #[must_use]
    pub fn without_peers(store: Store, environment: Environment) -> Self {
        Self::new(HostOptions::default(), store, Arc::new(NoPeers), environment)
    }

    /// Tells the groups which format version the cluster is at; until then the first. Nothing above it is proposed. A
    /// lower version than an earlier one changes nothing.
    pub fn raise_format_version(&self, version: FormatVersion) {
        self.shared.format.raise(version);
    }

    /// The format version to encode at.
    #[must_use]
    pub fn format_version(&self) -> FormatVersion {
        self.shared.format.current()
    }

    pub(crate) fn format(&self) -> &ClusterFormat {
        &self.shared.format
    }

    /// The transport delivers here what peers send to any group of this host.
    #[must_use]
    pub fn inbox(&self) -> &Inbox {
        &self.shared.inbox
    }

    #[must_use]
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.shared.environment
    }

    #[must_use]
    pub fn timing(&self) -> Timing {
        self.shared.options.timing
    }

    pub(crate) fn peers(&self) -> &Arc<Peers> {
        &self.shared.peers
    }
}

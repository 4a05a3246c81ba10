//! The groups of one node: one place for their timing, transport and environment, and the table of those that are
//! open.

use std::sync::Arc;

use fanfare_environment::Environment;
use fanfare_log::{Log, Store};
use openraft::{Config, ConfigError, SnapshotPolicy};
use parking_lot::RwLock;

use crate::{
    error::OpenError,
    format_version::{ClusterFormat, FormatVersion},
    group::{Group, GroupOptions},
    id::{GroupId, ReplicaId},
    inbox::Inbox,
    machine::StateMachine,
    peer::{NoPeers, PeerTransport, Peers, Requests},
    replica::{Identity, PROPOSAL_PERMITS, Replica},
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

/// Opens the groups of one node and receives their peers' messages. Cheap to clone.
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

    /// Recovers machine and log of one replica and starts its tasks. Does not wait for a leader, but a group whose
    /// only voter is this replica has begun to elect it. `log` is the log named after `group`, opened for `replica`.
    ///
    /// # Errors
    /// If checkpoint or log are damaged, do not fit each other, or cannot be read.
    ///
    /// # Panics
    /// If the group is open on this host already.
    pub async fn open<S: StateMachine>(
        &self,
        group: GroupId,
        replica: ReplicaId,
        log: Log,
        machine: S,
        options: GroupOptions,
    ) -> Result<Group<S>, OpenError> {
        let machine = Arc::new(RwLock::new(machine));
        let replica = Replica::open(self, Identity { group, replica }, log, machine.clone(), options).await?;
        Ok(Group::new(machine, Arc::new(replica)))
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

/// openraft's configuration of one group.
pub(crate) fn engine_config(group: GroupId, timing: Timing) -> Result<Arc<Config>, ConfigError> {
    let Timing { heartbeat_ms, election_min_ms, election_max_ms } = timing;
    // The longest silence that a follower hears must stay below its election timeout.
    let silence_ms = heartbeat_ms + heartbeat_ms / 4 + 1;
    let heartbeat_min_ms = election_min_ms.saturating_sub(silence_ms + 1).min(heartbeat_ms / 2);
    let config = Config {
        cluster_name: group.to_string(),
        heartbeat_interval: heartbeat_ms,
        // An append tells a follower as much as a heartbeat does.
        heartbeat_min_interval: Some(heartbeat_min_ms),
        election_timeout_min: election_min_ms,
        election_timeout_max: election_max_ms,
        // CheckQuorum: a leader that no quorum answers falls silent for a while, so that those who still hear it elect
        // another. Without that, a cut in one direction would leave the group without writes for ever.
        quorum_loss_probe_interval: Some(2 * election_max_ms),
        // Snapshots are taken when a durable checkpoint has a new base, and the log is purged exactly up to it.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        purge_batch_size: 1,
        api_channel_size: Some(u64::from(PROPOSAL_PERMITS) * 2),
        enable_pre_vote: Some(true),
        // Switched on when the group has had its first chance to elect itself.
        enable_elect: false,
        // A restarted leader must win an election: its in-memory state of the former term is gone.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().map(Arc::new)
}

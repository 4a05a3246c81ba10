//! One replica of a test group, which can be stopped and opened again on the same files.

use std::{path::PathBuf, sync::Arc, time::Duration};

use fanfare_environment::Environment;
use fanfare_log::{FileSystem, Log, MemoryFileSystem, RollPolicy, Store, StoreOptions};
use fanfare_model::{PartitionId, Stream};
use parking_lot::{Mutex, RwLock};
use tokio::{sync::watch, time::timeout};

use super::ledger::{Calls, Ledger};
use crate::{
    Group, GroupId, GroupOptions, Host, HostOptions, Member, OpenError, PeerTransport, PendingProposal,
    Proposal, ReplicaId, Role, Timing, apply::Applier, checkpoint::Checkpoints, members::MembersRecord,
};

/// Longer than anything takes on a busy machine; a test that waits this long has failed.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);
pub(super) const GROUP: GroupId = GroupId::Partition(PartitionId { stream: Stream::Events, index: 0 });

/// The files of one replica.
#[derive(Clone)]
pub(super) struct Files {
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) dir: PathBuf,
    pub(super) segment_bytes: u64,
}

impl Files {
    pub(super) fn in_memory() -> Self {
        Self::over(MemoryFileSystem::default())
    }

    pub(super) fn over(fs: MemoryFileSystem) -> Self {
        Self { fs: Arc::new(fs), dir: PathBuf::from("/data"), segment_bytes: 4096 }
    }

    pub(super) fn store(&self) -> Store {
        let options = StoreOptions {
            segment_bytes: self.segment_bytes,
            pool_segments_max: 2,
            cache_bytes: 64 << 20,
            queue_bytes_max: 64 << 20,
            index_draft_bytes_max: 64 << 20,
            page_cache_bytes: 0,
        };
        Store::open(
            &fanfare_environment::Environment::system(),
            self.fs.clone(),
            &self.dir,
            options,
            Box::new(|_| ()),
        )
        .unwrap()
    }

    pub(super) fn log(&self, store: &Store, replica: u64) -> Log {
        let roll = RollPolicy { segment_bytes: self.segment_bytes, age_ms: u64::MAX };
        store.open_log(&GROUP.to_string(), replica, roll).unwrap()
    }
}

/// A machine without an anchor over `log`, without a group around it.
pub(super) fn applier(store: &Store, log: &Log) -> Arc<Applier> {
    Arc::new(Applier {
        machine: Arc::new(RwLock::new(Ledger::unanchored(Arc::new(Calls::default())))),
        progress: Mutex::default(),
        checkpoints: Checkpoints::new(store.clone(), GROUP, Environment::system()),
        log: log.clone(),
        installed: Arc::default(),
        members: Arc::new(MembersRecord::new(store.clone(), GROUP, Environment::system())),
        applied_leader: watch::Sender::new(None),
        failure: Arc::default(),
    })
}

pub(super) struct Node {
    pub(super) files: Files,
    pub(super) replica: u64,
    pub(super) calls: Arc<Calls>,
    pub(super) store: Store,
    pub(super) host: Host,
    pub(super) group: Group<Ledger>,
}

/// Replica and timing of a node; its number is the replica's.
#[derive(Clone, Copy)]
pub(super) struct Settings {
    pub(super) replica: u64,
    pub(super) timing: Timing,
}

pub(super) fn settings(replica: u64) -> Settings {
    // No replica must lose leadership because a test machine is busy.
    let timing = Timing { heartbeat_ms: 100, election_min_ms: 1000, election_max_ms: 2000 };
    Settings { replica, timing }
}

pub(super) fn member(replica: u64) -> Member {
    Member { replica: ReplicaId(replica), node: replica, address: format!("node-{replica}") }
}

impl Node {
    pub(super) async fn open(files: Files, replica: u64, transport: Arc<dyn PeerTransport>) -> Self {
        Self::try_open(files, settings(replica), transport, Ledger::anchored).await.unwrap()
    }

    pub(super) async fn try_open(
        files: Files,
        settings: Settings,
        transport: Arc<dyn PeerTransport>,
        machine: impl FnOnce(Arc<Calls>) -> Ledger,
    ) -> Result<Self, OpenError> {
        let Settings { replica, timing } = settings;
        let calls = Arc::new(Calls::default());
        let store = files.store();
        let log = files.log(&store, replica);
        let host = Host::new(HostOptions { timing }, store.clone(), transport, Environment::system());
        let options = GroupOptions { checkpoint_interval_ms: 20, snapshot_entries: 50 };
        match Group::open(&host, GROUP, ReplicaId(replica), log, machine(calls.clone()), options).await {
            Ok(group) => Ok(Self { files, replica, calls, store, host, group }),
            Err(error) => {
                store.close();
                Err(error)
            }
        }
    }

    /// Stops in order, and gives the files back.
    pub(super) async fn stop(self) -> Files {
        self.group.shutdown().await;
        self.store.close();
        self.files
    }

    /// The term in which this replica leads, as soon as it does.
    pub(super) async fn leading(&self) -> u64 {
        let mut role = self.group.role();
        let led = role.wait_for(|role| matches!(role, Role::Leader { .. }));
        let led = *timeout(DEADLINE, led).await.expect("a leader in time").unwrap();
        let Role::Leader { term } = led else { unreachable!("waited for it") };
        term
    }

    pub(super) async fn propose(&self, term: u64, proposal: Proposal) -> PendingProposal<u64> {
        timeout(DEADLINE, self.group.propose(term, proposal)).await.expect("proposed in time").unwrap()
    }

    /// Proposes and waits until it is applied here.
    pub(super) async fn apply(&self, term: u64, proposal: Proposal) -> crate::Applied<u64> {
        let pending = self.propose(term, proposal).await;
        timeout(DEADLINE, pending.applied()).await.expect("applied in time").unwrap()
    }

    /// Waits until the machine looks as asked.
    pub(super) async fn reaches(&self, what: &str, condition: impl Fn(&Ledger) -> bool) {
        let mut applied = self.group.read(|ledger| ledger.applied.subscribe());
        let reached = async {
            while !self.group.read(&condition) {
                applied.changed().await.unwrap();
            }
        };
        timeout(DEADLINE, reached).await.unwrap_or_else(|_| panic!("replica {}: {what}", self.replica));
    }

    pub(super) async fn applies_upto(&self, index: u64) {
        self.reaches(&format!("applies up to {index}"), |ledger| ledger.applied.borrow().index >= index)
            .await;
    }

    /// Waits until the log begins after `index`.
    pub(super) async fn purges_upto(&self, index: u64) {
        let purged =
            eventually(|| self.group.log().bounds().purged.is_some_and(|purged| purged.index >= index));
        timeout(DEADLINE, purged).await.unwrap_or_else(|_| panic!("replica {}: purges", self.replica));
    }
}

/// Looks again and again; the caller sets the deadline.
pub(super) async fn eventually(condition: impl Fn() -> bool) {
    let mut look = tokio::time::interval(Duration::from_millis(2));
    while !condition() {
        look.tick().await;
    }
}

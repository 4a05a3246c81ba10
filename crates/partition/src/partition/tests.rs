//! A whole partition, alone, over files in memory: a crash leaves what was synced and nothing else.

mod delivery;
mod failure;
mod lookup;
mod publish;
mod reading;
mod replicas;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use fanfare_environment::{Clock, Environment};
use fanfare_log::{MemoryFileSystem, StoreOptions, memory::Keep};
use fanfare_model::{AccountId, EventIdHash, Offset, PartitionId, ReplicaId, Timestamp};
use fanfare_raft::Host;
use tokio::{sync::oneshot, time::timeout};
use tokio_util::task::TaskTracker;

use super::*;
use crate::{
    Appended, Budgets, MemoryLimits, PartitionReplica, RecordBatch, StoredEvent, batch::tests::batch,
};

/// Longer than anything here takes on a busy machine; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(20);
const ID: PartitionId = PartitionId { stream: fanfare_model::Stream::Events, index: 3 };
const MEMORY: MemoryLimits =
    MemoryLimits { dedup_bytes_max: 1 << 20, queue_bytes_max: 16 << 20, read_cache_bytes_max: 4 << 20 };

struct TestClock(AtomicU64);

impl TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

impl Clock for TestClock {
    fn unix_ms(&self) -> u64 {
        self.now().0
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.now().0)
    }
}

/// A partition, its files, and its clock.
struct Node {
    fs: MemoryFileSystem,
    store: fanfare_log::Store,
    host: Host,
    partition: Partition,
    clock: Arc<TestClock>,
}

fn open_store(fs: &MemoryFileSystem, options: &PartitionOptions) -> fanfare_log::Store {
    let store_options = StoreOptions {
        segment_bytes: options.segment_bytes,
        pool_segments_max: 2,
        cache_bytes: 1 << 20,
        queue_bytes_max: 8 << 20,
        index_draft_bytes_max: 64 << 20,
        page_cache_bytes: 0,
    };
    let fatal = Box::new(|fatal: &fanfare_log::Fatal| panic!("{fatal}"));
    let (environment, files) = (Environment::system(), Arc::new(fs.clone()));
    fanfare_log::Store::open(&environment, files, Path::new("/data"), store_options, fatal).unwrap()
}

fn options() -> PartitionOptions {
    PartitionOptions {
        retention_ms: 60_000,
        retention_bytes: 1 << 30,
        segment_bytes: 1 << 20,
        entry_bytes_max: 1 << 20,
        dedup_window_ms: 10_000,
        checkpoint_interval_ms: 5,
        quota: None,
    }
}

impl Node {
    async fn new() -> Self {
        Self::open(MemoryFileSystem::default(), options(), 1_000_000).await
    }

    /// Opens, and waits until it leads.
    async fn open(fs: MemoryFileSystem, options: PartitionOptions, now: u64) -> Self {
        let node = Self::open_any(fs, options, now).await;
        node.leads().await;
        node
    }

    async fn open_any(fs: MemoryFileSystem, options: PartitionOptions, now: u64) -> Self {
        Self::open_with(fs, (ID, MEMORY), options, now).await
    }

    async fn open_with(
        fs: MemoryFileSystem,
        (id, memory): (PartitionId, MemoryLimits),
        options: PartitionOptions,
        now: u64,
    ) -> Self {
        let store = open_store(&fs, &options);
        let clock = Arc::new(TestClock(AtomicU64::new(now)));
        let host = Host::without_peers(store.clone(), Environment::system().with_clock(clock.clone()));
        let alone = PartitionReplica::alone(id, ReplicaId(1), &host);
        let budgets = Budgets::new(memory, 1);
        let partition = Partition::open(alone, &host, options, &budgets, TaskTracker::new()).await.unwrap();
        Self { fs, store, host, partition, clock }
    }

    async fn leads(&self) {
        let mut role = self.partition.role();
        let leads = role.wait_for(|role| matches!(role, Role::Leader { .. }));
        timeout(DEADLINE, leads).await.expect("the partition leads in time").expect("the group runs");
    }

    /// Power off and on again: only what was synced is left.
    async fn crash(self) -> Self {
        self.crash_with(options()).await
    }

    async fn crash_with(self, options: PartitionOptions) -> Self {
        let fs = self.fs.crashed(|_| Keep::Nothing);
        let now = self.clock.now().0;
        drop(self);
        Self::open(fs, options, now).await
    }

    /// An orderly stop and start.
    async fn restart(self) -> Self {
        let now = self.clock.now().0;
        Self::open(self.stop().await, options(), now).await
    }

    async fn stop(self) -> MemoryFileSystem {
        self.partition.shutdown().await;
        self.store.close();
        self.fs
    }

    fn pass(&self, millis: u64) {
        self.clock.0.fetch_add(millis, Ordering::Relaxed);
    }

    async fn append(&self, batch: RecordBatch) -> Appended {
        self.partition.append(batch).expect("it is queued").committed().await.expect("it is committed")
    }

    /// Positions as applied; watchers see them a little later.
    fn positions(&self) -> Positions {
        self.open_backing().group.read(Machine::positions)
    }

    fn open_backing(&self) -> &OpenPartition {
        let Ok(open) = self.partition.open_backing() else { panic!("the log is damaged") };
        open
    }

    fn term(&self) -> u64 {
        match *self.partition.role().borrow() {
            Role::Leader { term } => term,
            role => panic!("it does not lead: {role:?}"),
        }
    }

    /// Everything readable, of the account or of all, as (offset, text); read in chunks of `bytes_max`.
    async fn events(&self, from: u64, account: Option<u8>, bytes_max: u64) -> Vec<(u64, String)> {
        let accounts = account.map_or(AccountFilter::All, |account| AccountFilter::One(account_id(account)));
        let (mut next, mut events) = (Offset(from), Vec::new());
        loop {
            let chunk = self.partition.read(next, accounts.clone(), bytes_max).await.expect("it is readable");
            assert!(chunk.next >= next);
            if chunk.batches.is_empty() {
                assert_eq!(chunk.next, self.positions().high_watermark.max(next));
                return events;
            }
            events.extend(
                chunk
                    .batches
                    .iter()
                    .flat_map(|batch| batch.events().map(|event| text(&event)).collect::<Vec<_>>()),
            );
            next = chunk.next;
        }
    }
}

fn account_id(number: u8) -> AccountId {
    AccountId::from_bytes([number; 16])
}

fn text(event: &StoredEvent) -> (u64, String) {
    (event.offset.0, String::from_utf8(event.bytes.to_vec()).expect("tests write text"))
}

fn numbered(from: u64, events: &[&str]) -> Vec<(u64, String)> {
    events.iter().zip(from..).map(|(event, offset)| (offset, (*event).to_owned())).collect()
}

fn id(event: &str) -> EventIdHash {
    EventIdHash::of("/test", event)
}

fn first_segment(fs: &MemoryFileSystem) -> PathBuf {
    let segment = fs.paths().into_iter().find(|path| path.extension().is_some_and(|ext| ext == "seg"));
    segment.expect("the log has a segment")
}

use std::{path::Path, time::Duration};

use fanfare_catalog::{CatalogOptions, MemoryView, ViewStorage};
use fanfare_environment::Environment;
use fanfare_log::{MemoryFileSystem, Store, StoreOptions};
use fanfare_model::{AccountId, EventIdHash, KeyHash};
use fanfare_partition::{AppendError, AppendOrder, MemoryLimits, RecordBatch, RecordBatchBuilder};
use tokio::time::timeout;

use super::*;
use crate::{NoForwarder, RouteError};

/// Longer than anything here takes on a busy machine; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(60);
const SEGMENT_BYTES: u64 = 1 << 20;

/// A node without a face: its files, its catalog and its replicas.
struct Node {
    files: MemoryFileSystem,
    view: MemoryView,
    store: Store,
    catalog: Catalog,
    replicas: Replicas,
}

fn streams(events: u16) -> Vec<StreamOptions> {
    let partition = PartitionOptions {
        retention_ms: 3_600_000,
        retention_bytes: 1 << 30,
        segment_bytes: SEGMENT_BYTES,
        entry_bytes_max: 1 << 20,
        dedup_window_ms: 600_000,
        checkpoint_interval_ms: 1000,
        quota: None,
    };
    let stream = |stream, partitions| StreamOptions { stream, partitions, partition: partition.clone() };
    vec![stream(Stream::Events, events), stream(Stream::DeadLetters, 1)]
}

fn batch(id: u128) -> RecordBatch {
    let mut batch = RecordBatchBuilder::new(AccountId::from_bytes([1; 16]), 1);
    batch.push(b"an event", EventIdHash(id), KeyHash(7));
    batch.finish()
}

impl Node {
    /// Does not wait until anything is applied.
    async fn open_at_once(files: MemoryFileSystem, view: MemoryView, events: u16) -> Self {
        let options = StoreOptions {
            segment_bytes: SEGMENT_BYTES,
            pool_segments_max: 1,
            cache_bytes: 8 << 20,
            queue_bytes_max: 8 << 20,
            index_draft_bytes_max: 64 << 20,
            page_cache_bytes: 0,
        };
        let environment = Environment::system();
        let (disk, fatal) = (Arc::new(files.clone()), Box::new(|_: &fanfare_log::Fatal| ()));
        let store = Store::open(&environment, disk, Path::new("/data"), options, fatal).unwrap();
        let host = Host::without_peers(store.clone(), environment);
        let storage = ViewStorage::Memory(view.clone());
        let opened = timeout(DEADLINE, Catalog::open(&host, storage, CatalogOptions::default()));
        let catalog = opened.await.expect("it opens in time").unwrap();
        let memory = MemoryLimits {
            dedup_bytes_max: 8 << 20,
            queue_bytes_max: 64 << 20,
            read_cache_bytes_max: 16 << 20,
        };
        let parts = ReplicasParts {
            catalog: catalog.clone(),
            host,
            budgets: Budgets::new(memory, u64::from(events) + 1),
            streams: streams(events),
            forwarder: Arc::new(NoForwarder),
            tasks: TaskTracker::new(),
        };
        let replicas = timeout(DEADLINE, Replicas::open(parts)).await.expect("they open in time").unwrap();
        Self { files, view, store, catalog, replicas }
    }

    async fn open(files: MemoryFileSystem, view: MemoryView, events: u16) -> Self {
        let node = Self::open_at_once(files, view, events).await;
        node.replicas.directory().wait_for_leaders(DEADLINE).await;
        node
    }

    async fn new(events: u16) -> Self {
        Self::open(MemoryFileSystem::default(), MemoryView::default(), events).await
    }

    async fn stop(self) -> (MemoryFileSystem, MemoryView) {
        let Self { files, view, store, catalog, replicas } = self;
        timeout(DEADLINE, replicas.shutdown()).await.expect("the replicas stop in time");
        timeout(DEADLINE, catalog.shutdown()).await.expect("the catalog stops in time");
        store.close();
        (files, view)
    }

    fn ids(&self) -> Vec<(PartitionId, ReplicaId)> {
        let view = self.catalog.view();
        view.cluster.replicas.iter().map(|placed| (placed.partition, placed.id)).collect()
    }

    async fn append(&self, index: u16, id: u128) -> Result<(), AppendError> {
        let directory = self.replicas.directory();
        let mut order = AppendOrder::default();
        let partition = directory.local(PartitionId::events(index))?;
        let pending = partition.append_in_order(&mut order, batch(id))?;
        timeout(DEADLINE, pending.committed()).await.expect("it commits in time").map(drop)
    }

    fn open_partitions(&self) -> Vec<PartitionId> {
        let locations = self.replicas.directory().watch().borrow().clone();
        locations.values().filter_map(|location| location.local().map(Partition::id)).collect()
    }

    /// Waits until the directory answers so about events/`index`.
    async fn located(&self, index: u16, expected: bool) {
        let mut locations = self.replicas.directory().watch();
        let id = PartitionId::events(index);
        let located = locations.wait_for(|locations| locations.contains_key(&id) == expected);
        timeout(DEADLINE, located).await.expect("the replica follows the catalog in time").unwrap();
    }
}

#[tokio::test]
async fn restart_keeps_the_replica_ids_and_the_events() {
    let node = Node::new(3).await;
    let ids = node.ids();
    assert_eq!(ids.len(), 4);
    node.append(2, 1).await.unwrap();
    let (files, view) = node.stop().await;

    let node = Node::open(files, view, 3).await;
    assert_eq!(node.ids(), ids);
    let partition = node.replicas.directory().local(PartitionId::events(2)).unwrap();
    assert_eq!(partition.positions().borrow().high_watermark.0, 1);
    let (files, view) = node.stop().await;

    // More partitions are placed beside those that are there.
    let node = Node::open(files, view, 5).await;
    let more = node.ids();
    assert!(ids.iter().all(|id| more.contains(id)) && more.len() == 6, "{more:?}");
    let open: Vec<_> = (0..5).map(PartitionId::events).chain([PartitionId::dead_letters(0)]).collect();
    assert_eq!(node.open_partitions(), open);
    node.append(4, 1).await.unwrap();
    node.stop().await;
}

#[tokio::test]
async fn nothing_is_read_before_what_was_acknowledged_is_applied() {
    let node = Node::new(1).await;
    for id in 0..100 {
        node.append(0, id).await.unwrap();
    }
    let (files, view) = node.stop().await;
    let node = Node::open_at_once(files, view, 1).await;
    let (directory, partition) = (node.replicas.directory(), PartitionId::events(0));
    let recovered = directory.recovered(partition).await.unwrap();
    assert_eq!(recovered.positions().borrow().high_watermark.0, 100);
    node.stop().await;
    let refused = directory.recovered_now(partition).map(drop);
    assert_eq!(refused, Err(RouteError::Recovering { partition }), "a closed one has nothing to show");
}

#[tokio::test]
async fn a_partition_that_is_not_here_is_a_typed_error() {
    let node = Node::new(1).await;
    let directory = node.replicas.directory();
    let missing = PartitionId::events(7);
    assert_eq!(directory.local(missing).map(drop), Err(RouteError::NotFound { partition: missing }));
    let refused = node.append(7, 1).await.unwrap_err();
    assert!(matches!(refused, AppendError::NotLeader { partition, .. } if partition == missing), "{refused}");
    assert_eq!(node.open_partitions(), [PartitionId::events(0), PartitionId::dead_letters(0)]);
    node.stop().await;
}

#[tokio::test]
async fn replicas_open_and_close_as_the_catalog_places_them() {
    let node = Node::new(1).await;
    let broker = node.catalog.broker();
    node.catalog.assign_replicas(broker, vec![PartitionId::events(1)]).await.unwrap();
    node.located(1, true).await;
    node.replicas.directory().wait_for_leaders(DEADLINE).await;
    node.append(1, 1).await.unwrap();

    node.catalog.remove_replicas(broker, vec![PartitionId::events(0)]).await.unwrap();
    node.located(0, false).await;
    assert!(matches!(node.append(0, 1).await, Err(AppendError::NotLeader { .. })));
    node.append(1, 2).await.unwrap();
    node.stop().await;
}

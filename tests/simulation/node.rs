//! One node as `fanfare serve` wires it, with simulated parts below and without a listener above.

use std::{path::Path, sync::Arc, time::Duration};

use fanfare_catalog::{Catalog, CatalogOptions, ViewStorage};
use fanfare_cluster::{Directory, NoForwarder, Replicas, ReplicasParts, StreamOptions};
use fanfare_control::Control;
use fanfare_delivery::{Delivery, DeliveryOptions, DeliveryParts, RetryPolicy};
use fanfare_environment::Environment;
use fanfare_ingest::{EventReader, Ingest, IngestLimits, IngestParts, ReadLimits};
use fanfare_log::{FileSystem, Store, StoreOptions};
use fanfare_model::Stream;
use fanfare_partition::{Budgets, MemoryLimits, PartitionOptions, Quota};
use fanfare_raft::Host;
use fanfare_sinks::{EgressPolicy, Factory};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    disk::SimulatedDisk,
    receiver::SimulatedNetwork,
    retention::Retention,
    world::{End, Power, World},
};

pub(crate) const PARTITIONS: u16 = 2;
pub(crate) const WINDOW_EVENTS: usize = 16;
const DATA_DIR: &str = "/data/fanfare";
const SEGMENT_BYTES: u64 = 32 << 10;
const DRAIN: Duration = Duration::from_secs(10);

pub(crate) struct SimulatedNode {
    pub(crate) catalog: Catalog,
    pub(crate) directory: Directory,
    pub(crate) ingest: Ingest,
    pub(crate) reader: EventReader,
    pub(crate) control: Control,
    store: Store,
    environment: Environment,
    replicas: Replicas,
    delivery: Delivery,
    tasks: TaskTracker,
    stop_serving: CancellationToken,
}

/// The simulated parts below one life of a node.
pub(crate) struct NodeParts {
    pub(crate) world: Arc<World>,
    pub(crate) power: Arc<Power>,
    pub(crate) disk: SimulatedDisk,
    pub(crate) network: SimulatedNetwork,
    pub(crate) environment: Environment,
}

impl SimulatedNode {
    pub(crate) async fn start(parts: NodeParts) -> anyhow::Result<Self> {
        let NodeParts { world, power, disk, network, environment } = parts;
        let tasks = TaskTracker::new();
        let on_fatal = {
            let (disk, power) = (disk.clone(), power);
            // The process ends inside the call that failed.
            move |fatal: &fanfare_log::Fatal| {
                if !power.is_off() {
                    disk.end_now(End::Exit(fatal.to_string()));
                }
            }
        };
        let fs: Arc<dyn FileSystem> = Arc::new(disk);
        let store = Store::open(&environment, fs, Path::new(DATA_DIR), store_options(), Box::new(on_fatal))?;
        let host = Host::without_peers(store.clone(), environment.clone());
        let view = ViewStorage::Memory(world.view.clone());
        let options =
            CatalogOptions { partitions: PARTITIONS, snapshot_entries: 8, ..CatalogOptions::default() };
        let catalog = Catalog::open(&host, view, options).await?;
        let replicas = Replicas::open(ReplicasParts {
            catalog: catalog.clone(),
            host,
            budgets: budgets(),
            streams: streams(world.retention),
            forwarder: Arc::new(NoForwarder),
            tasks: tasks.clone(),
        })
        .await?;
        let directory = replicas.directory();
        let policy = EgressPolicy { allow_http: true, ..EgressPolicy::default() };
        let sinks = Factory::over(Arc::new(network), policy, environment.clone());
        let delivery = Delivery::start(
            DeliveryParts {
                catalog: catalog.clone(),
                directory: directory.clone(),
                sinks: sinks.clone(),
                environment: environment.clone(),
            },
            delivery_options(world.advance_interval_ms),
        );
        let stop_serving = CancellationToken::new();
        let parts = IngestParts {
            catalog: catalog.clone(),
            directory: directory.clone(),
            environment: environment.clone(),
            tasks: tasks.clone(),
            stop: stop_serving.clone(),
        };
        let node = Self {
            ingest: Ingest::new(parts.clone(), ingest_limits()),
            reader: EventReader::new(parts, ReadLimits { reads_max: 8, account_reads_max: 8 }),
            control: Control::new(catalog.clone(), delivery.clone(), sinks, environment.clone()),
            catalog,
            directory: directory.clone(),
            store: store.clone(),
            environment,
            replicas,
            delivery,
            tasks,
            stop_serving,
        };
        store.keep_pool_filled(Duration::from_secs(2))?;
        directory.wait_for_leaders(Duration::from_secs(5)).await;
        Ok(node)
    }

    /// As `fanfare serve` at a SIGTERM.
    pub(crate) async fn shutdown(&self) {
        self.stop_serving.cancel();
        self.delivery.shutdown(DRAIN).await;
        self.replicas.shutdown().await;
        self.catalog.shutdown().await;
        self.tasks.close();
        let store = self.store.clone();
        self.environment.run_blocking(move || store.close()).await;
        drop(tokio::time::timeout(DRAIN, self.tasks.wait()).await);
    }
}

fn store_options() -> StoreOptions {
    StoreOptions {
        segment_bytes: SEGMENT_BYTES,
        pool_segments_max: 2,
        cache_bytes: 128 << 10,
        queue_bytes_max: 1 << 20,
        index_draft_bytes_max: 1 << 20,
        page_cache_bytes: 256 << 10,
    }
}

fn budgets() -> Budgets {
    let limits =
        MemoryLimits { dedup_bytes_max: 48 << 20, queue_bytes_max: 3 << 20, read_cache_bytes_max: 3 << 18 };
    Budgets::new(limits, u64::from(PARTITIONS) + 1)
}

fn streams(retention: Retention) -> Vec<StreamOptions> {
    let events = PartitionOptions {
        retention_ms: 3_600_000,
        retention_bytes: 3 * SEGMENT_BYTES,
        segment_bytes: SEGMENT_BYTES,
        entry_bytes_max: 8 << 10,
        dedup_window_ms: retention.dedup_window_ms(),
        checkpoint_interval_ms: 300,
        quota: None,
    };
    let quota = Some(Quota::Limit { account_bytes_max: 32 << 20, stream_bytes_max: 64 << 20 });
    let dead_letters = PartitionOptions { retention_bytes: u64::MAX, quota, ..events };
    vec![
        StreamOptions { stream: Stream::Events, partitions: PARTITIONS, partition: events },
        StreamOptions { stream: Stream::DeadLetters, partitions: 1, partition: dead_letters },
    ]
}

fn delivery_options(advance_interval_ms: u64) -> DeliveryOptions {
    DeliveryOptions {
        window_events: WINDOW_EVENTS,
        window_bytes: 256 << 10,
        advance_interval_ms,
        sink_concurrency: 8,
        retry: RetryPolicy {
            initial_ms: 100,
            max_ms: 2_000,
            factor: 2.0,
            attempts_max: None,
            rejections_min: 10,
            rejected_for_min_ms: 600_000,
            probe_initial_ms: 200,
            probe_max_ms: 1_000,
        },
        parked_keys_max: 16,
        fanout_chunk_bytes: 32 << 10,
    }
}

fn ingest_limits() -> IngestLimits {
    IngestLimits {
        event_bytes_max: 64 << 10,
        request_bytes_max: 256 << 10,
        inflight_bytes_max: 1 << 20,
        stream_window_events: 256,
        stream_window_bytes: 256 << 10,
        schema_cache_bytes: 1 << 20,
    }
}

//! The wiring of one node, in the order in which its parts come up; shutdown is the reverse.

use std::{io, net::SocketAddr, process, sync::Arc, time::Duration};

use anyhow::Context;
use fanfare_catalog::{Catalog, CatalogOptions, ViewStorage};
use fanfare_cluster::{NoForwarder, Replicas, ReplicasParts};
use fanfare_control::Control;
use fanfare_delivery::{Delivery, DeliveryParts};
use fanfare_edge::{ListenerLimits, Services};
use fanfare_environment::Environment;
use fanfare_ingest::{EventReader, Ingest, IngestParts};
use fanfare_log::{DiskFileSystem, Fatal, OpenError, Store};
use fanfare_raft::Host;
use fanfare_sinks::{EgressPolicy, Factory};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{config::Config, data_directory, descriptors, disk_watch, terminal};

/// Exit code of a process whose disk failed a write or a sync, or answers none any more. Nothing is acknowledged after that; a restart
/// reads back what is really there.
pub(crate) const EXIT_DISK_FAILED: i32 = 74;
/// Exit code of a process that may open no more files, even after it has waited for others to close theirs.
pub(crate) const EXIT_FILES_EXHAUSTED: i32 = 75;
/// Exit code of a process that can no longer accept connections.
pub(crate) const EXIT_LISTENER_FAILED: i32 = 71;

/// Spare segments are written again when no segment was started for so long.
const POOL_QUIET: Duration = Duration::from_secs(2);
/// Longest wait of a start for the leaders of its partitions.
const LEADER_DEADLINE: Duration = Duration::from_secs(5);

/// A running node.
pub(crate) struct Node {
    pub(crate) catalog: Catalog,
    pub(crate) grpc: SocketAddr,
    config: Config,
    store: Store,
    replicas: Replicas,
    delivery: Delivery,
    tasks: TaskTracker,
    stop_serving: CancellationToken,
}

impl Node {
    /// Opens the data directory, recovers, and serves on the configured address (port 0: any free one).
    ///
    /// # Errors
    /// If the directory is in use, corrupt or unwritable, or the port is taken. The text says which.
    pub(crate) async fn start(config: Config, egress: EgressPolicy) -> anyhow::Result<Self> {
        descriptors::check(&config, descriptors::raise())?;
        let listener = listen(config.listen.grpc).await?;
        let grpc = listener.local_addr()?;
        let tasks = TaskTracker::new();
        let store = open_store(&config)?;
        let environment = Environment::system();
        let host = Host::without_peers(store.clone(), environment.clone());
        let catalog = open_catalog(&config, &host).await?;
        data_directory::check_catalog(config.publish.partitions, &catalog.view())?;
        let replicas = Replicas::open(ReplicasParts {
            catalog: catalog.clone(),
            host,
            budgets: config.budgets(),
            streams: config.streams(),
            forwarder: Arc::new(NoForwarder),
            tasks: tasks.clone(),
        })
        .await?;
        let directory = replicas.directory();
        let sinks =
            Factory::new(egress, environment.clone()).with_connection_limits(config.connection_limits());
        let delivery = Delivery::start(
            DeliveryParts {
                catalog: catalog.clone(),
                directory: directory.clone(),
                sinks: sinks.clone(),
                environment: environment.clone(),
            },
            config.delivery_options(),
        );
        let stop_serving = CancellationToken::new();
        tasks.spawn(watch_disk(store.clone(), stop_serving.clone()));
        let parts = IngestParts {
            catalog: catalog.clone(),
            directory: directory.clone(),
            environment: environment.clone(),
            tasks: tasks.clone(),
            stop: stop_serving.clone(),
        };
        let services = Services {
            ingest: Ingest::new(parts.clone(), config.ingest_limits()),
            reader: EventReader::new(parts, config.read_limits()),
            control: Control::new(catalog.clone(), delivery.clone(), sinks, environment),
        };
        store.keep_pool_filled(POOL_QUIET).context("start to fill the pool of spare segments")?;
        // A call before that could miss what was acknowledged; the port takes connections, which wait.
        directory.wait_for_leaders(LEADER_DEADLINE).await;
        tasks.spawn(serve(listener, services, config.listener_limits(), stop_serving.clone()));
        Ok(Self { catalog, grpc, config, store, replicas, delivery, tasks, stop_serving })
    }

    /// Stops accepting, lets running deliveries end, replicates progress, flushes, releases the directory.
    pub(crate) async fn shutdown(self) {
        self.stop_serving.cancel();
        self.delivery.shutdown(self.config.delivery.drain_timeout.0).await;
        self.replicas.shutdown().await;
        self.catalog.shutdown().await;
        self.tasks.close();
        let store = self.store;
        if let Err(error) = tokio::task::spawn_blocking(move || store.close()).await {
            tracing::error!(%error, "failed to close the data directory; the next start recovers it");
        }
        if tokio::time::timeout(self.config.delivery.drain_timeout.0, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                left = self.tasks.len(),
                "tasks still run after the drain timeout; the process ends without them"
            );
        }
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "listen.grpc = {address}: the port is in use by another process; stop it, or choose another with --listen (`fanfare dev`: --port)"
        ),
        _ => anyhow::anyhow!("listen.grpc = {address}: {error}"),
    })
}

pub(crate) fn open_store(config: &Config) -> anyhow::Result<Store> {
    let directory = &config.node.data_dir;
    std::fs::create_dir_all(directory).with_context(|| {
        format!("create the data directory {}; choose another with --data-dir", directory.display())
    })?;
    let options = config.storage.store_options();
    match Store::open(
        &Environment::system(),
        Arc::new(DiskFileSystem),
        directory,
        options,
        Box::new(stop_process),
    ) {
        Err(locked @ OpenError::Locked { .. }) => {
            Err(anyhow::anyhow!("{locked}: stop it, or choose another directory with --data-dir"))
        }
        opened => Ok(opened?),
    }
}

/// A disk that failed once cannot be trusted again by this process: pages of a failed sync may be marked clean. A process
/// without file descriptors cannot go on either, but its disk is not at fault.
fn stop_process(fatal: &Fatal) {
    if fatal.files_exhausted {
        tracing::error!(error = %fatal, "the process may open no more files; the node stops: raise the limit of open files and start again");
        terminal::say(&format!(
            "fanfare: no more files can be opened, the node stops: {fatal}; raise ulimit -Hn or LimitNOFILE="
        ));
        process::exit(EXIT_FILES_EXHAUSTED);
    }
    let way_out =
        if fatal.disk_full { "free some space and start again" } else { "check the disk and start again" };
    tracing::error!(error = %fatal, "the disk failed; the node stops: {way_out}");
    terminal::say(&format!("fanfare: the disk failed, the node stops: {fatal}; {way_out}"));
    process::exit(EXIT_DISK_FAILED);
}

/// Ends the process if the disk stalls: nothing is acknowledged meanwhile, and whoever starts the process again may
/// find the disk answering, or another node takes over.
async fn watch_disk(store: Store, stop: CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        waited = disk_watch::stalled(|| store.oldest_unsynced()) => {
            let waited_ms = waited.as_millis();
            tracing::error!(waited_ms, "the disk answers no write; the node stops: check the disk and start again");
            terminal::say(&format!("fanfare: the disk answers no write for {waited_ms} ms, the node stops"));
            process::exit(EXIT_DISK_FAILED);
        }
    }
}

pub(crate) async fn open_catalog(config: &Config, host: &Host) -> anyhow::Result<Catalog> {
    let options = CatalogOptions {
        sinks_max: config.limits.sinks_max,
        subscriptions_max: config.limits.subscriptions_max,
        event_types_max: config.limits.event_types_max,
        schemas_max: config.limits.schemas_max,
        schema_documents_bytes_max: config.limits.schema_documents_bytes_max.0,
        schema_bytes_max: config.limits.schema_bytes_max.0,
        partitions: config.publish.partitions,
        snapshot_entries: 5000,
    };
    let view = ViewStorage::Directory(config.node.data_dir.join("catalog"));
    Ok(Catalog::open(host, view, options).await?)
}

/// A node that cannot serve is of no use: the process ends, and whoever watches it starts it again.
async fn serve(listener: TcpListener, services: Services, limits: ListenerLimits, stop: CancellationToken) {
    if let Err(error) = fanfare_edge::serve(listener, services, limits, stop).await {
        let error = anyhow::Error::from(error);
        tracing::error!(error = %format!("{error:#}"), "the gRPC listener failed; the process ends");
        process::exit(EXIT_LISTENER_FAILED);
    }
}

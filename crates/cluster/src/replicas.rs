//! The replicas of this node: those that the catalog places here are open, all others closed.

use std::{collections::BTreeMap, sync::Arc};

use fanfare_catalog::{Catalog, ChangeError, ClusterView, View};
use fanfare_model::{PartitionId, ReplicaId, Stream};
use fanfare_partition::{Budgets, Partition, PartitionOptions, PartitionReplica};
use fanfare_raft::Host;
use futures_util::future::try_join_all;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{AppendForwarder, Directory, Location, Locations, placement};

/// One configured stream.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    pub stream: Stream,
    pub partitions: u16,
    /// Options of each of its partitions.
    pub partition: PartitionOptions,
}

/// The parts of a node that its replicas need.
#[derive(Clone)]
pub struct ReplicasParts {
    pub catalog: Catalog,
    pub host: Host,
    pub budgets: Budgets,
    /// Each stream once.
    pub streams: Vec<StreamOptions>,
    /// Appends to partitions that are not on this node.
    pub forwarder: Arc<dyn AppendForwarder>,
    /// Runs the partitions' tasks.
    pub tasks: TaskTracker,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("place the partitions")]
    Place(#[source] ChangeError),
    #[error(transparent)]
    Partition(#[from] fanfare_partition::OpenError),
}

/// Keeps the replicas of this node. One handle; the directory is the part to share.
pub struct Replicas {
    directory: Directory,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Replicas {
    /// Places the configured partitions that have no replica yet, opens those of this node, and follows the catalog
    /// from then on.
    ///
    /// # Errors
    /// If the catalog does not take a placement, or a partition does not open. A damaged partition opens as one that
    /// answers with its damage.
    pub async fn open(parts: ReplicasParts) -> Result<Self, OpenError> {
        let mut catalog = parts.catalog.watch();
        place_missing(&parts).await?;
        let view = catalog.borrow_and_update().clone();
        let here = parts.placed_here(&view.cluster);
        let opened = try_join_all(here.into_iter().map(|placed| parts.open_replica(placed))).await?;
        let open = opened.into_iter().map(|replica| (replica.partition.id(), replica)).collect();
        let forwarder = parts.forwarder.clone();
        let keeper = Keeper { parts, open, locations: watch::Sender::new(Arc::default()) };
        keeper.publish(&view.cluster);
        let directory = Directory::new(keeper.locations.subscribe(), forwarder);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(keeper.run(catalog, stop.clone()));
        tasks.close();
        Ok(Self { directory, tasks, stop })
    }

    #[must_use]
    pub fn directory(&self) -> Directory {
        self.directory.clone()
    }

    /// Closes every partition. The directory keeps the closed partitions, which refuse appends.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// A replica that the catalog places on this node, and the options of its stream.
struct PlacedHere {
    partition: PartitionId,
    replica: ReplicaId,
    options: PartitionOptions,
}

struct OpenReplica {
    id: ReplicaId,
    partition: Partition,
}

impl ReplicasParts {
    /// The replicas on this node of the configured streams.
    fn placed_here(&self, cluster: &ClusterView) -> Vec<PlacedHere> {
        let broker = self.catalog.broker();
        let placed = cluster.replicas.iter().filter(|placed| placed.broker == broker);
        let placed = placed.filter_map(|placed| {
            let stream = self.streams.iter().find(|stream| stream.stream == placed.partition.stream)?;
            let options = stream.partition.clone();
            Some(PlacedHere { partition: placed.partition, replica: placed.id, options })
        });
        placed.collect()
    }

    async fn open_replica(&self, placed: PlacedHere) -> Result<OpenReplica, fanfare_partition::OpenError> {
        let PlacedHere { partition, replica, options } = placed;
        let tasks = self.tasks.clone();
        let alone = PartitionReplica::alone(partition, replica, &self.host);
        let partition = Partition::open(alone, &self.host, options, &self.budgets, tasks).await?;
        Ok(OpenReplica { id: replica, partition })
    }
}

async fn place_missing(parts: &ReplicasParts) -> Result<(), OpenError> {
    let streams: Vec<_> = parts.streams.iter().map(|stream| (stream.stream, stream.partitions)).collect();
    let missing = placement::missing(&parts.catalog.view().cluster, &streams);
    for (broker, partitions) in missing {
        parts.catalog.assign_replicas(broker, partitions).await.map_err(OpenError::Place)?;
    }
    Ok(())
}

impl PlacedHere {
    fn is(&self, partition: PartitionId, replica: ReplicaId) -> bool {
        (self.partition, self.replica) == (partition, replica)
    }
}

/// The task that owns this node's replicas.
struct Keeper {
    parts: ReplicasParts,
    open: BTreeMap<PartitionId, OpenReplica>,
    locations: watch::Sender<Arc<Locations>>,
}

impl Keeper {
    async fn run(mut self, mut catalog: watch::Receiver<Arc<View>>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = catalog.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
            }
            let view = catalog.borrow_and_update().clone();
            self.follow(&view.cluster).await;
        }
        for replica in self.open.values() {
            replica.partition.shutdown().await;
        }
    }

    /// Opens and closes the difference between the open replicas and those placed here.
    async fn follow(&mut self, cluster: &ClusterView) {
        let mut here = self.parts.placed_here(cluster);
        let closed: Vec<_> =
            self.open.extract_if(.., |id, open| !here.iter().any(|placed| placed.is(*id, open.id))).collect();
        here.retain(|placed| !self.open.contains_key(&placed.partition));
        if closed.is_empty() && here.is_empty() {
            return;
        }
        // Users stop finding a partition before it is closed.
        self.publish(cluster);
        for (partition, replica) in closed {
            tracing::info!(%partition, "the catalog places the partition elsewhere; its replica here closes");
            replica.partition.shutdown().await;
        }
        for placed in here {
            let partition = placed.partition;
            match self.parts.open_replica(placed).await {
                Ok(replica) => {
                    self.open.insert(partition, replica);
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(%partition, error, "failed to open a replica; the next start tries again");
                }
            }
        }
        self.publish(cluster);
    }

    fn publish(&self, cluster: &ClusterView) {
        let broker = self.parts.catalog.broker();
        let elsewhere = cluster.replicas.iter().filter(|placed| placed.broker != broker);
        let mut locations = Locations::new();
        for placed in elsewhere {
            // Replicas are placed on registered brokers only. One that is not registered has no address to ask at.
            let Some(leader) = cluster.brokers.get(&placed.broker) else { continue };
            let address = leader.address.clone();
            locations.insert(placed.partition, Location::Remote { leader: leader.id, address });
        }
        let local = self.open.values().map(|replica| &replica.partition);
        locations.extend(local.map(|partition| (partition.id(), Location::Local(partition.clone()))));
        self.locations.send_replace(Arc::new(locations));
    }
}

#[cfg(test)]
mod tests;

//! The directory: the location of each partition, as a watch.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fanfare_model::{BrokerId, PartitionId, Stream};
use fanfare_partition::{AppendError, Partition, Role};
use futures_util::future::join_all;
use tokio::{sync::watch, time::timeout};

/// The place of one partition.
#[derive(Clone)]
pub(crate) enum Location {
    /// A replica is on this node.
    Local(Partition),
    /// All replicas are on other brokers; `leader` is the one to ask.
    Remote { leader: BrokerId },
}

/// A partition cannot be used through this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("partition {partition} does not exist")]
    NotFound { partition: PartitionId },
    #[error("partition {partition} is on broker {leader}")]
    NotLocal { partition: PartitionId, leader: BrokerId },
}

impl RouteError {
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        match *self {
            Self::NotFound { partition } | Self::NotLocal { partition, .. } => partition,
        }
    }
}

/// Nothing was appended: the producer may find the partition elsewhere, or later.
impl From<RouteError> for AppendError {
    fn from(error: RouteError) -> Self {
        Self::NotLeader { partition: error.partition(), leader: None }
    }
}

pub(crate) type Locations = BTreeMap<PartitionId, Location>;

/// The locations of all partitions. Cheap to clone; clones see every change.
#[derive(Clone)]
pub struct Directory {
    locations: watch::Receiver<Arc<Locations>>,
}

impl Directory {
    pub(crate) fn new(locations: watch::Receiver<Arc<Locations>>) -> Self {
        Self { locations }
    }

    /// A directory of partitions that are all on this node and stay there.
    #[must_use]
    pub fn of_local(partitions: impl IntoIterator<Item = Partition>) -> Self {
        let locations =
            partitions.into_iter().map(|partition| (partition.id(), Location::Local(partition))).collect();
        Self::new(watch::Sender::new(Arc::new(locations)).subscribe())
    }

    /// The replica of `partition` on this node.
    ///
    /// # Errors
    /// If the partition does not exist, or has no replica here.
    pub fn local(&self, partition: PartitionId) -> Result<Partition, RouteError> {
        match self.locations.borrow().get(&partition) {
            Some(Location::Local(local)) => Ok(local.clone()),
            Some(&Location::Remote { leader }) => Err(RouteError::NotLocal { partition, leader }),
            None => Err(RouteError::NotFound { partition }),
        }
    }

    /// The replicas of the stream's partitions on this node, in the order of their indexes.
    pub fn local_of(&self, stream: Stream) -> impl Iterator<Item = Partition> + use<> {
        let locations = self.locations.borrow().clone();
        let local: Vec<_> = range(&locations, stream).filter_map(Location::local).collect();
        local.into_iter()
    }

    /// Waits until every partition of this node leads or has failed. A partition that does neither within `wait_max`
    /// is logged and comes up later: a damaged log must not keep the others from serving.
    pub async fn wait_for_leaders(&self, wait_max: Duration) {
        let local: Vec<_> = self.locations.borrow().values().filter_map(Location::local).collect();
        let waits = local.into_iter().map(|partition| async move {
            let mut role = partition.role();
            let decided = role.wait_for(|role| matches!(role, Role::Leader { .. } | Role::Failed));
            if !matches!(timeout(wait_max, decided).await, Ok(Ok(_))) {
                tracing::warn!(
                    partition = %partition.id(),
                    "the partition has no leader yet; the node serves without it until there is one"
                );
            }
        });
        join_all(waits).await;
    }

    #[cfg(test)]
    pub(crate) fn locations(&self) -> watch::Receiver<Arc<Locations>> {
        self.locations.clone()
    }
}

impl Location {
    fn local(&self) -> Option<Partition> {
        match self {
            Self::Local(partition) => Some(partition.clone()),
            Self::Remote { .. } => None,
        }
    }
}

fn range(locations: &Locations, stream: Stream) -> impl Iterator<Item = &Location> {
    let (first, last) = (PartitionId { stream, index: 0 }, PartitionId { stream, index: u16::MAX });
    locations.range(first..=last).map(|(_, location)| location)
}

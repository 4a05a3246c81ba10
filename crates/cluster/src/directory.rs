//! The directory: the location of each partition, as a watch.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fanfare_model::{BrokerId, PartitionId, Stream};
use fanfare_partition::{AppendError, Appended, Partition, RecordBatch, Role};
use futures_util::future::join_all;
use tokio::{sync::watch, time::timeout};

use crate::forward::{AppendForwarder, NoForwarder, RemoteAppend};

/// Longest wait for a replica that is starting.
const RECOVERY_WAIT_MAX: Duration = Duration::from_secs(5);

/// The location of one partition.
#[derive(Clone)]
pub enum Location {
    /// A replica is on this node.
    Local(Partition),
    /// All replicas are on other brokers; `leader` is the one to ask, at `address`.
    Remote { leader: BrokerId, address: String },
}

/// The locations of all partitions at one moment, in the order of stream and index.
pub type Locations = BTreeMap<PartitionId, Location>;

/// A partition cannot be used through this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("partition {partition} does not exist")]
    NotFound { partition: PartitionId },
    #[error("partition {partition} is on broker {leader}")]
    NotLocal { partition: PartitionId, leader: BrokerId },
    #[error("partition {partition} has not applied yet what was acknowledged before this start: retry")]
    Recovering { partition: PartitionId },
}

impl RouteError {
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        match *self {
            Self::NotFound { partition }
            | Self::NotLocal { partition, .. }
            | Self::Recovering { partition } => partition,
        }
    }
}

/// Nothing was appended: the producer may find the partition elsewhere, or later.
impl From<RouteError> for AppendError {
    fn from(error: RouteError) -> Self {
        Self::NotLeader { partition: error.partition(), leader: None }
    }
}

/// The locations of all partitions. Cheap to clone; clones see every change.
#[derive(Clone)]
pub struct Directory {
    locations: watch::Receiver<Arc<Locations>>,
    forwarder: Arc<dyn AppendForwarder>,
}

impl Directory {
    /// A directory that follows `locations`, and hands appends to remote partitions to `forwarder`.
    #[must_use]
    pub fn new(locations: watch::Receiver<Arc<Locations>>, forwarder: Arc<dyn AppendForwarder>) -> Self {
        Self { locations, forwarder }
    }

    /// A directory of partitions that are all on this node and stay there.
    #[must_use]
    pub fn of_local(partitions: impl IntoIterator<Item = Partition>) -> Self {
        let locations =
            partitions.into_iter().map(|partition| (partition.id(), Location::Local(partition))).collect();
        Self::new(watch::Sender::new(Arc::new(locations)).subscribe(), Arc::new(NoForwarder))
    }

    /// The locations, as a watch. It ends with the task that opens and closes the replicas of this node; the last
    /// value stays.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Locations>> {
        self.locations.clone()
    }

    /// The replica of `partition` on this node.
    ///
    /// # Errors
    /// If the partition does not exist, or has no replica here.
    pub fn local(&self, partition: PartitionId) -> Result<Partition, RouteError> {
        match self.locations.borrow().get(&partition) {
            Some(Location::Local(local)) => Ok(local.clone()),
            Some(&Location::Remote { leader, .. }) => Err(RouteError::NotLocal { partition, leader }),
            None => Err(RouteError::NotFound { partition }),
        }
    }

    /// The replica of `partition` on this node, when it has applied all that was acknowledged: before, events would look
    /// missing that are there. Waits for a few seconds at most.
    ///
    /// # Errors
    /// As [`Self::local`], or [`RouteError::Recovering`].
    pub async fn recovered(&self, partition: PartitionId) -> Result<Partition, RouteError> {
        let local = self.local(partition)?;
        let mut role = local.role();
        let recovered = timeout(RECOVERY_WAIT_MAX, role.wait_for(|role| is_recovered(*role))).await;
        if matches!(recovered, Ok(Ok(_))) { Ok(local) } else { Err(RouteError::Recovering { partition }) }
    }

    /// As [`Self::recovered`], without a wait.
    ///
    /// # Errors
    /// As [`Self::recovered`].
    pub fn recovered_now(&self, partition: PartitionId) -> Result<Partition, RouteError> {
        let local = self.local(partition)?;
        let is_ready = is_recovered(*local.role().borrow());
        if is_ready { Ok(local) } else { Err(RouteError::Recovering { partition }) }
    }

    /// The stream's partitions, wherever they are, in the order of their indexes.
    #[must_use]
    pub fn partitions_of(&self, stream: Stream) -> Vec<PartitionId> {
        range(&self.locations.borrow(), stream).map(|(partition, _)| *partition).collect()
    }

    /// Appends the batch wherever the partition is, and waits until the batch is committed.
    ///
    /// # Errors
    /// As [`Partition::append`]; a partition that cannot be reached from here has no leader.
    pub async fn append(&self, partition: PartitionId, batch: RecordBatch) -> Result<Appended, AppendError> {
        let location = self.locations.borrow().get(&partition).cloned();
        match location {
            Some(Location::Local(local)) => local.append(batch)?.committed().await,
            Some(Location::Remote { leader, address }) => {
                self.forwarder.append(RemoteAppend { partition, leader, address, batch }).await
            }
            None => Err(RouteError::NotFound { partition }.into()),
        }
    }

    /// Waits until every partition of this node leads or has failed. A partition that does neither within `wait_max`
    /// is logged and comes up later: a damaged log must not keep the others from serving.
    pub async fn wait_for_leaders(&self, wait_max: Duration) {
        let locations = self.locations.borrow().clone();
        let waits = locations.values().filter_map(Location::local).map(|partition| async move {
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
}

/// True of a replica that was elected: it has applied the first entry of its term, and so all entries before. A failed
/// one answers with its failure.
fn is_recovered(role: Role) -> bool {
    role.elected_term().is_some() || role == Role::Failed
}

impl Location {
    /// The replica on this node, if there is one.
    #[must_use]
    pub fn local(&self) -> Option<&Partition> {
        match self {
            Self::Local(partition) => Some(partition),
            Self::Remote { .. } => None,
        }
    }
}

fn range(locations: &Locations, stream: Stream) -> impl Iterator<Item = (&PartitionId, &Location)> {
    let (first, last) = (PartitionId { stream, index: 0 }, PartitionId { stream, index: u16::MAX });
    locations.range(first..=last)
}

#[cfg(test)]
mod tests;

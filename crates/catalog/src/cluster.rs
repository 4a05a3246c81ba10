//! The cluster's part of the catalog: its brokers, the replicas of its partitions, and its settings.

use std::collections::BTreeMap;

use fanfare_model::{BrokerId, PartitionId, ReplicaId, Timestamp};
use serde::{Deserialize, Serialize};

/// The format version of a new cluster, and the newest that this program reads and writes.
const FORMAT_VERSION: u32 = 1;

/// Brokers, replicas and settings at one revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterView {
    /// The lowest format version of the members. Leaders encode nothing above it.
    pub format_version: u32,
    pub limits: AccountLimits,
    pub brokers: BTreeMap<BrokerId, Broker>,
    /// Ordered by partition and broker; at most one per pair.
    pub replicas: Vec<PlacedReplica>,
}

/// The most objects that one account may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountLimits {
    pub sinks_max: u64,
    pub subscriptions_max: u64,
    pub event_types_max: u64,
    pub schemas_max: u64,
    /// Bytes of the documents of all versions of all schemas. The default is not written, so that catalogs from before
    /// this limit keep their bytes.
    #[serde(default = "schema_documents_bytes_max", skip_serializing_if = "is_default_bytes")]
    pub schema_documents_bytes_max: u64,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    pub id: BrokerId,
    /// Drawn when the broker's data directory was made.
    #[serde(with = "crate::hex::array")]
    pub incarnation: [u8; 16],
    /// Address for its peers; empty of a broker without peers.
    pub address: String,
    pub registered: Timestamp,
}

/// One replica of a partition and the broker that keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacedReplica {
    pub partition: PartitionId,
    pub broker: BrokerId,
    /// The log index of the command that placed it, so never used again.
    pub id: ReplicaId,
}

impl ClusterView {
    /// False if the cluster has been raised above this program: it could not read what the others write.
    pub(crate) fn is_readable(&self) -> bool {
        self.format_version <= FORMAT_VERSION
    }

    /// The broker with this data directory.
    #[must_use]
    pub fn broker_of(&self, incarnation: [u8; 16]) -> Option<&Broker> {
        self.brokers.values().find(|broker| broker.incarnation == incarnation)
    }

    /// The replica of `partition` on `broker`.
    #[must_use]
    pub fn replica(&self, partition: PartitionId, broker: BrokerId) -> Option<ReplicaId> {
        let index = self.find(partition, broker).ok()?;
        Some(self.replicas[index].id)
    }

    /// The place of the pair in the order of replicas: its own, or the one to insert it at.
    pub(crate) fn find(&self, partition: PartitionId, broker: BrokerId) -> Result<usize, usize> {
        self.replicas.binary_search_by_key(&(partition, broker), |placed| (placed.partition, placed.broker))
    }
}

impl Default for ClusterView {
    fn default() -> Self {
        Self {
            format_version: FORMAT_VERSION,
            limits: AccountLimits::default(),
            brokers: BTreeMap::new(),
            replicas: Vec::new(),
        }
    }
}

impl Default for AccountLimits {
    fn default() -> Self {
        Self {
            sinks_max: 100,
            subscriptions_max: 100,
            event_types_max: 1000,
            schemas_max: 1000,
            schema_documents_bytes_max: schema_documents_bytes_max(),
        }
    }
}

fn schema_documents_bytes_max() -> u64 {
    16 << 20
}

fn is_default_bytes(bytes: &u64) -> bool {
    *bytes == schema_documents_bytes_max()
}

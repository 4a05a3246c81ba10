//! The seam for calls to other brokers: declared here, where a partition is found to be remote, and wired by the
//! composition root to the connections of the node.

use fanfare_model::{BrokerId, PartitionId};
use fanfare_partition::{AppendError, Appended, RecordBatch};
use futures_util::future::BoxFuture;

/// An append to a partition that has no replica on this node.
#[derive(Clone, Debug)]
pub struct RemoteAppend {
    pub partition: PartitionId,
    pub leader: BrokerId,
    /// Address of the leader for its peers.
    pub address: String,
    pub batch: RecordBatch,
}

/// Appends at other brokers.
pub trait AppendForwarder: Send + Sync + 'static {
    /// Ends when the leader has committed the batch or refused it. [`AppendError::NotLeader`] says that nothing was
    /// appended, also of a leader that was not reached; an answer that was lost is [`AppendError::Unknown`].
    fn append(&self, append: RemoteAppend) -> BoxFuture<'static, Result<Appended, AppendError>>;
}

/// The forwarder of a node without peers: nothing is appended, and a later try may find the partition here.
pub struct NoForwarder;

impl AppendForwarder for NoForwarder {
    fn append(&self, append: RemoteAppend) -> BoxFuture<'static, Result<Appended, AppendError>> {
        let partition = append.partition;
        Box::pin(async move { Err(AppendError::NotLeader { partition, leader: None }) })
    }
}

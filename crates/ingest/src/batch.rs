//! Events on their way through the partitions: one record batch per partition, appended together.

use std::{sync::Arc, time::Duration};

use fanfare_catalog::AccountView;
use fanfare_cluster::Directory;
use fanfare_model::PartitionId;
use fanfare_partition::{AppendError, PendingAppend, RecordBatchBuilder};
use tokio::time::{Instant, timeout_at};

use crate::{
    order::StreamOrder,
    outcome::{BatchOutcome, PartitionOutcome, Slot},
    refusal::Refusal,
    validation::Checked,
};

/// Expected size of a batch, by which memory is reserved.
#[derive(Clone, Copy, Debug, Default)]
pub struct BatchSize {
    pub events: usize,
    pub bytes: usize,
}

/// Events of one account, validated against one view of the catalog, in the order in which they were added.
pub struct PublishBatch {
    view: Arc<AccountView>,
    expected: BatchSize,
    slots: Vec<Slot>,
    batches: Vec<(u16, RecordBatchBuilder)>,
}

impl PublishBatch {
    /// Reserves as if `expected` were spread evenly over the account's partitions.
    pub(crate) fn new(view: Arc<AccountView>, expected: BatchSize) -> Self {
        Self { view, expected, slots: Vec::with_capacity(expected.events), batches: Vec::new() }
    }

    pub(crate) fn view(&self) -> &Arc<AccountView> {
        &self.view
    }

    /// Adds an event to the record batch of `partition`, which is where the account's shard routes the event's key.
    pub(crate) fn add(&mut self, partition: u16, event: &[u8], checked: &Checked<'_, '_>) {
        let batch = match self.batches.iter().position(|(index, _)| *index == partition) {
            Some(batch) => batch,
            None => self.open_record_batch(partition),
        };
        let builder = &mut self.batches[batch].1;
        let position = u32::try_from(builder.len()).expect("a request has few events");
        builder.push(event, checked.id, checked.key);
        self.slots.push(Slot::Routed { batch, position });
    }

    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        self.slots.push(Slot::Refused(Box::new(refusal)));
    }

    /// Queues each record batch at its partition, in the producer's order.
    pub(crate) fn append(self, directory: &Directory, order: &mut StreamOrder) -> InflightBatch {
        let mut appends = Vec::with_capacity(self.batches.len());
        for (partition, builder) in self.batches {
            let pending = match directory.local(PartitionId::events(partition)) {
                Ok(handle) => handle.append_in_order(order.of_partition(partition), builder.finish()),
                Err(not_here) => {
                    // No partition saw the batch, so only this order keeps later events behind it.
                    order.hold([partition]);
                    Err(not_here.into())
                }
            };
            appends.push(PartitionAppend { partition, pending });
        }
        InflightBatch { slots: self.slots, appends }
    }

    fn open_record_batch(&mut self, partition: u16) -> usize {
        let shard = &self.view.account.shard;
        let mut builder = RecordBatchBuilder::new(self.view.account.id, shard.epoch);
        let BatchSize { events, bytes } = self.expected;
        let partitions = shard.partitions.len();
        builder.reserve(events.div_ceil(partitions), bytes.div_ceil(partitions));
        self.batches.push((partition, builder));
        self.batches.len() - 1
    }
}

/// A batch that is queued at its partitions and not known to be committed.
#[derive(Default)]
pub struct InflightBatch {
    slots: Vec<Slot>,
    appends: Vec<PartitionAppend>,
}

struct PartitionAppend {
    partition: u16,
    pending: Result<PendingAppend, AppendError>,
}

impl InflightBatch {
    /// Waits for every partition's answer; what has none after `wait_max` is of unknown outcome.
    pub(crate) async fn outcome(self, wait_max: Duration) -> BatchOutcome {
        let deadline = Instant::now() + wait_max;
        let mut partitions = Vec::with_capacity(self.appends.len());
        for PartitionAppend { partition, pending } in self.appends {
            let appended = match pending {
                Ok(pending) => timeout_at(deadline, pending.committed())
                    .await
                    .unwrap_or_else(|_| Err(outcome_unknown(partition))),
                Err(error) => Err(error),
            };
            partitions.push(PartitionOutcome { partition, appended });
        }
        BatchOutcome::new(self.slots, partitions)
    }
}

fn outcome_unknown(partition: u16) -> AppendError {
    AppendError::Unknown { partition: PartitionId::events(partition) }
}

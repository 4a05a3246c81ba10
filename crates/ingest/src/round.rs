//! Events on their way through a partition: gathered into one batch each, sent together, answered by position.

use std::time::Duration;

use fanfare_catalog::AccountView;
use fanfare_model::{Offset, PartitionId};
use fanfare_partition::{AppendError, Appended, Partition, PendingAppend, RecordBatchBuilder};
use tokio::time::{Instant, timeout_at};

use crate::{
    ingest::{Committed, PublishOutcome},
    lanes::Lanes,
    refusal::Refusal,
    validation::Checked,
};

/// Where an event went.
pub(crate) enum Slot {
    Placed { batch: usize, position: u32 },
    Refused(Box<Refusal>),
}

/// Events of one account, one batch per partition, in the order they were given.
pub(crate) struct Gathering {
    slots: Vec<Slot>,
    batches: Vec<(u16, RecordBatchBuilder)>,
    events: usize,
    size_bytes: usize,
}

impl Gathering {
    /// Makes room for `events` of `size_bytes` in all as if they spread evenly over the account's partitions.
    pub(crate) fn expecting(events: usize, size_bytes: usize) -> Self {
        Self { slots: Vec::with_capacity(events), batches: Vec::new(), events, size_bytes }
    }

    /// `partition` is where the account's shard routes the event's key.
    pub(crate) fn place(
        &mut self,
        view: &AccountView,
        partition: u16,
        event: &[u8],
        checked: &Checked<'_, '_>,
    ) {
        let shard = &view.account.shard;
        let batch = match self.batches.iter().position(|(index, _)| *index == partition) {
            Some(batch) => batch,
            None => {
                let mut builder = RecordBatchBuilder::new(view.account.id, shard.epoch);
                let partitions = shard.partitions.len();
                builder.reserve(self.events.div_ceil(partitions), self.size_bytes.div_ceil(partitions));
                self.batches.push((partition, builder));
                self.batches.len() - 1
            }
        };
        let builder = &mut self.batches[batch].1;
        let position = u32::try_from(builder.len()).expect("a request has few events");
        builder.push(event, checked.id, checked.key);
        self.slots.push(Slot::Placed { batch, position });
    }

    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        self.slots.push(Slot::Refused(Box::new(refusal)));
    }

    /// Queues every batch in its lane.
    pub(crate) fn append(self, events: &[Partition], lanes: &mut Lanes) -> InFlight {
        let mut sent = Vec::with_capacity(self.batches.len());
        for (partition, builder) in self.batches {
            let receipt = match events.get(usize::from(partition)) {
                Some(handle) => handle.append_in_order(lanes.lane(partition), builder.finish()),
                None => {
                    lanes.hold([partition]);
                    Err(no_leader(partition))
                }
            };
            sent.push(Sent { partition, receipt });
        }
        InFlight { slots: self.slots, sent }
    }
}

/// Queued; the partitions commit.
pub(crate) struct InFlight {
    slots: Vec<Slot>,
    sent: Vec<Sent>,
}

struct Sent {
    partition: u16,
    receipt: Result<PendingAppend, AppendError>,
}

impl InFlight {
    /// Waits for every partition's word; after `wait_max` an outcome is called unknown.
    pub(crate) async fn settled(self, wait_max: Duration) -> Settled {
        let deadline = Instant::now() + wait_max;
        let mut batches = Vec::with_capacity(self.sent.len());
        for Sent { partition, receipt } in self.sent {
            let appended = match receipt {
                Ok(receipt) => {
                    let committed = timeout_at(deadline, receipt.committed()).await;
                    committed.unwrap_or_else(|_| {
                        Err(AppendError::Unknown { partition: PartitionId::events(partition) })
                    })
                }
                Err(error) => Err(error),
            };
            batches.push(SettledBatch { partition, appended });
        }
        Settled { slots: self.slots, batches }
    }
}

/// Every event's fate.
pub(crate) struct Settled {
    slots: Vec<Slot>,
    batches: Vec<SettledBatch>,
}

struct SettledBatch {
    partition: u16,
    appended: Result<Appended, AppendError>,
}

impl Settled {
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// What became of the event given as number `index`.
    pub(crate) fn outcome(&self, index: usize) -> PublishOutcome {
        match &self.slots[index] {
            Slot::Refused(refusal) => Err(refusal.as_ref().clone()),
            Slot::Placed { batch, position } => {
                let batch = &self.batches[*batch];
                match &batch.appended {
                    Ok(appended) => placed(batch.partition, appended, *position),
                    Err(error) => Err(error.clone().into()),
                }
            }
        }
    }

    /// As [`Self::outcome`], in a stream's words: of a batch that failed the first event has the reason, the
    /// others stand behind it.
    pub(crate) fn outcome_in_order(&self, index: usize) -> PublishOutcome {
        match (&self.slots[index], self.outcome(index)) {
            (Slot::Placed { position: 1.., .. }, Err(Refusal::Append(error))) if error.is_retryable() => {
                Err(Refusal::Behind)
            }
            (_, outcome) => outcome,
        }
    }
}

/// The fate of the event at `position` of a batch that was taken.
fn placed(partition: u16, appended: &Appended, position: u32) -> PublishOutcome {
    let listed =
        |list: &[(u32, Offset)]| list.iter().find(|(index, _)| *index == position).map(|(_, offset)| *offset);
    if let Some(offset) = listed(&appended.duplicates) {
        return Ok(Committed { partition, offset, duplicate: true });
    }
    if let Some(offset) = listed(&appended.conflicts) {
        return Err(Refusal::Conflict { partition, offset });
    }
    let left_out = |list: &[(u32, Offset)]| list.iter().filter(|(index, _)| *index < position).count() as u64;
    let before = left_out(&appended.duplicates) + left_out(&appended.conflicts);
    Ok(Committed { partition, offset: appended.base.plus(u64::from(position) - before), duplicate: false })
}

fn no_leader(partition: u16) -> AppendError {
    AppendError::NotLeader { partition: PartitionId::events(partition), leader: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_are_not_listed_follow_each_other() {
        let appended = Appended {
            base: Offset(100),
            duplicates: vec![(1, Offset(7)), (3, Offset(9))],
            conflicts: vec![(4, Offset(8))],
        };
        let fate = |position| match placed(2, &appended, position) {
            Ok(Committed { partition: 2, offset, duplicate }) => (offset.0, duplicate, false),
            Err(Refusal::Conflict { partition: 2, offset }) => (offset.0, false, true),
            other => panic!("{other:?}"),
        };
        let fates: Vec<_> = (0..6).map(fate).collect();
        assert_eq!(
            fates,
            [
                (100, false, false),
                (7, true, false),
                (101, false, false),
                (9, true, false),
                (8, false, true),
                (102, false, false)
            ]
        );
    }
}

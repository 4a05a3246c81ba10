//! The partitions of this node: one task for each, started and stopped as the directory says.
//!
//! A partition of `events` has a slot and is led whenever this node leads it. No subscription settles the events of
//! any other stream, so such a partition is only trimmed by its own retention, and its redrives are worked on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fanfare_cluster::{Location, Locations};
use fanfare_model::{PartitionId, Stream};
use fanfare_partition::{Partition, Role};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    context::DeliveryContext,
    leader::{Exit, PartitionLeader, PartitionSlot},
    leadership, redrive,
};

/// Pause before a leader that failed starts again, doubled up to the most.
const RESTART: Duration = Duration::from_millis(100);
pub(crate) const RESTART_MAX: Duration = Duration::from_secs(5);

/// The slots of the partitions of `events` on this node.
pub(crate) type Slots = BTreeMap<PartitionId, Arc<PartitionSlot>>;

/// Owns the tasks of this node's partitions.
pub(crate) struct PartitionTasks {
    context: Arc<DeliveryContext>,
    slots: watch::Sender<Arc<Slots>>,
    /// Also tasks that were stopped and have not ended.
    running: BTreeMap<PartitionId, PartitionTask>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

struct PartitionTask {
    partition: Partition,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl PartitionTasks {
    pub(crate) fn new(context: Arc<DeliveryContext>, tasks: TaskTracker, cancel: CancellationToken) -> Self {
        let slots = watch::Sender::new(Arc::default());
        Self { context, slots, running: BTreeMap::new(), tasks, cancel }
    }

    pub(crate) fn slots(&self) -> watch::Receiver<Arc<Slots>> {
        self.slots.subscribe()
    }

    /// Follows the directory until delivery stops.
    pub(crate) async fn run(mut self, mut locations: watch::Receiver<Arc<Locations>>) {
        loop {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return,
                () = self.context.draining.cancelled() => return,
                changed = locations.changed() => if changed.is_err() { return },
            }
            let now = locations.borrow_and_update().clone();
            self.follow(&now);
        }
    }

    /// Stops the tasks of partitions that are not on this node any more, and starts those of new ones.
    pub(crate) fn follow(&mut self, locations: &Locations) {
        let mut slots = Slots::clone(&self.slots.borrow());
        self.running.retain(|id, running| {
            let is_here = locations
                .get(id)
                .and_then(Location::local)
                .is_some_and(|local| local.is_same_replica(&running.partition));
            if !is_here {
                running.stop.cancel();
                slots.remove(id);
            }
            is_here || !running.task.is_finished()
        });
        for (id, partition) in locations.iter().filter_map(|(id, location)| Some((id, location.local()?))) {
            let earlier = match self.running.remove(id) {
                Some(running) if !running.stop.is_cancelled() => {
                    self.running.insert(*id, running);
                    continue;
                }
                stopped => stopped.map(|running| running.task),
            };
            let (started, slot) = self.start(partition, earlier);
            self.running.insert(*id, started);
            slots.extend(slot.map(|slot| (*id, slot)));
        }
        self.slots.send_replace(Arc::new(slots));
    }

    /// `earlier` is the task of another replica of the partition, which ends first: two leaders at once would deliver
    /// the events of a key out of order.
    fn start(
        &self,
        partition: &Partition,
        earlier: Option<JoinHandle<()>>,
    ) -> (PartitionTask, Option<Arc<PartitionSlot>>) {
        let stop = self.cancel.child_token();
        let slot = (partition.id().stream == Stream::Events)
            .then(|| Arc::new(PartitionSlot::new(partition.clone())));
        let (context, led, here, until) =
            (self.context.clone(), slot.clone(), partition.clone(), stop.clone());
        let task = self.tasks.spawn(async move {
            if let Some(earlier) = earlier {
                // A task that panicked has ended, too.
                drop(earlier.await);
            }
            match led {
                Some(slot) => lead(context, slot, until).await,
                None => {
                    let redrives = redrive::run(context.clone(), here.clone(), until.clone());
                    tokio::join!(keep_trimmed(context, here, until), redrives);
                }
            }
        });
        (PartitionTask { partition: partition.clone(), stop, task }, slot)
    }
}

/// Runs a leader whenever this node leads the partition.
async fn lead(context: Arc<DeliveryContext>, slot: Arc<PartitionSlot>, cancel: CancellationToken) {
    let mut role = slot.partition.role();
    let mut pause = RESTART;
    loop {
        let Some(term) = leadership::gained(&mut role, &context, &cancel).await else { return };
        let leader_cancel = cancel.child_token();
        let began = Instant::now();
        let leader = async {
            match PartitionLeader::new(context.clone(), slot.clone(), term, leader_cancel.clone()) {
                Ok(leader) => leader.run().await,
                Err(exit) => exit,
            }
        };
        tokio::pin!(leader);
        let exit = tokio::select! {
            biased;
            exit = &mut leader => exit,
            () = leadership::lost(&mut role, term) => {
                leader_cancel.cancel();
                leader.await
            }
        };
        match exit {
            Exit::Drained => return,
            Exit::Cancelled => {}
            Exit::Failed => {
                pause =
                    if began.elapsed() > RESTART_MAX * 2 { RESTART } else { (pause * 2).min(RESTART_MAX) };
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    () = context.draining.cancelled() => return,
                    () = sleep(pause) => {}
                }
            }
        }
    }
}

/// Trims the partition by its own retention.
async fn keep_trimmed(context: Arc<DeliveryContext>, partition: Partition, cancel: CancellationToken) {
    let mut checks = interval(Duration::from_millis(context.intervals.retention_check_ms));
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = context.draining.cancelled() => return,
            _ = checks.tick() => {}
        }
        let role = *partition.role().borrow();
        let (Role::Leader { term }, Some(target)) = (role, partition.decide_trim(None)) else { continue };
        // It waits while no quorum answers; a shutdown does not.
        let trimmed = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = context.draining.cancelled() => return,
            trimmed = partition.trim(term, target) => trimmed,
        };
        if let Err(error) = trimmed {
            tracing::warn!(partition = %partition.id(), %error, "failed to trim the log; the next check tries again");
        }
    }
}

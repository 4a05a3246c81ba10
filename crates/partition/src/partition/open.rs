//! Opening a partition: its log, its group, its writer; or the dead handle of a corrupt log.

use std::{ops::Range, sync::Arc};

use fanfare_log::{Log, RollPolicy, Store};
use fanfare_model::{Offset, PartitionId, ReplicaId};
use fanfare_raft::{Group, GroupId, GroupOptions, Host, Member, Role};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Dead, Kind, Live, Partition, PartitionOptions, Positions};
use crate::{
    Clock, OpenError,
    admission::Admission,
    dedup::Limits,
    error::offsets_lost,
    machine::Machine,
    reader::Reader,
    retention::Retention,
    stamp::Stamp,
    tags,
    writer::{Writer, WriterParts},
};

/// Batches that may wait for the writer; their bytes are bounded by the admission.
const QUEUE_BATCHES_MAX: usize = 16_384;
/// A segment rolls when its oldest event is past this share of the retention, but not before the least age.
const ROLL_SHARE_OF_RETENTION: u64 = 24;
const ROLL_AGE_MS_MIN: u64 = 10 * 60 * 1_000;

/// The replica of a partition that no catalog places.
const ALONE: ReplicaId = ReplicaId(1);

impl Partition {
    /// As [`Self::open_replica`], the first and only replica of a node without a catalog.
    ///
    /// # Errors
    /// As [`Self::open_replica`].
    pub async fn open(
        id: PartitionId,
        host: &Host,
        options: PartitionOptions,
        clock: Arc<dyn Clock>,
        tasks: TaskTracker,
    ) -> Result<Self, OpenError> {
        Self::open_replica(id, ALONE, host, options, clock, tasks).await
    }

    /// Opens or creates one replica; a log that belongs to another replica is refused. A new partition of a node without
    /// peers makes itself its only voter. Does not wait for it to lead. A corrupt log or checkpoint opens as a partition whose every call answers `DataLoss` (reads) or `Damaged`
    /// (appends), loudly, with the command that accepts the loss; only resource errors fail.
    ///
    /// # Errors
    /// If the log or the group cannot be opened for another reason than corruption.
    pub async fn open_replica(
        id: PartitionId,
        replica: ReplicaId,
        host: &Host,
        options: PartitionOptions,
        clock: Arc<dyn Clock>,
        tasks: TaskTracker,
    ) -> Result<Self, OpenError> {
        let store = host.store();
        let log = match open_log(id, replica, host, &options).await {
            Ok(log) => log,
            Err(error @ fanfare_log::OpenError::Corrupt { .. }) => {
                return Ok(Self::dead(id, store, loss(&error)));
            }
            Err(source) => return Err(OpenError::Log { partition: id, source }),
        };
        let machine =
            Machine::new(Limits { window_ms: options.dedup_window_ms, bytes_max: options.dedup_bytes_max });
        let positions = machine.positions();
        let group = match open_group(id, replica, host, &options, (log, machine)).await {
            Ok(group) => group,
            Err(fanfare_raft::OpenError::Log {
                source: error @ fanfare_log::OpenError::Corrupt { .. },
                ..
            }) => return Ok(Self::dead(id, store, loss(&error))),
            Err(fanfare_raft::OpenError::Corrupt { reason, first_offset, end_offset, .. }) => {
                return Ok(Self::dead(id, store, (reason, Offset(first_offset)..Offset(end_offset))));
            }
            Err(source) => return Err(OpenError::Group { partition: id, source }),
        };
        let admission = Arc::new(Admission::new(options.queue_bytes_max));
        let stamp = Arc::new(Stamp::new(clock));
        let (inbox, requests) = mpsc::channel(QUEUE_BATCHES_MAX);
        let (stop, writer_finished) = (CancellationToken::new(), CancellationToken::new());
        let way_out = way_out(id, store);
        let parts = WriterParts {
            id,
            group: group.clone(),
            store: store.clone(),
            stamp: Arc::clone(&stamp),
            admission: Arc::clone(&admission),
            entry_bytes_max: options.entry_bytes_max as usize,
            disk_reserve_bytes: options.segment_bytes.saturating_mul(2),
        };
        tasks.spawn(Writer::new(parts, requests, stop.clone(), writer_finished.clone()).run());
        let live = Live {
            role: group.role(),
            positions,
            inbox,
            admission,
            reader: Reader::new((id, way_out), group.clone(), tasks),
            stamp,
            retention: Retention { age_ms: options.retention_ms, bytes_max: options.retention_bytes },
            stop,
            writer_finished,
            group,
        };
        Ok(Self { id, kind: Kind::Live(Arc::new(live)) })
    }

    fn dead(id: PartitionId, store: &Store, (what, offsets): (String, Range<Offset>)) -> Self {
        let what = format!("{what}{}. {}", offsets_lost(&offsets), way_out(id, store));
        tracing::error!(
            partition = %id,
            "the partition takes and gives nothing, and nothing was cut; the others serve: {what}",
        );
        let dead = Dead {
            what,
            offsets,
            role: watch::Sender::new(Role::Failed),
            positions: watch::Sender::new(Positions::default()),
        };
        Self { id, kind: Kind::Dead(Arc::new(dead)) }
    }
}

/// What an operator can do about a damaged partition.
pub(crate) fn way_out(id: PartitionId, store: &Store) -> String {
    let dir = store.dir().display();
    format!(
        "Stop the node; then restore the data directory from a backup, or give up what cannot be read and keep the \
         rest with: fanfare log accept-loss --data-dir {dir} --partition {id}"
    )
}

fn loss(error: &fanfare_log::OpenError) -> (String, Range<Offset>) {
    let offsets = match error {
        fanfare_log::OpenError::Corrupt { first_offset, end_offset, .. } => {
            Offset(*first_offset)..Offset(*end_offset)
        }
        _ => Offset::ZERO..Offset::ZERO,
    };
    (error.to_string(), offsets)
}

async fn open_log(
    id: PartitionId,
    replica: ReplicaId,
    host: &Host,
    options: &PartitionOptions,
) -> Result<Log, fanfare_log::OpenError> {
    let age_ms = (options.retention_ms / ROLL_SHARE_OF_RETENTION).max(ROLL_AGE_MS_MIN);
    let roll = RollPolicy { segment_bytes: options.segment_bytes, age_ms };
    let store = host.store().clone();
    let opening = host.environment().run_blocking(move || {
        let log = store.open_log(&log_name(id), replica.0, roll)?;
        if let Err(error) = log.start_index(tags::TAGGER) {
            tracing::warn!(partition = %id, %error, "index the log; looking for single events will be slow");
        }
        Ok(log)
    });
    opening.await
}

/// Opens the group; one without a log becomes a group of this node alone.
async fn open_group(
    id: PartitionId,
    replica: ReplicaId,
    host: &Host,
    options: &PartitionOptions,
    (log, machine): (Log, Machine),
) -> Result<Group<Machine>, fanfare_raft::OpenError> {
    let is_new = log.bounds().last.is_none() && log.bounds().purged.is_none();
    let group_options =
        GroupOptions { checkpoint_interval_ms: options.checkpoint_interval_ms, snapshot_entries: u64::MAX };
    let group_id = GroupId::Partition(id);
    let group = host.open(group_id, replica, log, machine, group_options).await?;
    if is_new {
        let member = Member { replica, node: host.store().identity().node, address: String::new() };
        let initialized = group.initialize(vec![member]).await;
        let failed = |error: fanfare_raft::ProposeError| fanfare_raft::OpenError::Group {
            group: group_id,
            reason: format!("make this node its only voter: {error}"),
        };
        initialized.map_err(failed)?;
    }
    Ok(group)
}

/// Name of the partition's log in its data directory, such as `events-3`.
#[must_use]
pub fn log_name(id: PartitionId) -> String {
    GroupId::Partition(id).to_string()
}

//! Opening a partition: its log, its group, its writer; or the unavailable partition of a damaged log.

use std::{
    ops::Range,
    sync::{Arc, atomic::AtomicBool},
};

use fanfare_log::{Log, RollPolicy, Store};
use fanfare_model::{Offset, PartitionId, ReplicaId};
use fanfare_raft::{Group, GroupFailure, GroupId, GroupOptions, Host, Member, Role};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Backing, OpenPartition, Partition, PartitionOptions, UnavailablePartition};
use crate::{
    Budgets, OpenError, Positions,
    admission::Admission,
    append_clock::AppendClock,
    dedup::HashSeed,
    error::offsets_lost,
    index_keys,
    machine::{Machine, MachineParts},
    reader::{Reader, ReaderParts},
    retention_policy::RetentionPolicy,
    writer::{Writer, WriterParts},
};

/// Batches that may queue for the writer; their bytes are bounded by the admission.
const QUEUE_BATCHES_MAX: usize = 16_384;
/// A segment rolls when its oldest event is older than this share of the retention, but not before the least age.
const ROLL_SHARE_OF_RETENTION: u64 = 24;
const ROLL_AGE_MS_MIN: u64 = 10 * 60 * 1_000;

/// One replica of a partition, and the members of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionReplica {
    pub partition: PartitionId,
    pub replica: ReplicaId,
    /// The first members, this replica among them: the same wherever the partition is opened for the first time. A
    /// replica whose log holds anything has its members from there.
    pub founders: Vec<Member>,
}

impl PartitionReplica {
    /// The only replica, on the node of `host`.
    #[must_use]
    pub fn alone(partition: PartitionId, replica: ReplicaId, host: &Host) -> Self {
        let node = host.store().identity().node;
        Self { partition, replica, founders: vec![Member { replica, node, address: String::new() }] }
    }
}

/// Damage found while opening.
struct Damage {
    detail: String,
    /// Advice to the operator; None if the loss can be accepted.
    remedy: Option<&'static str>,
    /// Empty if the offsets are unknown.
    offsets: Range<Offset>,
}

/// The reason why a partition did not open.
enum Failure {
    /// Damage of this partition's files alone, or an entry that only this partition holds; the node goes on without it.
    Damaged(Damage),
    Error(OpenError),
}

impl Partition {
    /// Opens or creates one replica; a log that belongs to another replica is refused. Does not wait for a leader. A
    /// log or checkpoint that is damaged opens as an unavailable partition: its reads end in `DataLoss` and its appends
    /// in `Damaged`, with the command that accepts the loss.
    ///
    /// # Errors
    /// If the log or the group cannot be opened for another reason than damage, such as a full disk.
    ///
    /// # Panics
    /// If the replica is not among the founders.
    pub async fn open(
        replica: PartitionReplica,
        host: &Host,
        options: PartitionOptions,
        budgets: &Budgets,
        tasks: TaskTracker,
    ) -> Result<Self, OpenError> {
        let id = replica.partition;
        let store = host.store();
        let environment = host.environment();
        let hash_seed = HashSeed::new(environment.random().as_ref());
        let budget = Arc::new(budgets.share());
        let machine = Machine::new(MachineParts {
            stream: id.stream,
            dedup_window_ms: options.dedup_window_ms,
            budget: budget.clone(),
            hash_seed,
        });
        let positions = machine.watch_positions();
        let group = match open_group(replica, host, &options, machine).await {
            Ok(group) => group,
            Err(Failure::Damaged(damage)) => return Ok(Self::unavailable(id, store, damage)),
            Err(Failure::Error(error)) => return Err(error),
        };
        let admission = Arc::new(Admission::new(budget.clone()));
        let append_clock =
            Arc::new(AppendClock::new(id, environment.clone(), group.read(Machine::last_time)));
        let (inbox, requests) = mpsc::channel(QUEUE_BATCHES_MAX);
        let (stop, writer_finished) = (CancellationToken::new(), CancellationToken::new());
        let holds_shares = Arc::new(AtomicBool::new(false));
        let parts = WriterParts {
            id,
            group: group.clone(),
            store: store.clone(),
            append_clock: append_clock.clone(),
            admission: admission.clone(),
            hash_seed,
            quota: options.quota,
            holds_shares: holds_shares.clone(),
            entry_bytes_max: options.entry_bytes_max as usize,
            disk_reserve_bytes: options.segment_bytes.saturating_mul(2),
        };
        tasks.spawn(Writer::new(parts, requests, stop.clone(), writer_finished.clone()).run());
        let reader = ReaderParts {
            id,
            environment: environment.clone(),
            budget,
            operator_hint: operator_hint(id, store),
        };
        let open = OpenPartition {
            role: group.role(),
            positions,
            inbox,
            admission,
            reader: Reader::new(group.clone(), reader),
            append_clock,
            retention: RetentionPolicy { age_ms: options.retention_ms, bytes_max: options.retention_bytes },
            quota: options.quota,
            holds_shares,
            stop,
            writer_finished,
            group,
        };
        Ok(Self { id, backing: Backing::Open(Arc::new(open)) })
    }

    fn unavailable(id: PartitionId, store: &Store, damage: Damage) -> Self {
        let detail = damage.told(id, store);
        tracing::error!(
            partition = %id,
            detail,
            "the partition is unavailable; nothing was cut, and the other partitions serve",
        );
        let unavailable = UnavailablePartition {
            detail,
            offsets: damage.offsets,
            role: watch::Sender::new(Role::Failed),
            positions: watch::Sender::new(Positions::default()),
        };
        Self { id, backing: Backing::Unavailable(Arc::new(unavailable)) }
    }
}

/// Advice to the operator of a damaged partition.
pub(crate) fn operator_hint(id: PartitionId, store: &Store) -> String {
    let dir = store.dir().display();
    format!(
        "Stop the node; then restore the data directory from a backup, or give up what cannot be read and keep the \
         rest with: fanfare log accept-loss --data-dir {dir} --partition {id}"
    )
}

impl Damage {
    /// Damage, lost offsets and advice, for the operator.
    fn told(&self, id: PartitionId, store: &Store) -> String {
        let remedy = self.remedy.map_or_else(|| operator_hint(id, store), str::to_owned);
        format!("{}{}. {remedy}", self.detail, offsets_lost(&self.offsets))
    }
}

impl Failure {
    fn of_log(id: PartitionId, error: fanfare_log::OpenError) -> Self {
        match damage_of_log(&error) {
            Some(damage) => Self::Damaged(damage),
            None => Self::Error(OpenError::Log { partition: id, source: error }),
        }
    }

    fn of_group(id: PartitionId, error: fanfare_raft::OpenError) -> Self {
        match error {
            fanfare_raft::OpenError::Log { source, .. } if damage_of_log(&source).is_some() => {
                Self::of_log(id, source)
            }
            fanfare_raft::OpenError::Unusable { failure, offsets, .. } => {
                let remedy = match failure {
                    GroupFailure::Damaged { .. } => None,
                    GroupFailure::Entry { .. }
                    | GroupFailure::State { .. }
                    | GroupFailure::Diverged { .. }
                    | GroupFailure::AppliedTruncated { .. } => Some(failure.remedy()),
                };
                let offsets = Offset(offsets.start)..Offset(offsets.end);
                Self::Damaged(Damage { detail: failure.to_string(), remedy, offsets })
            }
            source => Self::Error(OpenError::Group { partition: id, source }),
        }
    }
}

/// The damage that an error of the log names; None of every other error.
fn damage_of_log(error: &fanfare_log::OpenError) -> Option<Damage> {
    let detail = error.to_string();
    match error {
        fanfare_log::OpenError::Corrupt { first_offset, end_offset, .. } => {
            Some(Damage { detail, remedy: None, offsets: Offset(*first_offset)..Offset(*end_offset) })
        }
        // A sector that the disk cannot read is damage of this log: opening reads this log's files alone.
        fanfare_log::OpenError::Io(fatal) if fatal.operation == "read" => {
            Some(Damage { detail, remedy: None, offsets: Offset::ZERO..Offset::ZERO })
        }
        _ => None,
    }
}

/// Opens log and group; a group without entries begins with the founders.
async fn open_group(
    replica: PartitionReplica,
    host: &Host,
    options: &PartitionOptions,
    machine: Machine,
) -> Result<Group<Machine>, Failure> {
    let PartitionReplica { partition: id, replica, founders } = replica;
    let log = open_log(id, replica, host, options).await.map_err(|error| Failure::of_log(id, error))?;
    let is_new = log.bounds().last.is_none() && log.bounds().purged.is_none();
    let group_options =
        GroupOptions { checkpoint_interval_ms: options.checkpoint_interval_ms, snapshot_entries: u64::MAX };
    let group_id = GroupId::Partition(id);
    let group = Group::open(host, group_id, replica, log, machine, group_options).await;
    let group = group.map_err(|error| Failure::of_group(id, error))?;
    if is_new {
        // All founders begin with the same membership, so whichever of them is first, the group is one.
        let initialized = group.initialize(founders).await;
        initialized.map_err(|error| {
            let reason = format!("begin the group with its founders: {error}");
            Failure::of_group(id, fanfare_raft::OpenError::Group { group: group_id, reason })
        })?;
    }
    Ok(group)
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
        if let Err(error) = log.start_index(index_keys::INDEX_KEYS) {
            tracing::warn!(
                partition = %id, %error,
                "failed to open the index of accounts and events; lookups of single events are slow",
            );
        }
        Ok(log)
    });
    opening.await
}

/// Name of the partition's log in its data directory, such as `events-3`.
#[must_use]
pub fn log_name(id: PartitionId) -> String {
    GroupId::Partition(id).to_string()
}

//! Lost events: what stands in their place, and how an operator accepts that they are gone.
//!
//! In the place of a lost entry stands one of [`KIND`] that takes the same offsets and holds no event: readers pass
//! over it, and no offset ever names another event. What a subscription had pending there is settled as unreadable
//! when delivery reads the place again.

use std::{ops::Range, path::PathBuf};

use fanfare_log::Store;
use fanfare_model::{AccountId, EventIdHash, KeyHash, Offset, PartitionId};
use fanfare_raft::{GroupId, Repair};

use crate::{OpenError, RecordHeader, dedup::Limits, state::PartitionState};

/// Kind of the frames that stand for lost ones.
pub(crate) const KIND: u8 = 3;

/// Owner of lost events. No account has the all-zero id.
pub(crate) const NO_ACCOUNT: AccountId = AccountId::from_bytes([0; 16]);

/// Stand-ins for lost events, one for each offset: the window of identities is as dense as offsets are.
pub(crate) fn records(base: Offset, count: u32) -> impl ExactSizeIterator<Item = RecordHeader> {
    (0..count).map(move |index| {
        let id = EventIdHash(u128::from(base.plus(index.into()).0));
        RecordHeader { id, key: KeyHash(0), checksum: 0, length: 0 }
    })
}

/// What a partition has lost, and what of it stays.
#[derive(Clone, Debug)]
pub struct DamageReport {
    pub ranges: Vec<DamagedRange>,
    /// The reason why subscriptions and their progress are gone; None if they are intact.
    pub state_loss: Option<String>,
    /// The partition does not open as it is, even if nothing else is reported: a repair was interrupted, or what is
    /// damaged held no entry.
    pub unfinished: bool,
    /// Events that stay readable.
    pub kept_events: u64,
    /// The next event gets this offset; every lower one is, or was, another event's.
    pub next_offset: Offset,
    /// Where the damaged files are kept as they are.
    pub quarantine: PathBuf,
}

/// A stretch of events that are gone.
#[derive(Clone, Debug)]
pub struct DamagedRange {
    pub path: String,
    pub byte: u64,
    pub detail: String,
    /// Empty if the range holds no event.
    pub offsets: Range<u64>,
}

impl DamageReport {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.state_loss.is_none() && !self.unfinished
    }

    fn new(damage: fanfare_raft::GroupDamage) -> Self {
        let fanfare_raft::GroupDamage { log, state } = damage;
        let range = |range: fanfare_log::DamagedRange| DamagedRange {
            path: range.path,
            byte: range.byte,
            detail: range.cause,
            offsets: range.offsets,
        };
        Self {
            ranges: log.damaged.into_iter().map(range).collect(),
            state_loss: state,
            unfinished: log.needs_repair,
            kept_events: log.readable_offsets,
            next_offset: Offset(log.next_offset),
            quarantine: log.quarantine,
        }
    }
}

/// What a partition that is not open has lost. Reads all of it, changes nothing. Blocking.
///
/// # Errors
/// If there is no such partition, or its files cannot be read at all.
pub fn survey_damage(store: &Store, id: PartitionId) -> Result<DamageReport, OpenError> {
    let survey = Repair { store, group: GroupId::Partition(id) }.inspect();
    survey.map(DamageReport::new).map_err(|source| OpenError::Group { partition: id, source })
}

/// Lets a partition that is not open go on without what [`survey_damage`] reports. Nothing is deleted: the damaged
/// files are kept in the quarantine. Durable at return; to be made again after an error. Blocking.
///
/// # Errors
/// If a file cannot be read or written.
pub fn accept_loss(store: &Store, id: PartitionId) -> Result<DamageReport, OpenError> {
    // What is derived from the log is rebuilt at the next start, whatever the limits are then.
    let empty_state =
        |anchor| PartitionState::beginning_at(anchor, Limits { window_ms: 0, bytes_max: 0 }).checkpoint();
    let accepted = Repair { store, group: GroupId::Partition(id) }.accept_loss(KIND, empty_state);
    accepted.map(DamageReport::new).map_err(|source| OpenError::Group { partition: id, source })
}

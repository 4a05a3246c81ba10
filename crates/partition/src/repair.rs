//! Repair of a damaged partition: a report of the damage, and its acceptance by the operator.
//!
//! In the place of a lost entry stands a filler ([`crate::filler`]); the damaged files are kept in the quarantine.

use std::{ops::Range, path::PathBuf};

use fanfare_log::Store;
use fanfare_model::{Offset, PartitionId};
use fanfare_raft::{GroupDamage, GroupId, Repair, RepairError};

use crate::{filler, state::PartitionState};

/// The damage of a partition, and the events that stay readable.
#[derive(Clone, Debug)]
pub struct DamageReport {
    pub ranges: Vec<DamagedRange>,
    /// The reason why subscriptions and their progress are gone; None if they are intact.
    pub state_loss: Option<String>,
    /// True if the partition does not open as it is, even if nothing else is reported: a repair was interrupted, or the
    /// damaged part holds no entry.
    pub unfinished: bool,
    /// Number of events that stay readable.
    pub kept_events: u64,
    /// Offset of the next event. Every lower offset is, or was, another event's.
    pub next_offset: Offset,
    /// Directory that keeps the damaged files as they are.
    pub quarantine: PathBuf,
    /// Replicas that the partition has had, if there were others than this one: they hold what is lost here, so the
    /// replica is replaced and its loss is never accepted.
    pub members: Option<String>,
}

/// A damaged part of a file, and the events lost with it.
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

    fn new(damage: GroupDamage) -> Self {
        let GroupDamage { log, state, members } = damage;
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
            members,
        }
    }
}

/// Reports the damage of a partition that is not open. Reads all of it and changes nothing. Blocking.
///
/// # Errors
/// If there is no such partition, or its files cannot be read at all.
pub fn survey_damage(store: &Store, id: PartitionId) -> Result<DamageReport, RepairError> {
    let survey = Repair { store, group: GroupId::Partition(id) }.inspect();
    survey.map(DamageReport::new)
}

/// Gives up the events that [`survey_damage`] reports, of a partition that is not open. Deletes nothing: the damaged
/// files are kept in the quarantine. Durable at return; to be repeated after an error. Blocking.
///
/// # Errors
/// If the partition has had another replica, which then holds what is lost here, or a file cannot be read or written.
pub fn accept_loss(store: &Store, id: PartitionId) -> Result<DamageReport, RepairError> {
    // State derived from the log is rebuilt at the next start.
    let empty_state = |anchor| PartitionState::empty_at(anchor, id.stream).checkpoint();
    let repair = Repair { store, group: GroupId::Partition(id) };
    let accepted = repair.accept_loss(filler::KIND, empty_state);
    accepted.map(DamageReport::new)
}

//! Lost events: what stands in their place, and how an operator accepts that they are gone.
//!
//! In the place of a lost entry stands one of [`KIND`] that takes the same offsets and holds no event: readers pass
//! over it, and no offset ever names another event. What a subscription had pending there is settled as unreadable
//! when delivery reads the place again.

use std::{ops::Range, path::PathBuf};

use fanfare_log::{DamagedRange, Store};
use fanfare_model::{AccountId, EventIdHash, KeyHash, Offset, PartitionId};
use fanfare_raft::Salvage;

use crate::{OpenError, RecordHeader, dedup::Limits, partition::open::log_name, state::PartitionState};

/// Kind of the frames that stand for lost ones.
pub(crate) const KIND: u8 = 3;

/// Owns what is lost: no account's id is all zeros.
pub(crate) fn nobody() -> AccountId {
    AccountId::from_bytes([0; 16])
}

/// Stand-ins for lost events, one for each offset: the window of identities is as dense as offsets are.
pub(crate) fn records(base: Offset, count: u32) -> impl ExactSizeIterator<Item = RecordHeader> {
    (0..count).map(move |index| {
        let id = EventIdHash(u128::from(base.plus(index.into()).0));
        RecordHeader { id, key: KeyHash(0), checksum: 0, length: 0 }
    })
}

/// What a partition has lost, and what of it stays.
#[derive(Clone, Debug)]
pub struct LossReport {
    pub lost: Vec<LostEvents>,
    /// Why subscriptions and their progress are gone, if they are.
    pub state: Option<String>,
    /// The partition does not open as it is, even if nothing else is reported: a repair was interrupted, or what is
    /// damaged held no entry.
    pub unfinished: bool,
    /// Events that stay readable.
    pub kept: u64,
    /// The next event gets this offset; every lower one is, or was, another event's.
    pub next_offset: Offset,
    /// Where the damaged files are kept as they are.
    pub quarantine: PathBuf,
}

/// A stretch of events that are gone.
#[derive(Clone, Debug)]
pub struct LostEvents {
    pub path: String,
    pub at: u64,
    pub what: String,
    /// Empty if no event is among what is lost.
    pub offsets: Range<u64>,
}

impl LossReport {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.state.is_none() && !self.unfinished
    }

    fn new(losses: fanfare_raft::Losses) -> Self {
        let fanfare_raft::Losses { log, state } = losses;
        let events = |DamagedRange { path, byte, cause, offsets, .. }| LostEvents {
            path,
            at: byte,
            what: cause,
            offsets,
        };
        Self {
            lost: log.damaged.into_iter().map(events).collect(),
            state,
            unfinished: log.needs_repair,
            kept: log.readable_offsets,
            next_offset: Offset(log.next_offset),
            quarantine: log.quarantine,
        }
    }
}

/// What a partition that is not open has lost. Reads all of it, changes nothing. Blocking.
///
/// # Errors
/// If there is no such partition, or its files cannot be read at all.
pub fn survey_loss(store: &Store, id: PartitionId) -> Result<LossReport, OpenError> {
    let group = log_name(id);
    let survey = Salvage { store, group: &group }.survey();
    survey.map(LossReport::new).map_err(|source| OpenError::Group { partition: id, source })
}

/// Lets a partition that is not open go on without what [`survey_loss`] reports. Nothing is deleted: the damaged
/// files are kept in the quarantine. Durable at return; to be made again after an error. Blocking.
///
/// # Errors
/// If a file cannot be read or written.
pub fn accept_loss(store: &Store, id: PartitionId) -> Result<LossReport, OpenError> {
    let group = log_name(id);
    // What is derived from the log is rebuilt at the next start, whatever the limits are then.
    let anew =
        |anchor| PartitionState::beginning_at(anchor, Limits { window_ms: 0, bytes_max: 0 }).checkpoint();
    let accepted = Salvage { store, group: &group }.accept(KIND, anew);
    accepted.map(LossReport::new).map_err(|source| OpenError::Group { partition: id, source })
}

//! Giving a damaged group up to what is left of it, when an operator accepts the loss. Its store is open, the group
//! is not. For groups whose only member is this replica: with peers, the replica is built anew from them instead.

use fanfare_log::{DamageReport, Position, RepairHints, Store};

use crate::checkpoint::{CHECKPOINT_VERSION, Checkpoint, StoredCheckpoint, file_name, load};
use crate::entry::{Membership, NodeAddress, StoredMembership, log_id_of, position_of};
use crate::error::OpenError;
use crate::id::GroupId;
use crate::machine::Anchor;

/// Damage of a group.
#[derive(Clone, Debug, Default)]
pub struct GroupDamage {
    /// Damage of the group's log.
    pub log: DamageReport,
    /// The state below the log's start is gone: why. None if it is whole, or can be replayed.
    pub state: Option<String>,
}

/// One group that is not open.
pub struct Repair<'a> {
    pub store: &'a Store,
    pub group: GroupId,
}

impl Repair<'_> {
    /// Looks at everything and changes nothing. Blocking.
    ///
    /// # Errors
    /// If there is no such group, or its files cannot be read at all.
    pub fn inspect(&self) -> Result<GroupDamage, OpenError> {
        let (known, state) = self.known()?;
        let log =
            self.store.inspect_damage(&self.log_name(), &known).map_err(|source| self.unreadable(source))?;
        Ok(GroupDamage { log, state })
    }

    /// Lets the group open without what [`Repair::inspect`] reports. Lost entries become entries of `filler_kind`
    /// that take the same indexes and offsets; a lost state becomes `empty_state`, that of a machine whose log begins at
    /// the anchor given. Durable at return; after an error or a crash, to be made again. Blocking.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn accept_loss(
        &self,
        filler_kind: u8,
        empty_state: impl Fn(Anchor) -> Vec<u8>,
    ) -> Result<GroupDamage, OpenError> {
        let (known, state) = self.known()?;
        // The checkpoint first: as long as the log is damaged, the group does not open, and the loss is found again.
        if let Some((position, next_offset)) =
            state.as_ref().and_then(|_| self.store.log_start(&self.log_name()))
        {
            self.save_empty_state(position, Anchor { position, next_offset }, next_offset, &empty_state)?;
        } else if let Some(next_offset) = self.lost_voters(&known)? {
            let start = Anchor { position: Position::default(), next_offset: 0 };
            self.save_empty_state(start.position, start, next_offset, &empty_state)?;
        }
        let accepted = self.store.repair_log(&self.log_name(), &known, filler_kind);
        let log = accepted.map_err(|source| self.unreadable(source))?;
        Ok(GroupDamage { log, state })
    }

    /// The first entry says who votes, and without a checkpoint nothing else does. If it is lost: the offset after
    /// what is lost with it.
    fn lost_voters(&self, known: &RepairHints) -> Result<Option<u64>, OpenError> {
        if !known.positions.is_empty() {
            return Ok(None);
        }
        let log =
            self.store.inspect_damage(&self.log_name(), known).map_err(|source| self.unreadable(source))?;
        let first = log.damaged.first().filter(|lost| lost.indexes.start == 0);
        Ok(first.map(|lost| lost.offsets.end))
    }

    /// Hints of the checkpoint for the repair of the log, and the fault of a checkpoint that is needed.
    fn known(&self) -> Result<(RepairHints, Option<String>), OpenError> {
        let purged = self.store.log_start(&self.log_name());
        let file = file_name(self.group);
        let stored = load(self.store, &file).map_err(|source| self.unreadable(source))?;
        let state = match stored {
            StoredCheckpoint::Intact(Checkpoint { applied, .. })
                if purged.is_some_and(|(purged, _)| purged.index > applied.index) =>
            {
                format!("{file} stands at index {}, below the log's start", applied.index)
            }
            StoredCheckpoint::Intact(checkpoint) => {
                let anchor = checkpoint.anchor.map(|anchor| anchor.position);
                let members = checkpoint.memberships.iter().filter_map(|stored| *stored.log_id());
                let positions = members.chain([checkpoint.applied]).map(position_of);
                let known = RepairHints {
                    positions: positions.chain(anchor).collect(),
                    next_offset: checkpoint.next_offset,
                };
                return Ok((known, None));
            }
            StoredCheckpoint::Damaged(reason) => reason,
            StoredCheckpoint::Missing => format!("{file} is missing"),
        };
        Ok((RepairHints::default(), purged.map(|_| state)))
    }

    /// Replaces the checkpoint by one that stands at `applied`, with this replica as the only voter.
    fn save_empty_state(
        &self,
        applied: Position,
        anchor: Anchor,
        next_offset: u64,
        empty_state: &impl Fn(Anchor) -> Vec<u8>,
    ) -> Result<(), OpenError> {
        let replica = self.store.log_replica(&self.log_name()).unwrap_or_default();
        let node = NodeAddress { node: self.store.identity().node, address: String::new() };
        let voters = std::collections::BTreeSet::from([replica]);
        let membership =
            Membership::new(vec![voters], std::collections::BTreeMap::from([(replica, node)]))
                .map_err(|error| OpenError::Group { group: self.group, reason: error.to_string() })?;
        let applied = log_id_of(applied);
        let checkpoint = Checkpoint {
            applied,
            next_offset,
            live_from: applied.index + 1,
            memberships: vec![StoredMembership::new(Some(applied), membership)],
            anchor: Some(anchor),
            installed: false,
            machine: empty_state(anchor).into(),
        };
        let file = file_name(self.group);
        self.store.quarantine_file(&file, &self.log_name()).map_err(|error| self.unreadable(error.into()))?;
        self.store
            .save_file(&file, u32::from(CHECKPOINT_VERSION), &checkpoint.encode())
            .map_err(|error| self.unreadable(error.into()))
    }

    fn log_name(&self) -> String {
        self.group.to_string()
    }

    fn unreadable(&self, source: fanfare_log::OpenError) -> OpenError {
        OpenError::Log { group: self.group, source }
    }
}

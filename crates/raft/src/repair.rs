//! Repair of a damaged group by what is left of it, when an operator accepts the loss. Its store is open, the group is
//! not.
//!
//! Only a group that never had another member can lose entries by its own decision. In any other, its peers hold what is
//! lost here, and a replica with fillers in the place of committed entries would vote, and even lead, with a log that
//! differs from theirs: such a replica is replaced.

use std::collections::{BTreeMap, BTreeSet};

use fanfare_log::{DamageReport, Position, RepairHints, Store};

use crate::{
    checkpoint::{CHECKPOINT_VERSION, Checkpoint, StoredCheckpoint, file_name, load},
    entry::{Membership, NodeAddress, StoredMembership, log_id_of, position_of},
    error::OpenError,
    id::GroupId,
    machine::Anchor,
    members,
};

/// Damage of a group.
#[derive(Clone, Debug, Default)]
pub struct GroupDamage {
    /// Damage of the group's log.
    pub log: DamageReport,
    /// The state below the log's start is gone: why. None if it is whole, or can be replayed.
    pub state: Option<String>,
    /// Replicas that the group has had besides this one, with this one. The loss cannot be accepted if there are any.
    pub members: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Nothing was changed. `members` are replicas that the group has had.
    #[error(
        "group {group} has had other members ({members}), which hold what is lost here: accept no loss, but remove this \
         replica from the group and place a new one on this node"
    )]
    HasPeers { group: GroupId, members: String },
}

/// One group that is not open.
pub struct Repair<'a> {
    pub store: &'a Store,
    pub group: GroupId,
}

/// Facts about a group beside its log.
struct Known {
    /// Hints of the checkpoint for the repair of the log.
    hints: RepairHints,
    /// The fault of a checkpoint that is needed.
    state: Option<String>,
    members: Option<String>,
}

impl Repair<'_> {
    /// Looks at everything and changes nothing. Blocking.
    ///
    /// # Errors
    /// If there is no such group, or its files cannot be read at all.
    pub fn inspect(&self) -> Result<GroupDamage, RepairError> {
        let Known { hints: known, state, members } = self.known()?;
        let log =
            self.store.inspect_damage(&self.log_name(), &known).map_err(|source| self.unreadable(source))?;
        Ok(GroupDamage { log, state, members })
    }

    /// Lets the group open without what [`Repair::inspect`] reports. Lost entries become entries of `filler_kind`
    /// that take the same indexes and offsets; a lost state becomes `empty_state`, that of a machine whose log begins at
    /// the anchor given. Durable at return; after an error or a crash, to be made again. Blocking.
    ///
    /// # Errors
    /// If the group has had other members, or a file cannot be read or written.
    pub fn accept_loss(
        &self,
        filler_kind: u8,
        empty_state: impl Fn(Anchor) -> Vec<u8>,
    ) -> Result<GroupDamage, RepairError> {
        let Known { hints: known, state, members } = self.known()?;
        if let Some(members) = members {
            return Err(RepairError::HasPeers { group: self.group, members });
        }
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
        Ok(GroupDamage { log, state, members: None })
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

    fn known(&self) -> Result<Known, OpenError> {
        let purged = self.store.log_start(&self.log_name());
        let file = file_name(self.group);
        let stored = load(self.store, &file).map_err(|source| self.unreadable(source))?;
        let (hints, state, memberships) = match stored {
            StoredCheckpoint::Intact(checkpoint)
                if purged.is_some_and(|(purged, _)| purged.index > checkpoint.applied.index) =>
            {
                let applied = checkpoint.applied.index;
                let state = format!("{file} stands at index {applied}, below the log's start");
                (RepairHints::default(), Some(state), checkpoint.memberships)
            }
            StoredCheckpoint::Intact(checkpoint) => {
                let anchor = checkpoint.anchor.map(|anchor| anchor.position);
                let members = checkpoint.memberships.iter().filter_map(|stored| *stored.log_id());
                let positions = members.chain([checkpoint.applied]).map(position_of).chain(anchor).collect();
                let hints = RepairHints { positions, next_offset: checkpoint.next_offset };
                (hints, None, checkpoint.memberships)
            }
            StoredCheckpoint::Damaged(reason) => (RepairHints::default(), Some(reason), Vec::new()),
            StoredCheckpoint::Missing => {
                (RepairHints::default(), Some(format!("{file} is missing")), Vec::new())
            }
        };
        let members = members::evidence(self.store, self.group, &memberships);
        let members = members.map_err(|source| self.unreadable(source))?;
        // Without a purge, everything that the state is made of is in the log.
        Ok(Known { hints, state: state.filter(|_| purged.is_some()), members })
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
        let voters = BTreeSet::from([replica]);
        let membership = Membership::new(vec![voters], BTreeMap::from([(replica, node)]))
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

//! Giving a damaged group up to what is left of it, when an operator accepts the loss. Its store is open, the group
//! is not. For groups whose only member is this replica: with peers, the replica is built anew from them instead.

use fanfare_log::{DamageReport, Position, RepairHints, Store};

use crate::checkpoint::{CHECKPOINT_VERSION, Checkpoint, Checkpoints, Found};
use crate::entry::{Broker, Membership, StoredMembership, log_id_of, position_of};
use crate::group::OpenError;
use crate::machine::Anchor;

/// What a group has lost.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    /// Of its log.
    pub log: DamageReport,
    /// The state below the log's start is gone: why. None if it is whole, or can be replayed.
    pub state: Option<String>,
}

/// One group that is not open.
pub struct Salvage<'a> {
    pub store: &'a Store,
    pub group: &'a str,
}

impl Salvage<'_> {
    /// Looks at everything and changes nothing. Blocking.
    ///
    /// # Errors
    /// If there is no such group, or its files cannot be read at all.
    pub fn survey(&self) -> Result<Losses, OpenError> {
        let (known, state) = self.known()?;
        let log = self.store.inspect_damage(self.group, &known).map_err(|source| self.unreadable(source))?;
        Ok(Losses { log, state })
    }

    /// Lets the group open without what [`Salvage::survey`] reports. Lost entries become entries of `filler_kind`
    /// that take the same indexes and offsets; a lost state becomes `anew`, that of a machine whose log begins at
    /// the anchor given. Durable at return; after an error or a crash, to be made again. Blocking.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn accept(&self, filler_kind: u8, anew: impl Fn(Anchor) -> Vec<u8>) -> Result<Losses, OpenError> {
        let (known, state) = self.known()?;
        // The checkpoint first: as long as the log is damaged, the group does not open, and the loss is found again.
        if let Some((position, next_offset)) = state.as_ref().and_then(|_| self.store.log_start(self.group)) {
            self.begin_anew(position, Anchor { position, next_offset }, next_offset, &anew)?;
        } else if let Some(next_offset) = self.lost_voters(&known)? {
            let start = Anchor { position: Position::default(), next_offset: 0 };
            self.begin_anew(start.position, start, next_offset, &anew)?;
        }
        let accepted = self.store.repair_log(self.group, &known, filler_kind);
        let log = accepted.map_err(|source| self.unreadable(source))?;
        Ok(Losses { log, state })
    }

    /// The first entry says who votes, and without a checkpoint nothing else does. If it is lost: the offset after
    /// what is lost with it.
    fn lost_voters(&self, known: &RepairHints) -> Result<Option<u64>, OpenError> {
        if !known.positions.is_empty() {
            return Ok(None);
        }
        let log = self.store.inspect_damage(self.group, known).map_err(|source| self.unreadable(source))?;
        let first = log.damaged.first().filter(|lost| lost.indexes.start == 0);
        Ok(first.map(|lost| lost.offsets.end))
    }

    /// What the checkpoint knows of the log, and what is wrong with a checkpoint that is needed.
    fn known(&self) -> Result<(RepairHints, Option<String>), OpenError> {
        let purged = self.store.log_start(self.group);
        let checkpoints = Checkpoints::new(self.store.clone(), self.group);
        let found = checkpoints.load().map_err(|source| self.unreadable(source))?;
        let state = match found {
            Found::Checkpoint(Checkpoint { applied, .. })
                if purged.is_some_and(|(purged, _)| purged.index > applied.index) =>
            {
                let file = checkpoints.file();
                format!("{file} stands at index {}, below the log's start", applied.index)
            }
            Found::Checkpoint(checkpoint) => {
                let anchor = checkpoint.anchor.map(|anchor| anchor.position);
                let members = checkpoint.memberships.iter().filter_map(|stored| *stored.log_id());
                let positions = members.chain([checkpoint.applied]).map(position_of);
                let known = RepairHints {
                    positions: positions.chain(anchor).collect(),
                    next_offset: checkpoint.next_offset,
                };
                return Ok((known, None));
            }
            Found::Damaged(what) => what,
            Found::Nothing => format!("{} is missing", checkpoints.file()),
        };
        Ok((RepairHints::default(), purged.map(|_| state)))
    }

    /// Replaces the checkpoint by one that stands at `applied`, with this replica as the only voter.
    fn begin_anew(
        &self,
        applied: Position,
        anchor: Anchor,
        next_offset: u64,
        anew: &impl Fn(Anchor) -> Vec<u8>,
    ) -> Result<(), OpenError> {
        let replica = self.store.log_replica(self.group).unwrap_or_default();
        let node = Broker { broker: self.store.identity().node, address: String::new() };
        let voters = std::collections::BTreeSet::from([replica]);
        let membership =
            Membership::new(vec![voters], std::collections::BTreeMap::from([(replica, node)])).map_err(
                |error| OpenError::Group { group: self.group.to_owned(), what: error.to_string() },
            )?;
        let applied = log_id_of(applied);
        let checkpoint = Checkpoint {
            applied,
            next_offset,
            full_from: applied.index + 1,
            memberships: vec![StoredMembership::new(Some(applied), membership)],
            anchor: Some(anchor),
            installed: false,
            machine: anew(anchor).into(),
        };
        let checkpoints = Checkpoints::new(self.store.clone(), self.group);
        self.store
            .quarantine_file(checkpoints.file(), self.group)
            .map_err(|error| self.unreadable(error.into()))?;
        self.store
            .save_file(checkpoints.file(), u32::from(CHECKPOINT_VERSION), &checkpoint.encode())
            .map_err(|error| self.unreadable(error.into()))
    }

    fn unreadable(&self, source: fanfare_log::OpenError) -> OpenError {
        OpenError::Log { group: self.group.to_owned(), source }
    }
}

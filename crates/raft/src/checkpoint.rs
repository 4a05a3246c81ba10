//! Checkpoints: a machine's accumulated state with the place in the log that it belongs to; one file per
//! replica.
//!
//! The file is the durable form of the machine, and the newest one is also what a snapshot is made of.
//! Invariant: a checkpoint is written only when the log has flushed the entry it stands at, except for an
//! installed snapshot, whose log begins above it.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use fanfare_environment::Environment;
use fanfare_log::{Fatal, Log, OpenError, Position, Store};
use parking_lot::Mutex;

use crate::{
    codec::{self, Malformed},
    entry::{LogId, Snapshot, SnapshotMeta, StoredMembership, encoding, log_id_of, position_of},
    id::GroupId,
    machine::Anchor,
};

pub(crate) const CHECKPOINT_VERSION: u8 = 1;

/// A machine's state at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Checkpoint {
    /// The last entry that was applied to what is derived from the log.
    pub(crate) applied: LogId,
    /// The offset that follows `applied`.
    pub(crate) next_offset: u64,
    /// The first index that the accumulated state does not contain; above `applied` only after an installed
    /// snapshot.
    pub(crate) live_from: u64,
    /// Memberships in log order: the one in effect at the base first, the one in effect at `applied` last.
    pub(crate) memberships: Vec<StoredMembership>,
    pub(crate) anchor: Option<Anchor>,
    /// Came as a snapshot: the log below and up to `applied` is not this replica's.
    pub(crate) installed: bool,
    pub(crate) machine: Bytes,
}

impl Checkpoint {
    /// Where a snapshot made of this checkpoint stands. None while an anchored machine has trimmed nothing.
    pub(crate) fn base(&self) -> Option<Anchor> {
        match self.anchor {
            None => Some(Anchor { position: position_of(self.applied), next_offset: self.next_offset }),
            Some(anchor) if anchor.position.index == 0 => None,
            Some(anchor) => Some(anchor),
        }
    }

    /// The membership in effect at `index`.
    pub(crate) fn membership_at(&self, index: u64) -> StoredMembership {
        let at = effective_at(&self.memberships, index);
        at.and_then(|at| self.memberships.get(at)).cloned().unwrap_or_default()
    }

    pub(crate) fn to_snapshot(&self) -> Option<Snapshot> {
        let base = self.base()?.position;
        let last_membership = self.membership_at(base.index);
        let meta = SnapshotMeta { last_log_id: Some(log_id_of(base)), last_membership };
        Some(Snapshot { meta, snapshot: self.encode().into() })
    }

    /// The checkpoint from which a replica starts that installs this one as a snapshot at `base`.
    pub(crate) fn rebased(self, base: LogId, membership: StoredMembership) -> Result<Self, Malformed> {
        let own = self.base().ok_or(Malformed("snapshot: it has no base"))?;
        if own.position != position_of(base) || base.index > self.applied.index {
            return Err(Malformed("snapshot: its base is not that of its header"));
        }
        Ok(Self {
            applied: base,
            next_offset: own.next_offset,
            live_from: self.live_from.max(self.applied.index + 1),
            memberships: vec![membership],
            installed: true,
            ..self
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![CHECKPOINT_VERSION, u8::from(self.installed)];
        encoding::put_log_id(&mut out, &self.applied);
        out.put_u64_le(self.next_offset);
        out.put_u64_le(self.live_from);
        let anchor = self.anchor.map(|anchor| log_id_of(anchor.position));
        encoding::put_log_id_option(&mut out, anchor.as_ref());
        out.put_u64_le(self.anchor.map_or(0, |anchor| anchor.next_offset));
        out.put_u32_le(u32::try_from(self.memberships.len()).expect("a trim drops old memberships"));
        self.memberships.iter().for_each(|stored| encoding::put_stored_membership(&mut out, stored));
        out.extend_from_slice(&self.machine);
        out
    }

    pub(crate) fn decode(mut from: Bytes) -> Result<Self, Malformed> {
        codec::expect_version(&mut from, CHECKPOINT_VERSION, "checkpoint version")?;
        let installed = codec::take_bool(&mut from)?;
        let applied = encoding::take_log_id(&mut from)?;
        let next_offset = codec::take_u64(&mut from)?;
        let live_from = codec::take_u64(&mut from)?;
        let position = encoding::take_log_id_option(&mut from)?.map(position_of);
        let anchor_offset = codec::take_u64(&mut from)?;
        let anchor = position.map(|position| Anchor { position, next_offset: anchor_offset });
        let memberships =
            (0..codec::take_u32(&mut from)?).map(|_| encoding::take_stored_membership(&mut from));
        let memberships = memberships.collect::<Result<Vec<_>, _>>()?;
        let machine = from.copy_to_bytes(from.remaining());
        Ok(Self { applied, next_offset, live_from, memberships, anchor, installed, machine })
    }
}

/// Where in `memberships` the one in effect at `index` is.
pub(crate) fn effective_at(memberships: &[StoredMembership], index: u64) -> Option<usize> {
    memberships.iter().rposition(|stored| stored.log_id().is_none_or(|log_id| log_id.index <= index))
}

/// Keeps the checkpoint file of one replica, and the newest durable checkpoint in memory.
pub(crate) struct Checkpoints {
    store: Store,
    environment: Environment,
    file: String,
    latest: Mutex<Option<Arc<Checkpoint>>>,
    /// Held from taking a machine's state to having saved it, so that an older state never replaces a newer
    /// one.
    pub(crate) saving: tokio::sync::Mutex<()>,
}

/// Content of the checkpoint file.
pub(crate) enum StoredCheckpoint {
    Missing,
    Damaged(String),
    Intact(Checkpoint),
}

/// Name of the file that holds a group's checkpoint.
pub(crate) fn file_name(group: GroupId) -> String {
    format!("checkpoint-{group}")
}

/// Reads a checkpoint file. Blocking.
pub(crate) fn load(store: &Store, file: &str) -> Result<StoredCheckpoint, OpenError> {
    match store.load_file(file) {
        Ok(None) => Ok(StoredCheckpoint::Missing),
        Ok(Some((version, bytes))) if version == u32::from(CHECKPOINT_VERSION) => {
            Ok(Checkpoint::decode(bytes.into())
                .map_or_else(|e| StoredCheckpoint::Damaged(e.to_string()), StoredCheckpoint::Intact))
        }
        Ok(Some((version, _))) => Err(OpenError::Newer { path: file.to_owned(), version }),
        Err(corrupt @ OpenError::Corrupt { .. }) => Ok(StoredCheckpoint::Damaged(corrupt.to_string())),
        // The disk does not give it: as good as damaged, and the damage of this group alone.
        Err(OpenError::Io(fatal)) if matches!(fatal.operation, "read" | "measure") => {
            Ok(StoredCheckpoint::Damaged(fatal.to_string()))
        }
        Err(other) => Err(other),
    }
}

impl Checkpoints {
    pub(crate) fn new(store: Store, group: GroupId, environment: Environment) -> Self {
        let file = file_name(group);
        Self { store, environment, file, latest: Mutex::default(), saving: tokio::sync::Mutex::default() }
    }

    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// Reads the file.
    pub(crate) async fn load(&self) -> Result<StoredCheckpoint, OpenError> {
        let (store, file) = (self.store.clone(), self.file.clone());
        self.environment.run_blocking(move || load(&store, &file)).await
    }

    pub(crate) fn latest(&self) -> Option<Arc<Checkpoint>> {
        self.latest.lock().clone()
    }

    /// Takes a checkpoint that is durable already, or that stands for a state without a log.
    pub(crate) fn adopt(&self, checkpoint: Checkpoint) {
        *self.latest.lock() = Some(Arc::new(checkpoint));
    }

    /// Makes a checkpoint durable and the newest. The caller holds `saving`.
    pub(crate) async fn save(&self, checkpoint: Checkpoint) -> Result<(), Fatal> {
        let (store, file) = (self.store.clone(), self.file.clone());
        let saved = self.environment.run_blocking(move || {
            store.save_file(&file, u32::from(CHECKPOINT_VERSION), &checkpoint.encode()).map(|()| checkpoint)
        });
        // Durable first: the newest checkpoint is what openraft purges the log up to.
        self.adopt(saved.await?);
        Ok(())
    }
}

/// True if everything up to `position` is on this replica's disk, or below its log.
pub(crate) fn is_flushed(log: &Log, position: Position) -> bool {
    let bounds = log.bounds();
    let purged = bounds.purged.is_some_and(|purged| purged.index >= position.index);
    let appended = bounds.last.is_some_and(|last| last.index >= position.index);
    purged || (appended && bounds.synced_index >= position.index)
}

#[cfg(test)]
mod tests;

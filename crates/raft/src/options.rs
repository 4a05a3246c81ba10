//! Options of a group.

#[derive(Clone, Copy, Debug)]
pub struct GroupOptions {
    pub checkpoint_interval_ms: u64,
    /// Entries between two snapshots. Only for machines without an anchor.
    pub snapshot_entries: u64,
}

//! openraft's configuration.

use std::sync::Arc;

use openraft::{Config, ConfigError, SnapshotPolicy};

use crate::{host::Timing, id::GroupId};

/// Proposals in flight per group: one permit for each begun [`PERMIT_BYTES`] of payload, so at most 64 MiB.
pub(crate) const PROPOSAL_PERMITS: u32 = 1024;
pub(crate) const PERMIT_BYTES: usize = 64 << 10;

/// openraft's configuration of one group.
pub(crate) fn engine_config(group: GroupId, timing: Timing) -> Result<Arc<Config>, ConfigError> {
    let Timing { heartbeat_ms, election_min_ms, election_max_ms } = timing;
    // The longest silence that a follower hears must stay below its election timeout.
    let silence_ms = heartbeat_ms + heartbeat_ms / 4 + 1;
    let heartbeat_min_ms = election_min_ms.saturating_sub(silence_ms + 1).min(heartbeat_ms / 2);
    let config = Config {
        cluster_name: group.to_string(),
        heartbeat_interval: heartbeat_ms,
        // An append tells a follower as much as a heartbeat does.
        heartbeat_min_interval: Some(heartbeat_min_ms),
        election_timeout_min: election_min_ms,
        election_timeout_max: election_max_ms,
        // CheckQuorum: a leader that no quorum answers falls silent for a while, so that those who still hear it elect
        // another. Without that, a cut in one direction would leave the group without writes for ever.
        quorum_loss_probe_interval: Some(2 * election_max_ms),
        // Snapshots are taken when a durable checkpoint has a new base, and the log is purged exactly up to it.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        purge_batch_size: 1,
        api_channel_size: Some(u64::from(PROPOSAL_PERMITS) * 2),
        enable_pre_vote: Some(true),
        // Switched on when the group has had its first chance to elect itself.
        enable_elect: false,
        // A restarted leader must win an election: its in-memory state of the former term is gone.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().map(Arc::new)
}

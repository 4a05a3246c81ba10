//! Replicated groups, each over one log: the only crate that names openraft.
//!
//! A [`Group`] is opened on the [`Host`] of its node.
//!
//! The group's log *is* the data: payloads are written once, by `fanfare-log`, and a [`StateMachine`] keeps
//! positions and counters. A snapshot is *anchored*: it stands at the last trimmed entry, not at the applied
//! one, and carries the machine's state at a later index; a replica that installs it then streams every
//! retained entry.
//!
//! ```text
//!   log:      purged │ A ................. S ............ applied ......... last
//!                    │ └ anchor            └ state index  └ checkpoint ≤ synced
//!   snapshot: (A, membership at A, state at S);  entries in (A, S] change derived state only
//! ```
//!
//! Invariant: what is persisted as applied never exceeds what the local log has flushed.

mod error;
mod failure;
mod format_version;
mod group;
mod host;
mod id;
mod inbox;
mod lease;
mod machine;
mod members;
mod options;
mod peer;
mod proposal;
mod role;

mod apply;
mod checkpoint;
mod checkpoint_task;
mod codec;
mod engine;
mod entry;
mod log_storage;
mod network;
mod recovery;
mod repair;
mod replay;
mod replica;
mod rpc;
mod runtime;

pub mod memory;

pub use error::{MembershipError, OpenError, ProposeError};
pub use failure::{GroupFailure, MachineError, RecoveryError};
pub use format_version::FormatVersion;
pub use group::{Group, Member};
pub use host::{Host, HostOptions, Timing};
pub use id::{GroupId, ReplicaId};
pub use inbox::Inbox;
pub use lease::LeaderLease;
pub use machine::{Anchor, ApplyMode, Proposal, StateMachine};
pub use options::GroupOptions;
pub use peer::{Message, MessageKind, NoPeers, PeerConnection, PeerError, PeerTransport, TrafficClass};
pub use proposal::{Applied, PendingProposal};
pub use repair::{GroupDamage, Repair, RepairError};
pub use role::Role;
pub use runtime::seed_elections;

#[cfg(test)]
mod tests;

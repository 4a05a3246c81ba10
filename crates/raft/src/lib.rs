//! One replicated group over one log: the only crate that names openraft.
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

mod group;
mod machine;
mod peer;
mod role;

mod apply;
mod checkpoint;
mod checkpoint_task;
mod codec;
mod entry;
mod log_storage;
mod network;
mod recovery;
mod rpc;
mod salvage;

pub mod memory;

pub use group::{Applied, Group, GroupOptions, Member, MembershipError, OpenError, Pending, ProposeError};
pub use machine::{Anchor, Proposal, RestoreError, Scope, StateMachine};
pub use peer::{Inbox, Lane, Message, NoPeers, PeerError, PeerTransport};
pub use role::Role;
pub use salvage::{Losses, Salvage};

#[cfg(test)]
mod tests;

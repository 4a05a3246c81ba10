//! Vocabulary of redrives: work on the dead letters that a partition of `dead-letters` stores.
//!
//! The rules are in [`crate::state`].

use std::sync::Arc;

use fanfare_model::{AccountId, Offset, RedriveId, SubscriptionId, Timestamp};

/// The purpose of a redrive. Numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RedriveKind {
    /// The events go to the sink of their subscription again.
    Deliver = 1,
    /// The dead letters are removed, and their events are given up for good.
    Purge = 2,
}

/// The state of a redrive. Numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RedriveState {
    Running = 1,
    Done = 2,
    /// Dead letters that were withdrawn before stay so; all others are as before.
    Cancelled = 3,
}

/// Begins a redrive of the dead letters that a subscription has when the command is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartRedrive {
    pub id: RedriveId,
    pub account: AccountId,
    pub subscription: SubscriptionId,
    pub kind: RedriveKind,
    /// The encoded choice of dead letters, of 32 KiB at most. The partition keeps it and never reads it.
    pub filter: Arc<[u8]>,
}

/// A redrive as it is replicated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redrive {
    pub start: StartRedrive,
    pub state: RedriveState,
    pub created: Timestamp,
    /// Time of the last progress.
    pub updated: Timestamp,
    /// Below, every chosen dead letter is withdrawn or stays.
    pub position: Offset,
    /// Dead letters from here on came later.
    pub end: Offset,
    /// Dead letters that left the list.
    pub withdrawn: u64,
    /// Chosen dead letters below `position` that stay.
    pub stayed: u64,
    /// The last answer that made a dead letter stay; cut to 256 bytes.
    pub last_failure: String,
}

/// Moves a running redrive. It is done when `position` is its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedriveProgress {
    pub id: RedriveId,
    /// Never moves back.
    pub position: Offset,
    /// Dead letters that leave the list, ascending. One that has left before does not count again.
    pub withdrawn: Vec<Offset>,
    pub stayed: u64,
    /// None: as before.
    pub last_failure: Option<String>,
}

/// Dead letters of one subscription that left the list, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Withdrawals {
    pub redriven: u64,
    pub purged: u64,
}

impl RedriveKind {
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Deliver, Self::Purge].into_iter().find(|kind| *kind as u8 == number)
    }
}

impl RedriveState {
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Running, Self::Done, Self::Cancelled].into_iter().find(|state| *state as u8 == number)
    }
}

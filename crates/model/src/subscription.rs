//! Subscriptions: event types of one account, at a pinned schema version, for one sink.

use serde::{Deserialize, Serialize};

use crate::{AccountId, SinkId, SubscriptionId, Timestamp};

/// A choice of event types for one sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    pub id: SubscriptionId,
    pub account: AccountId,
    pub description: String,
    pub sink: SinkId,
    /// At least one; a type is named once.
    pub types: Vec<SubscribedType>,
    pub paused: bool,
    /// Where delivery begins in each partition it is attached to.
    pub start: StartAt,
    /// Raised by everything that makes old delivery state invalid: creation, seek, repoint.
    pub epoch: u64,
    pub created: Timestamp,
    pub updated: Timestamp,
    /// Rises with every change; the spec revision.
    pub revision: u64,
}

/// One event type of a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribedType {
    pub event_type: String,
    /// Deliver only data valid against this version; none delivers as published.
    pub schema_version: Option<u32>,
}

/// Where delivery begins, resolved by each partition when the attachment is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartAt {
    /// The next event to be committed.
    Next,
    /// The oldest event kept.
    Earliest,
    /// The first event appended at or after this time.
    Time(Timestamp),
}

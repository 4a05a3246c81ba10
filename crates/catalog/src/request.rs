//! Requests that their callers may repeat: a request id stands for the object that the first such request made or
//! changed.

use fanfare_model::{SinkId, SubscriptionId, Timestamp};
use serde::{Deserialize, Serialize};

/// Time for which a request id is kept.
pub(crate) const KEPT_MS: u64 = 24 * 60 * 60 * 1000;
/// RequestId ids that an account has at once; the oldest leaves for one more.
pub(crate) const PER_ACCOUNT_MAX: usize = 1000;
/// Longest request id.
pub(crate) const ID_BYTES_MAX: usize = 64;

/// A caller's name for a request, so that a repeat is known for one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestId {
    /// Chosen by the caller: 1 to 64 visible ASCII characters.
    pub id: String,
    /// Hash of the method and its arguments: equal in a repeat.
    #[serde(with = "crate::hex::array")]
    pub arguments: [u8; 32],
}

/// A request that was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    pub id: String,
    #[serde(with = "crate::hex::array")]
    pub arguments: [u8; 32],
    pub time: Timestamp,
    /// Place of its command in the catalog's log.
    pub index: u64,
    pub object: RequestedObject,
}

impl RequestRecord {
    /// True at `now` if a repeat is still known for one.
    #[must_use]
    pub fn is_kept(&self, now: Timestamp) -> bool {
        now.0 < self.time.0.saturating_add(KEPT_MS)
    }
}

/// The object that a request made or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestedObject {
    EventType(String),
    Schema(String),
    SchemaVersion { schema: String, number: u32 },
    Sink(SinkId),
    Subscription(SubscriptionId),
}

//! Requests to create and change sinks and subscriptions.

use fanfare_model::{SinkConfig, SinkId, SubscribedType};
use serde::{Deserialize, Serialize};

/// Replaces a sink's description and configuration. Its kind stays.
#[derive(Clone, Debug)]
pub struct SinkChange {
    pub description: String,
    /// An empty `signing_secret` and an absent or empty `twilio_auth_token` keep the stored ones.
    pub config: SinkConfig,
    /// The revision that the caller read; none overwrites any revision.
    pub expected_revision: Option<u64>,
}

/// A choice of event types for one sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSubscription {
    pub description: String,
    pub sink: SinkId,
    pub types: Vec<SubscribedType>,
}

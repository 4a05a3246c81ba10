//! Requests to create and change sinks and subscriptions.

use fanfare_model::{SinkConfig, SinkId, SubscribedType};
use serde::{Deserialize, Serialize};

/// Replaces a sink's description and configuration. Its kind stays.
#[derive(Clone, Debug)]
pub struct SinkChange {
    pub description: String,
    /// The whole of it, with the secrets.
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

//! Requests to create and change sinks and subscriptions.

use fanfare_model::{DeliverySettings, SinkConfig, SinkId, SubscribedType};
use serde::{Deserialize, Serialize};

/// A destination, and the way to deliver to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSink {
    pub description: String,
    pub config: SinkConfig,
    #[serde(default)]
    pub delivery: DeliverySettings,
}

/// Replaces a sink's description, configuration and delivery settings. Its kind stays.
#[derive(Clone, Debug)]
pub struct SinkChange {
    /// The whole of it, with the secrets.
    pub sink: NewSink,
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

//! Sinks: a destination and the way to deliver to it. Desired state; the crate `sinks` acts on it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{AccountId, SinkId, Timestamp};

/// A destination of one account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sink {
    pub id: SinkId,
    pub account: AccountId,
    pub description: String,
    pub config: SinkConfig,
    #[serde(default)]
    pub delivery: DeliverySettings,
    pub created: Timestamp,
    pub updated: Timestamp,
    /// Catalog's revision at the last change.
    pub revision: u64,
}

/// Pace and retries of the requests to a sink; the node's configuration decides what is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeliverySettings {
    /// Most requests at once on a node, whose own limit holds, too.
    pub concurrency_max: Option<u32>,
    /// Most requests per second on a node; none is no limit.
    pub requests_per_second_max: Option<u32>,
    /// Upper bound of the delay before the first retry of an event.
    pub retry_initial_ms: Option<u64>,
    /// Upper bound of the delay between two tries of an event.
    pub retry_max_ms: Option<u64>,
    /// Tries of an event that fails alone before it becomes a dead letter.
    pub attempts_max: Option<u32>,
}

/// The kind of a sink and its configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkConfig {
    Webhook(WebhookConfig),
    Kinesis(KinesisConfig),
}

impl SinkConfig {
    /// The kind's name in metrics, logs and the API.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Kinesis(_) => "kinesis",
        }
    }
}

/// HTTP method of a webhook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WebhookMethod {
    #[default]
    Post,
    Put,
}

/// CloudEvents as JSON over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookConfig {
    /// As its owner wrote it, byte for byte.
    pub destination: String,
    pub method: WebhookMethod,
    /// An array of events per request instead of one object.
    pub batch_events: bool,
    /// Most events per request when `batch_events`.
    pub batch_events_max: u32,
    /// Time for a whole request.
    pub timeout_ms: u32,
    /// Standard Webhooks secret: `whsec_` and base64.
    pub signing_secret: Secret,
    /// Secret before the last rotation, for as long as it is valid.
    #[serde(default)]
    pub previous_secret: Option<PreviousSecret>,
    /// Key of Twilio's signature; none leaves that header out.
    pub twilio_auth_token: Option<Secret>,
}

/// A signing secret that was replaced: requests are signed with it too, so that receivers can change over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousSecret {
    pub secret: Secret,
    /// First time at which requests are no longer signed with it.
    pub expires: Timestamp,
}

/// CloudEvents as JSON records of an Amazon Kinesis data stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KinesisConfig {
    /// `arn:aws:kinesis:REGION:ACCOUNT:stream/NAME`
    pub arn: String,
    pub role_arn: Option<String>,
    pub external_id: Option<String>,
    pub endpoint_override: Option<String>,
    /// Time for a whole request.
    #[serde(default = "KinesisConfig::timeout_default_ms")]
    pub timeout_ms: u32,
}

impl KinesisConfig {
    fn timeout_default_ms() -> u32 {
        15_000
    }
}

/// Text that must not be printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for signing or for showing once to its owner.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

//! Makes sinks of configurations, and checks configurations by the same rules.

use std::sync::{Arc, OnceLock};

use fanfare_model::{Secret, SinkConfig};
use http::Uri;

use crate::{
    Sink,
    egress::{Connector, EgressPolicy},
    kinesis::Kinesis,
    memory,
    webhook::{self, Webhook},
};

/// Makes sinks and checks configurations. Cheap to clone.
#[derive(Clone)]
pub struct Factory {
    policy: Arc<EgressPolicy>,
    destinations: Destinations,
}

#[derive(Clone)]
enum Destinations {
    /// The network. The certificate authorities are read when the first sink needs them.
    Network(Arc<OnceLock<Connector>>),
    Memory(memory::Network),
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {problem}")]
pub struct ConfigError {
    /// Within the sink, such as `webhook.destination` or `kinesis.arn`.
    pub field: &'static str,
    /// A phrase that continues the field's name and ends with what to do.
    pub problem: String,
}

impl Factory {
    #[must_use]
    pub fn new(policy: EgressPolicy) -> Self {
        Self { policy: Arc::new(policy), destinations: Destinations::Network(Arc::default()) }
    }

    /// A factory whose sinks record instead of sending; see [`memory`]. Configurations are checked as by [`Self::new`].
    #[must_use]
    pub fn in_memory(policy: EgressPolicy, network: memory::Network) -> Self {
        Self { policy: Arc::new(policy), destinations: Destinations::Memory(network) }
    }

    /// What can be told without connecting.
    ///
    /// # Errors
    /// Names the field that is wrong and what to do.
    pub fn check(&self, config: &SinkConfig) -> Result<(), ConfigError> {
        match config {
            SinkConfig::Webhook(config) => Webhook::check(config, &self.policy),
            SinkConfig::Kinesis(config) => Kinesis::check(config, &self.policy),
        }
    }

    /// The sink that `config` describes; it connects with its first attempt.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn build(&self, config: &SinkConfig) -> Result<Arc<dyn Sink>, ConfigError> {
        let connector = match &self.destinations {
            Destinations::Network(connector) => connector,
            Destinations::Memory(network) => {
                self.check(config)?;
                return Ok(network.sink(memory::destination(config)));
            }
        };
        match config {
            SinkConfig::Webhook(config) => {
                let connect = |origin: &Uri| match origin.scheme_str() {
                    Some("http") => Connector::without_roots(self.policy.clone()),
                    _ => connector.get_or_init(|| Connector::with_system_roots(self.policy.clone())).clone(),
                };
                Ok(Arc::new(Webhook::new(config, &self.policy, connect)?))
            }
            SinkConfig::Kinesis(config) => Ok(Arc::new(Kinesis::new(config, &self.policy)?)),
        }
    }

    /// A fresh Standard Webhooks secret: `whsec_` and base64 of 24 random bytes.
    #[must_use]
    pub fn signing_secret() -> Secret {
        Secret::new(webhook::random_secret(&mut rand::rng()))
    }
}

//! Makes sinks of configurations, and checks configurations by the same rules.

use std::sync::{Arc, OnceLock};

use fanfare_environment::Environment;
use fanfare_model::{Secret, SinkConfig};
use http::Uri;

use crate::{
    ConfigError, Sink,
    egress::{Connector, EgressPolicy, NetworkStack},
    kinesis::Kinesis,
    memory,
    webhook::{self, Webhook},
};

/// Makes sinks and checks configurations. Cheap to clone.
#[derive(Clone)]
pub struct Factory {
    policy: Arc<EgressPolicy>,
    destinations: Destinations,
    environment: Environment,
}

#[derive(Clone)]
enum Destinations {
    /// The network. The certificate authorities are read when the first sink needs them.
    Network(Arc<OnceLock<Connector>>),
    /// A simulated network, without encryption.
    Simulated(Connector),
    Memory(memory::Network),
}

impl Factory {
    /// A factory of sinks that connect to the network. `environment` gives signatures their time and secrets their
    /// randomness.
    #[must_use]
    pub fn new(policy: EgressPolicy, environment: Environment) -> Self {
        Self::with_destinations(policy, environment, Destinations::Network(Arc::default()))
    }

    /// A factory of webhooks that connect over `network` with plain `http`, for a simulation.
    #[must_use]
    pub fn over(network: Arc<dyn NetworkStack>, policy: EgressPolicy, environment: Environment) -> Self {
        let connector = Connector::over(network, Arc::new(policy.clone()));
        Self::with_destinations(policy, environment, Destinations::Simulated(connector))
    }

    /// A factory whose sinks record instead of sending; see [`memory`]. Configurations are checked as by [`Self::new`].
    #[must_use]
    pub fn in_memory(policy: EgressPolicy, environment: Environment, network: memory::Network) -> Self {
        Self::with_destinations(policy, environment, Destinations::Memory(network))
    }

    fn with_destinations(policy: EgressPolicy, environment: Environment, destinations: Destinations) -> Self {
        Self { policy: Arc::new(policy), destinations, environment }
    }

    /// Checks everything about `config` that needs no connection.
    ///
    /// # Errors
    /// Names the field that is wrong and what to do.
    pub fn check(&self, config: &SinkConfig) -> Result<(), ConfigError> {
        match config {
            SinkConfig::Webhook(config) => Webhook::check(config, &self.policy),
            SinkConfig::Kinesis(config) => Kinesis::check(config, &self.policy),
        }
    }

    /// The sink that `config` describes. It connects with its first attempt.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn build(&self, config: &SinkConfig) -> Result<Arc<dyn Sink>, ConfigError> {
        if let Destinations::Memory(network) = &self.destinations {
            self.check(config)?;
            return Ok(network.sink(memory::destination(config)));
        }
        match config {
            SinkConfig::Webhook(config) => {
                let connect = |origin: &Uri| match (&self.destinations, origin.scheme_str()) {
                    (Destinations::Simulated(connector), _) => connector.clone(),
                    (Destinations::Network(system_roots), Some("https")) => {
                        system_roots.get_or_init(|| Connector::with_system_roots(self.policy.clone())).clone()
                    }
                    (Destinations::Network(_) | Destinations::Memory(_), _) => {
                        Connector::without_roots(self.policy.clone())
                    }
                };
                let clock = self.environment.clock().clone();
                Ok(Arc::new(Webhook::new(config, &self.policy, clock, connect)?))
            }
            SinkConfig::Kinesis(config) => Ok(Arc::new(Kinesis::new(config, &self.policy)?)),
        }
    }

    /// A fresh Standard Webhooks secret: `whsec_` and base64 of 24 random bytes.
    #[must_use]
    pub fn signing_secret(&self) -> Secret {
        Secret::new(webhook::random_secret(self.environment.random().as_ref()))
    }
}

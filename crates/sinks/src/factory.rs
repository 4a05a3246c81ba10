//! Makes sinks of configurations, and checks configurations by the same rules.

use std::sync::{Arc, OnceLock};

use fanfare_environment::Environment;
use fanfare_model::{AccountId, Secret, SinkConfig};
use http::Uri;

use crate::{
    ConfigError, Sink,
    egress::{ConnectionLimits, Connector, EgressBudget, EgressPolicy, NetworkStack, SystemRoots},
    kinesis::Kinesis,
    memory,
    webhook::{self, Webhook},
};

/// Makes sinks and checks configurations. Cheap to clone.
#[derive(Clone)]
pub struct Factory {
    policy: Arc<EgressPolicy>,
    budget: EgressBudget,
    destinations: Destinations,
    environment: Environment,
}

#[derive(Clone)]
enum Destinations {
    /// The network. The certificate authorities are read when the first sink needs them.
    Network(Arc<OnceLock<SystemRoots>>),
    /// A simulated network, without encryption.
    Simulated(Arc<dyn NetworkStack>),
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
        Self::with_destinations(policy, environment, Destinations::Simulated(network))
    }

    /// A factory whose sinks record instead of sending; see [`memory`]. Configurations are checked as by [`Self::new`].
    #[must_use]
    pub fn in_memory(policy: EgressPolicy, environment: Environment, network: memory::Network) -> Self {
        Self::with_destinations(policy, environment, Destinations::Memory(network))
    }

    fn with_destinations(policy: EgressPolicy, environment: Environment, destinations: Destinations) -> Self {
        let budget = EgressBudget::new(ConnectionLimits::default(), environment.clone());
        Self { policy: Arc::new(policy), budget, destinations, environment }
    }

    /// The same factory with other limits of open connections, for the sinks that it makes from now on.
    #[must_use]
    pub fn with_connection_limits(self, limits: ConnectionLimits) -> Self {
        let budget = EgressBudget::new(limits, self.environment.clone());
        Self { budget, ..self }
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

    /// The sink of `account` that `config` describes. It connects with its first attempt.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn build(&self, account: AccountId, config: &SinkConfig) -> Result<Arc<dyn Sink>, ConfigError> {
        if let Destinations::Memory(network) = &self.destinations {
            self.check(config)?;
            return Ok(network.sink(memory::destination(config)));
        }
        let budget = self.budget.of(account);
        match config {
            SinkConfig::Webhook(config) => {
                let connect = |origin: &Uri| match (&self.destinations, origin.scheme_str()) {
                    (Destinations::Simulated(network), _) => {
                        Connector::over(network.clone(), self.policy.clone(), budget.clone())
                    }
                    (Destinations::Network(system_roots), Some("https")) => {
                        let roots = system_roots.get_or_init(SystemRoots::load);
                        Connector::with_system_roots(self.policy.clone(), budget.clone(), roots)
                    }
                    (Destinations::Network(_) | Destinations::Memory(_), _) => {
                        Connector::without_roots(self.policy.clone(), budget.clone())
                    }
                };
                let clock = self.environment.clock().clone();
                Ok(Arc::new(Webhook::new(config, &self.policy, clock, connect)?))
            }
            SinkConfig::Kinesis(config) => Ok(Arc::new(Kinesis::new(config, &self.policy, budget)?)),
        }
    }

    /// A fresh Standard Webhooks secret: `whsec_` and base64 of 24 random bytes.
    #[must_use]
    pub fn signing_secret(&self) -> Secret {
        Secret::new(webhook::random_secret(self.environment.random().as_ref()))
    }
}

//! The location of a stream and the credentials that write to it.
//!
//! The node's own credentials (environment, profile, container or instance) assume the sink's role. Without a role
//! the node's credentials are used directly, if the operator allows that. The egress policy covers a tenant's
//! `endpoint_override` only: the hosts of credentials and of the service belong to the operator and to Amazon.

use std::{sync::Arc, time::Duration};

use aws_config::{BehaviorVersion, Region, SdkConfig, sts::AssumeRoleProvider, timeout::TimeoutConfig};
use aws_sdk_kinesis::{
    Client,
    config::{SharedHttpClient, StalledStreamProtectionConfig, retry::RetryConfig},
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use fanfare_model::KinesisConfig;

use super::arn::{StreamArn, role_partition};
use crate::{
    ConfigError, EgressPolicy,
    egress::{AccountBudget, SystemNetwork, parse_url, resolve},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Above the longest timeout of a sink, which alone decides about its requests. Ends those for credentials.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(31);
const SESSION_NAME: &str = "fanfare";

/// A checked configuration.
#[derive(Clone)]
pub(super) struct StreamAccess {
    arn: String,
    region: String,
    role: Option<Role>,
    endpoint: Option<Endpoint>,
    node_credentials: NodeCredentials,
}

#[derive(Clone)]
struct Role {
    arn: String,
    external_id: Option<String>,
}

/// An endpoint chosen by the tenant, and the policy of addresses for it.
#[derive(Clone)]
struct Endpoint {
    url: String,
    policy: Arc<EgressPolicy>,
}

/// Source of the node's own credentials.
#[derive(Clone)]
enum NodeCredentials {
    Environment,
    #[cfg(test)]
    Fixed {
        sts_url: String,
    },
}

impl StreamAccess {
    pub(super) fn new(config: &KinesisConfig, policy: &EgressPolicy) -> Result<Self, ConfigError> {
        let stream = StreamArn::parse(&config.arn).ok_or_else(|| ConfigError {
            field: "kinesis.arn",
            problem:
                "is not the ARN of a data stream; write it as arn:aws:kinesis:REGION:ACCOUNT:stream/NAME"
                    .to_owned(),
        })?;
        Ok(Self {
            role: role(config, &stream, policy)?,
            endpoint: endpoint(config, policy)?,
            region: stream.region.to_owned(),
            arn: config.arn.clone(),
            node_credentials: NodeCredentials::Environment,
        })
    }

    #[cfg(test)]
    pub(super) fn with_fixed_credentials(self, sts_url: String) -> Self {
        Self { node_credentials: NodeCredentials::Fixed { sts_url }, ..self }
    }

    pub(super) fn arn(&self) -> &str {
        &self.arn
    }

    /// A client with credentials; it connects with its first request.
    pub(super) async fn connect(&self, budget: &AccountBudget) -> Client {
        let base = self.base_config(budget).await;
        let mut config = aws_sdk_kinesis::config::Builder::from(&base);
        if let Some(role) = &self.role {
            let assumed = AssumeRoleProvider::builder(&role.arn).session_name(SESSION_NAME).configure(&base);
            let assumed = match &role.external_id {
                Some(external_id) => assumed.external_id(external_id),
                None => assumed,
            };
            config = config.credentials_provider(assumed.build().await);
        }
        if let Some(endpoint) = &self.endpoint {
            config = config
                .endpoint_url(&endpoint.url)
                .http_client(restricted_http(endpoint.policy.clone(), budget.clone()));
        }
        Client::from_conf(config.build())
    }

    async fn base_config(&self, budget: &AccountBudget) -> SdkConfig {
        let timeouts =
            TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_timeout(OPERATION_TIMEOUT);
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(self.region.clone()))
            .http_client(unrestricted_http(budget.clone()))
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts.build())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        match &self.node_credentials {
            NodeCredentials::Environment => loader.load().await,
            #[cfg(test)]
            NodeCredentials::Fixed { sts_url } => {
                let credentials =
                    aws_sdk_kinesis::config::Credentials::new("AKID", "secret", None, None, "fixed");
                loader.credentials_provider(credentials).endpoint_url(sts_url).load().await
            }
        }
    }
}

fn unrestricted_http(budget: AccountBudget) -> SharedHttpClient {
    Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_with_resolver(UnrestrictedResolver { budget })
}

fn restricted_http(policy: Arc<EgressPolicy>, budget: AccountBudget) -> SharedHttpClient {
    Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_with_resolver(RestrictedResolver { policy, budget })
}

fn role(
    config: &KinesisConfig,
    stream: &StreamArn<'_>,
    policy: &EgressPolicy,
) -> Result<Option<Role>, ConfigError> {
    let Some(arn) = &config.role_arn else { return no_role(config, policy) };
    if role_partition(arn) != Some(stream.partition) {
        return Err(ConfigError {
            field: "kinesis.role_arn",
            problem: format!(
                "is not the ARN of a role beside the stream; write it as arn:{}:iam::ACCOUNT:role/NAME",
                stream.partition
            ),
        });
    }
    if config.external_id.as_ref().is_some_and(|id| !is_external_id(id)) {
        return Err(ConfigError {
            field: "kinesis.external_id",
            problem: "is not 2 to 1224 letters, digits or one of + = , . @ : / - _".to_owned(),
        });
    }
    Ok(Some(Role { arn: arn.clone(), external_id: config.external_id.clone() }))
}

/// Refuses a missing role unless the operator allows the node's own credentials: the tenant may have no right to the
/// stream.
fn no_role(config: &KinesisConfig, policy: &EgressPolicy) -> Result<Option<Role>, ConfigError> {
    if config.external_id.is_some() {
        return Err(ConfigError {
            field: "kinesis.external_id",
            problem: "is only used to assume a role; set role_arn too or leave it out".to_owned(),
        });
    }
    if !policy.allow_node_credentials {
        return Err(ConfigError {
            field: "kinesis.role_arn",
            problem: "is required: name a role of the stream's owner that trusts this node, best with an \
                      external_id, or let the operator set sinks.kinesis.allow_node_credentials"
                .to_owned(),
        });
    }
    Ok(None)
}

fn is_external_id(id: &str) -> bool {
    (2..=1224).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@:/-_".contains(&byte))
}

fn endpoint(config: &KinesisConfig, policy: &EgressPolicy) -> Result<Option<Endpoint>, ConfigError> {
    let Some(text) = &config.endpoint_override else { return Ok(None) };
    let wrong = |problem| ConfigError { field: "kinesis.endpoint_override", problem };
    let url = parse_url(text, policy).map_err(|error| wrong(error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.path() != "/" {
        return Err(wrong("has more than scheme, host and port; write it as https://host:port".to_owned()));
    }
    let url = url.as_str().trim_end_matches('/').to_owned();
    Ok(Some(Endpoint { url, policy: Arc::new(policy.clone()) }))
}

/// Resolves the names of the service, with the account's look-ups.
#[derive(Clone, Debug)]
struct UnrestrictedResolver {
    budget: AccountBudget,
}

impl ResolveDns for UnrestrictedResolver {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            let addresses = self.budget.look_up(name, 0).await.map_err(ResolveDnsError::new)?;
            Ok(addresses.into_iter().map(|address| address.ip()).collect())
        })
    }
}

/// Resolves names to allowed addresses only. Literal addresses never get here: the URL's check covers them.
#[derive(Clone, Debug)]
struct RestrictedResolver {
    policy: Arc<EgressPolicy>,
    budget: AccountBudget,
}

impl ResolveDns for RestrictedResolver {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            let network = SystemNetwork(self.budget.clone());
            let addresses = resolve(&network, &self.policy, name, 0).await.map_err(ResolveDnsError::new)?;
            Ok(addresses.into_iter().map(|address| address.ip()).collect())
        })
    }
}

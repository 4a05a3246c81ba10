//! Connects to allowed addresses: resolve, refuse if any address is forbidden, dial exactly the checked ones.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::select_ok;
use http::Uri;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier, crypto::ring};
use tokio::time::{sleep, timeout};
use tower::Service;

use super::{
    AccountBudget, EgressPolicy,
    network_stack::{NetworkStack, Socket, SystemNetwork},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Only the first addresses of a name are dialled; all are checked.
const ADDRESSES_DIALLED_MAX: usize = 8;
/// Head start of each address over the next one (RFC 8305, 5).
const HEAD_START: Duration = Duration::from_millis(100);

/// A connection to a destination, encrypted if the scheme is `https`.
pub(crate) type Stream = MaybeHttpsStream<TokioIo<Socket>>;

/// The reason that there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("the destination's address is not allowed")]
    Forbidden,
    #[error("resolve the destination's name")]
    Resolve(#[source] io::Error),
    #[error("connect")]
    Connect(#[source] io::Error),
    #[error("TLS handshake")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no connection within {} ms", .0.as_millis())]
    Timeout(Duration),
}

/// The certificate authorities that the operating system trusts, or those in `SSL_CERT_FILE`. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SystemRoots(ClientConfig);

impl SystemRoots {
    pub(crate) fn load() -> Self {
        let roots = tls().with_native_roots().unwrap_or_else(|error| {
            tracing::warn!(%error, "failed to load certificate authorities; https sinks fail until SSL_CERT_FILE is set and the node restarted");
            tls().with_root_certificates(RootCertStore::empty())
        });
        Self(roots.with_no_client_auth())
    }
}

/// Connects by URI, with TLS for `https`. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connector {
    https: HttpsConnector<Dialer>,
    budget: AccountBudget,
}

impl Connector {
    /// Trusts those that `roots` does.
    pub(crate) fn with_system_roots(
        policy: Arc<EgressPolicy>,
        budget: AccountBudget,
        roots: &SystemRoots,
    ) -> Self {
        let network = Arc::new(SystemNetwork(budget.clone()));
        Self::with_config(Dialer { network, policy }, budget, roots.0.clone())
    }

    /// Trusts no certificate authority: for plain `http`.
    pub(crate) fn without_roots(policy: Arc<EgressPolicy>, budget: AccountBudget) -> Self {
        Self::over(Arc::new(SystemNetwork(budget.clone())), policy, budget)
    }

    /// Connects over `network`, for plain `http`.
    pub(crate) fn over(
        network: Arc<dyn NetworkStack>,
        policy: Arc<EgressPolicy>,
        budget: AccountBudget,
    ) -> Self {
        let roots = tls().with_root_certificates(RootCertStore::empty());
        Self::with_config(Dialer { network, policy }, budget, roots.with_no_client_auth())
    }

    #[cfg(test)]
    pub(crate) fn with_roots(policy: Arc<EgressPolicy>, budget: AccountBudget, roots: RootCertStore) -> Self {
        let config = tls().with_root_certificates(roots).with_no_client_auth();
        Self::with_system_roots(policy, budget, &SystemRoots(config))
    }

    fn with_config(dialer: Dialer, budget: AccountBudget, config: ClientConfig) -> Self {
        let https = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1();
        Self { https: https.wrap_connector(dialer), budget }
    }

    /// The part of the node's connections that the sink's account has; each connection needs a permit of it.
    pub(crate) fn budget(&self) -> &AccountBudget {
        &self.budget
    }

    /// Connects to the host of `origin` within `limit`, at most 5 s.
    pub(crate) async fn connect(&self, origin: Uri, limit: Duration) -> Result<Stream, DialError> {
        let limit = limit.min(CONNECT_TIMEOUT);
        match timeout(limit, self.https.clone().call(origin)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(error.downcast().map_or_else(DialError::Tls, |dial| *dial)),
            Err(_) => Err(DialError::Timeout(limit)),
        }
    }
}

fn tls() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3")
}

/// The addresses of `host`, a name or an address: at least one, all of them allowed.
pub(crate) async fn resolve(
    network: &dyn NetworkStack,
    policy: &EgressPolicy,
    host: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, DialError> {
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let addresses = match literal.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => network.resolve(host, port).await.map_err(DialError::Resolve)?,
    };
    if addresses.is_empty() {
        return Err(DialError::Resolve(io::ErrorKind::NotFound.into()));
    }
    if !addresses.iter().all(|address| policy.allows(address.ip())) {
        return Err(DialError::Forbidden);
    }
    Ok(addresses)
}

/// Opens TCP connections to allowed addresses.
#[derive(Clone)]
pub(crate) struct Dialer {
    network: Arc<dyn NetworkStack>,
    policy: Arc<EgressPolicy>,
}

impl Dialer {
    async fn dial(&self, uri: Uri) -> Result<Socket, DialError> {
        let host = uri.host().ok_or_else(|| DialError::Resolve(io::ErrorKind::InvalidInput.into()))?;
        let default_port = if uri.scheme_str() == Some("http") { 80 } else { 443 };
        let port = uri.port_u16().unwrap_or(default_port);
        let addresses = resolve(&*self.network, &self.policy, host, port).await?;
        let attempts = (0..).zip(addresses).map(|(index, address)| {
            Box::pin(async move {
                if index > 0 {
                    sleep(HEAD_START * index).await;
                }
                self.network.connect(address).await
            })
        });
        let (socket, _) =
            select_ok(attempts.take(ADDRESSES_DIALLED_MAX)).await.map_err(DialError::Connect)?;
        Ok(socket)
    }
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<Socket>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move { dialer.dial(uri).await.map(TokioIo::new) })
    }
}

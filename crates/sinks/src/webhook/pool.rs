//! The connections of one webhook, kept alive between requests.
//!
//! Connections are never shared between sinks, hence not between tenants. The policy of addresses is applied to each
//! new connection.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::task::TaskTracker;

use crate::{
    Failure,
    egress::{ConnectionPermit, Connector, DialError},
};

/// Shorter than the 5 s after which many servers close, so that a request rarely meets a closing connection.
const IDLE_MAX: Duration = Duration::from_secs(4);
const CONNECTIONS_IDLE_MAX: usize = 256;
/// Read buffer of a connection, and so the limit of an answer's head.
const BUFFER_BYTES_MAX: usize = 16 * 1024;

pub(super) type Connection = SendRequest<Full<Bytes>>;

pub(super) struct Pool {
    connector: Connector,
    origin: Uri,
    idle: Arc<Mutex<Idle>>,
    idle_max: Duration,
    tasks: TaskTracker,
}

/// Connections without a request, the longest idle first.
#[derive(Default)]
struct Idle {
    connections: VecDeque<IdleConnection>,
    /// A task runs that closes connections at the end of their idle time.
    has_closer: bool,
}

struct IdleConnection {
    idle_since: Instant,
    connection: Connection,
}

/// The reason that a request got no answer.
pub(super) enum RequestError {
    Dial(DialError),
    /// The account had no room for another connection for too long.
    NoPermit(Failure),
    /// Connected, but no head of an answer in time.
    Timeout,
    /// The connection ended, or the peer did not speak HTTP.
    Lost(hyper::Error),
}

impl RequestError {
    /// The connection ended; the peer sent nothing that is not HTTP.
    fn is_lost_connection(&self) -> bool {
        matches!(self, Self::Lost(error) if !error.is_parse() && !error.is_parse_too_large())
    }
}

impl From<DialError> for RequestError {
    fn from(error: DialError) -> Self {
        Self::Dial(error)
    }
}

impl Pool {
    pub(super) fn new(connector: Connector, origin: Uri) -> Self {
        Self { connector, origin, idle: Arc::default(), idle_max: IDLE_MAX, tasks: TaskTracker::new() }
    }

    #[cfg(test)]
    pub(super) fn set_idle_max(&mut self, idle_max: Duration) {
        self.idle_max = idle_max;
    }

    /// Waits until the account may have another connection; none if an idle one is there instead.
    pub(super) async fn permit(&self) -> Result<Option<ConnectionPermit>, RequestError> {
        if self.has_idle() {
            return Ok(None);
        }
        self.connector.budget().connection().await.map(Some).map_err(RequestError::NoPermit)
    }

    /// Sends `request` and waits for the head of the answer until `deadline`. The connection can be
    /// [put back](Self::put_back) when the answer's body was read to its end.
    ///
    /// A request that an idle connection returns unsent, because the peer has just closed it, goes out on another one. So
    /// does, once and on a new connection, one that an idle connection lost without an answer: most likely the peer closed
    /// it while the request was on its way, which says nothing of sink or event. The peer may get that request twice.
    pub(super) async fn send(
        &self,
        request: impl Fn() -> Request<Full<Bytes>>,
        permit: Option<ConnectionPermit>,
        deadline: Instant,
    ) -> Result<(Response<Incoming>, Connection), RequestError> {
        let mut waiting = request();
        while let Some(mut connection) = self.take() {
            match exchange(&mut connection, waiting, deadline).await {
                Ok(response) => return Ok((response, connection)),
                Err(ExchangeError { unsent: Some(unsent), .. }) => waiting = unsent,
                Err(ExchangeError { error, unsent: None }) if error.is_lost_connection() => {
                    waiting = request();
                    break;
                }
                Err(ExchangeError { error, unsent: None }) => return Err(error),
            }
        }
        let permit = match permit {
            Some(permit) => permit,
            // The idle connection went to another request meanwhile.
            None => match timeout_at(deadline, self.connector.budget().connection()).await {
                Ok(permit) => permit.map_err(RequestError::NoPermit)?,
                Err(_) => return Err(RequestError::Timeout),
            },
        };
        let mut connection = self.connect(permit, deadline).await?;
        match exchange(&mut connection, waiting, deadline).await {
            Ok(response) => Ok((response, connection)),
            Err(ExchangeError { error, .. }) => Err(error),
        }
    }

    /// Keeps a connection whose last answer was read to its end.
    pub(super) fn put_back(&self, connection: Connection) {
        // A request of the account that waits can use the permit at once, and the connection only if it is of this sink.
        if connection.is_closed() || self.connector.budget().is_awaited() {
            return;
        }
        let mut idle = self.idle.lock();
        if idle.connections.len() >= CONNECTIONS_IDLE_MAX {
            idle.connections.pop_front();
        }
        idle.connections.push_back(IdleConnection { idle_since: Instant::now(), connection });
        if !idle.has_closer {
            idle.has_closer = true;
            self.tasks.spawn(close_idle_connections(Arc::downgrade(&self.idle), self.idle_max));
        }
    }

    fn take(&self) -> Option<Connection> {
        self.idle.lock().take()
    }

    fn has_idle(&self) -> bool {
        self.idle.lock().connections.iter().any(|idle| idle.connection.is_ready())
    }

    async fn connect(&self, permit: ConnectionPermit, deadline: Instant) -> Result<Connection, RequestError> {
        let limit = deadline.saturating_duration_since(Instant::now());
        let stream = self.connector.connect(self.origin.clone(), limit).await?;
        let (connection, driver) = http1::Builder::new()
            .max_buf_size(BUFFER_BYTES_MAX)
            .handshake(stream)
            .await
            .map_err(RequestError::Lost)?;
        self.tasks.spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "webhook connection ended with an error; the next request opens another one");
            }
            // The driver has closed the socket.
            drop(permit);
        });
        Ok(connection)
    }
}

impl Idle {
    /// The most recently used connection that can take a request at once.
    fn take(&mut self) -> Option<Connection> {
        self.connections.retain(|idle| !idle.connection.is_closed());
        let index = self.connections.iter().rposition(|idle| idle.connection.is_ready())?;
        self.connections.remove(index).map(|idle| idle.connection)
    }
}

/// A request without an answer on one connection.
struct ExchangeError {
    error: RequestError,
    /// The request, if no byte of it was sent.
    unsent: Option<Request<Full<Bytes>>>,
}

async fn exchange(
    connection: &mut Connection,
    request: Request<Full<Bytes>>,
    deadline: Instant,
) -> Result<Response<Incoming>, ExchangeError> {
    match timeout_at(deadline, connection.try_send_request(request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(mut error)) => {
            let unsent = error.take_message();
            Err(ExchangeError { error: RequestError::Lost(error.into_error()), unsent })
        }
        Err(_) => Err(ExchangeError { error: RequestError::Timeout, unsent: None }),
    }
}

/// Closes connections at the end of their idle time. Ends when no connection is left; [`Pool::put_back`] starts the
/// next one.
async fn close_idle_connections(idle: Weak<Mutex<Idle>>, idle_max: Duration) {
    while let Some(idle) = idle.upgrade() {
        let next = {
            let mut idle = idle.lock();
            let now = Instant::now();
            while idle.connections.front().is_some_and(|front| front.idle_since + idle_max <= now) {
                idle.connections.pop_front();
            }
            match idle.connections.front() {
                Some(front) => front.idle_since + idle_max,
                None => {
                    idle.has_closer = false;
                    return;
                }
            }
        };
        drop(idle);
        sleep_until(next).await;
    }
}

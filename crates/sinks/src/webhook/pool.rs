//! The connections of one webhook, kept alive between requests. Never shared between sinks, hence not between
//! tenants; each new connection is vetted anew.

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

use super::answer::{Answered, Unanswered};
use crate::egress::Connector;

/// Shorter than the 5 s after which many servers close, so that we rarely send into a closing connection.
const IDLE_MAX: Duration = Duration::from_secs(4);
const CONNECTIONS_IDLE_MAX: usize = 256;
/// Also the limit of an answer's head.
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
    connections: VecDeque<(Instant, Connection)>,
    watched: bool,
}

impl Pool {
    pub(super) fn new(connector: Connector, origin: Uri) -> Self {
        Self { connector, origin, idle: Arc::default(), idle_max: IDLE_MAX, tasks: TaskTracker::new() }
    }

    #[cfg(test)]
    pub(super) fn set_idle_max(&mut self, idle_max: Duration) {
        self.idle_max = idle_max;
    }

    /// Sends `request` once and waits for the head of the answer until `deadline`.
    ///
    /// A request that a kept connection gave back untouched, because it had just closed, goes out on another one.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        deadline: Instant,
    ) -> Result<Answered<'_>, Unanswered> {
        while let Some(mut connection) = self.take() {
            match exchange(&mut connection, request, deadline).await {
                Ok(response) => return Ok(Answered { response, connection, pool: self }),
                Err((_, Some(unsent))) => request = unsent,
                Err((why, None)) => return Err(why),
            }
        }
        let mut connection = self.connect(deadline).await?;
        match exchange(&mut connection, request, deadline).await {
            Ok(response) => Ok(Answered { response, connection, pool: self }),
            Err((why, _)) => Err(why),
        }
    }

    /// Keeps a connection whose last answer was read to its end.
    pub(super) fn keep(&self, connection: Connection) {
        if connection.is_closed() {
            return;
        }
        let mut idle = self.idle.lock();
        if idle.connections.len() >= CONNECTIONS_IDLE_MAX {
            idle.connections.pop_front();
        }
        idle.connections.push_back((Instant::now(), connection));
        if !idle.watched {
            idle.watched = true;
            self.tasks.spawn(close_when_idle_for_long(Arc::downgrade(&self.idle), self.idle_max));
        }
    }

    fn take(&self) -> Option<Connection> {
        self.idle.lock().take()
    }

    async fn connect(&self, deadline: Instant) -> Result<Connection, Unanswered> {
        let limit = deadline.saturating_duration_since(Instant::now());
        let stream = self.connector.connect(self.origin.clone(), limit).await?;
        let (connection, driver) = http1::Builder::new()
            .max_buf_size(BUFFER_BYTES_MAX)
            .handshake(stream)
            .await
            .map_err(Unanswered::Lost)?;
        self.tasks.spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "webhook connection ended");
            }
        });
        Ok(connection)
    }
}

impl Idle {
    /// The most recently used connection that can take a request at once.
    fn take(&mut self) -> Option<Connection> {
        self.connections.retain(|(_, connection)| !connection.is_closed());
        let index = self.connections.iter().rposition(|(_, connection)| connection.is_ready())?;
        self.connections.remove(index).map(|(_, connection)| connection)
    }
}

async fn exchange(
    connection: &mut Connection,
    request: Request<Full<Bytes>>,
    deadline: Instant,
) -> Result<Response<Incoming>, (Unanswered, Option<Request<Full<Bytes>>>)> {
    match timeout_at(deadline, connection.try_send_request(request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(mut error)) => {
            let unsent = error.take_message();
            Err((Unanswered::Lost(error.into_error()), unsent))
        }
        Err(_) => Err((Unanswered::Timeout, None)),
    }
}

/// Ends when no connection is left; [`Pool::keep`] starts it anew.
async fn close_when_idle_for_long(idle: Weak<Mutex<Idle>>, idle_max: Duration) {
    while let Some(idle) = idle.upgrade() {
        let next = {
            let mut idle = idle.lock();
            let now = Instant::now();
            while idle.connections.front().is_some_and(|(since, _)| *since + idle_max <= now) {
                idle.connections.pop_front();
            }
            match idle.connections.front() {
                Some((since, _)) => *since + idle_max,
                None => {
                    idle.watched = false;
                    return;
                }
            }
        };
        drop(idle);
        sleep_until(next).await;
    }
}

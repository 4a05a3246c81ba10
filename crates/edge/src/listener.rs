//! The public port: accepts connections and serves each on a task of its own, within the listener's limits.

mod body_limit;
mod connection_limits;
mod request_limits;

use std::{io, sync::Arc, time::Duration};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::io::Errno;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Status;

pub use self::connection_limits::CONNECTION_BYTES_MIN;
pub(crate) use self::request_limits::{Identify, Served};
use self::{
    connection_limits::{ConnectionLimiter, ConnectionPermit},
    request_limits::{ConnectionActivity, LimitedRoutes, SharedRoutes},
};
use crate::problem::Problem;

const STREAMS_MAX: u32 = 256;
const HEADER_BYTES_MAX: u32 = 8 << 10;
/// Bytes of a response that its client does not take, per call.
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// A peer that is gone holds its connection no longer than both together.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that running calls get to end when their connection is closed.
const BUSY_DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for a connection without calls.
const IDLE_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection without any call is closed earlier than one that is idle.
const FIRST_CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept: without file descriptors, for example, an immediate retry would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// A refused call is worth repeating after this time: others end meanwhile.
const OVERLOADED_RETRY: Duration = Duration::from_millis(500);

/// Limits of the public port.
#[derive(Clone, Copy, Debug)]
pub struct ListenerLimits {
    /// Three quarters are for accounts, of which one has at most a half; connections without a key give way.
    pub connections_max: usize,
    /// Calls at once, on all connections; a stream is one while it is open. One account has at most a half.
    pub requests_max: usize,
    /// Bytes received and not read, of all connections together; at least [`CONNECTION_BYTES_MIN`] for each.
    pub window_bytes_max: usize,
    /// Bytes of requests that are not answered yet, or of streams' messages that are not read, of all connections
    /// together.
    pub arriving_bytes_max: usize,
    /// A connection without a call of a tenant is closed after once to twice this time.
    pub idle_timeout: Duration,
}

/// Serves until `stop`, then ends each connection after its running calls.
///
/// # Errors
/// If the listener fails for good.
pub(crate) async fn serve(
    listener: TcpListener,
    served: Served,
    limits: ListenerLimits,
    stop: CancellationToken,
) -> io::Result<()> {
    let limiter = ConnectionLimiter::new(limits.connections_max, limits.window_bytes_max);
    let shared = SharedRoutes::new(served, &limits);
    let tasks = TaskTracker::new();
    let mut warnings = RateLimitedLog::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => match limiter.acquire().await {
                Some(permit) => {
                    let connection = Connection {
                        permit,
                        shared: shared.clone(),
                        idle: limits.idle_timeout,
                        stop: stop.clone(),
                    };
                    tasks.spawn(connection.run(stream));
                }
                None => warnings.log(|refused| {
                    tracing::warn!(
                        refused,
                        connections_max = limits.connections_max,
                        "refused connections beyond listen.connections_max; raise it, or find out who holds them"
                    );
                }),
            },
            Err(error) if is_transient_accept_error(&error) => {}
            Err(error) if is_fatal_accept_error(&error) => return Err(error),
            Err(error) => {
                warnings.log(|times| {
                    tracing::warn!(
                        %error,
                        times,
                        "failed to accept connections; trying again (if files are too many, raise the limit of open files)"
                    );
                });
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// True for errors of one connection that was gone before it was accepted.
fn is_transient_accept_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// True for `accept(2)` errors of the listening socket itself. All others are transient: errors of the peer that Linux
/// reports through accept (ENETDOWN, EPROTO and others), or resource exhaustion (EMFILE, ENOBUFS).
fn is_fatal_accept_error(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::FAULT))
}

/// Log of an event that happens often: one line in a while, with the number of times.
#[derive(Default)]
struct RateLimitedLog {
    logged: Option<Instant>,
    times: u64,
}

impl RateLimitedLog {
    fn log(&mut self, line: impl FnOnce(u64)) {
        self.times += 1;
        if self.logged.is_none_or(|logged| logged.elapsed() >= WARNING_INTERVAL) {
            line(std::mem::take(&mut self.times));
            self.logged = Some(Instant::now());
        }
    }
}

struct Connection {
    permit: Arc<ConnectionPermit>,
    shared: SharedRoutes,
    idle: Duration,
    stop: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "connection was gone before it was served");
            return;
        }
        let activity = Arc::new(ConnectionActivity::default());
        let routes = LimitedRoutes::new(self.shared.clone(), activity.clone(), self.permit.clone());
        let mut serving = Box::pin(self.protocol().serve_connection(TokioIo::new(stream), routes));
        tokio::select! {
            ended = &mut serving => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended with an error");
                }
                return;
            }
            () = self.permit.evicted() => {
                tracing::debug!("connection without a key gives way to another one");
                return;
            }
            () = self.stop.cancelled() => {}
            () = wait_until_idle(&activity, FIRST_CALL_TIMEOUT.min(self.idle), self.idle) => {}
        }
        serving.as_mut().graceful_shutdown();
        let drain_timeout =
            if activity.served_if_idle().is_some() { IDLE_DRAIN_TIMEOUT } else { BUSY_DRAIN_TIMEOUT };
        if timeout(drain_timeout, serving).await.is_err() {
            tracing::debug!("connection did not end in time; closing it");
        }
    }

    fn protocol(&self) -> http2::Builder<TokioExecutor> {
        let bytes = |bytes: usize| u32::try_from(bytes).expect("a share is a few MiB");
        let mut protocol = http2::Builder::new(TokioExecutor::new());
        protocol
            .timer(TokioTimer::new())
            .initial_stream_window_size(bytes(self.permit.stream_window_bytes()))
            .initial_connection_window_size(bytes(self.permit.window_bytes()))
            .max_frame_size(bytes(self.permit.frame_bytes_max()))
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        protocol
    }
}

/// Ends when there was no call at all in `first`, or none that keeps the connection open for `limit`. Polls now and then,
/// so that a call costs nothing.
async fn wait_until_idle(activity: &ConnectionActivity, first: Duration, limit: Duration) {
    sleep(first).await;
    if !activity.was_called() {
        return;
    }
    let mut served_before = None;
    loop {
        let served = activity.served_if_idle();
        if served.is_some() && served == served_before {
            return;
        }
        served_before = served;
        sleep(limit).await;
    }
}

/// The answer to a call that the node has no room for.
fn overloaded(message: &str) -> Status {
    Problem::overloaded(message, OVERLOADED_RETRY).into()
}

#[cfg(test)]
mod tests;

//! Accepts connections and serves each on a task of its own, within the listener's limits.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::io::Errno;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

use super::{
    places::{Place, Places},
    requests::{Activity, Requests, Shared},
};

const STREAMS_MAX: u32 = 256;
const HEADER_BYTES_MAX: u32 = 8 << 10;
/// Of an answer that its client does not take, per call.
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// A peer that is gone holds its place no longer than both together.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that running calls get when their connection is to end, and a connection without calls.
const LAST_CALLS_MAX: Duration = Duration::from_secs(10);
const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// A connection is made in order to call.
const FIRST_CALL_MAX: Duration = Duration::from_secs(10);
/// When accepting fails, of too few file descriptors for example, trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// What the public port may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListenerLimits {
    pub(crate) connections_max: usize,
    /// Calls at once, on all connections; a stream is one while it is open.
    pub(crate) requests_max: usize,
    /// Received and not read, all connections together.
    pub(crate) window_bytes_max: usize,
    /// Of requests that are not complete yet, all connections together.
    pub(crate) arriving_bytes_max: usize,
    /// A connection without a call of a tenant for so long, and at most twice as long, is closed.
    pub(crate) idle_timeout: Duration,
}

/// Serves until `stop`, then ends each connection after its running calls.
///
/// # Errors
/// If the listener fails for good.
pub(super) async fn serve(
    listener: TcpListener,
    routes: Routes,
    limits: ListenerLimits,
    stop: CancellationToken,
) -> io::Result<()> {
    let places = Places::new(limits.connections_max, limits.window_bytes_max);
    let shared = Shared::new(routes, limits.requests_max, limits.arriving_bytes_max);
    let tasks = TaskTracker::new();
    let mut warnings = Warnings::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => match places.take() {
                Some(place) => {
                    let connection = Connection {
                        place,
                        shared: shared.clone(),
                        idle: limits.idle_timeout,
                        stop: stop.clone(),
                    };
                    tasks.spawn(connection.run(stream));
                }
                None => warnings.say(|refused| {
                    tracing::warn!(
                        refused,
                        connections_max = limits.connections_max,
                        "connections refused: raise listen.connections_max, or find out who holds them"
                    );
                }),
            },
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) if is_of_the_socket(&error) => return Err(error),
            Err(error) => {
                warnings.say(|times| {
                    tracing::warn!(
                        %error,
                        times,
                        "connections cannot be accepted: if files are too many, raise the limit of open files"
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

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Whether nothing can ever be accepted. What else accepting fails of passes: of the network (ENETDOWN, EPROTO and
/// more that Linux hands on from a connection that is gone) or of this machine (EMFILE, ENOBUFS).
fn is_of_the_socket(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::FAULT))
}

/// Says at most once in a while what happens often.
#[derive(Default)]
struct Warnings {
    said: Option<Instant>,
    since: u64,
}

impl Warnings {
    fn say(&mut self, line: impl FnOnce(u64)) {
        self.since += 1;
        if self.said.is_none_or(|said| said.elapsed() >= WARNING_INTERVAL) {
            line(std::mem::take(&mut self.since));
            self.said = Some(Instant::now());
        }
    }
}

struct Connection {
    place: Place,
    shared: Shared,
    idle: Duration,
    stop: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone before it was served");
            return;
        }
        let activity = Arc::new(Activity::default());
        let requests = Requests::new(self.shared.clone(), activity.clone());
        let mut serving = Box::pin(self.protocol().serve_connection(TokioIo::new(stream), requests));
        tokio::select! {
            ended = &mut serving => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            () = self.stop.cancelled() => {}
            () = idle(&activity, FIRST_CALL_MAX.min(self.idle), self.idle) => {}
        }
        serving.as_mut().graceful_shutdown();
        let grace = if activity.at_rest().is_some() { GOODBYE_MAX } else { LAST_CALLS_MAX };
        if timeout(grace, serving).await.is_err() {
            tracing::debug!("a connection did not end by itself");
        }
    }

    fn protocol(&self) -> http2::Builder<TokioExecutor> {
        let bytes = |bytes: usize| u32::try_from(bytes).expect("a share is a few MiB");
        let mut protocol = http2::Builder::new(TokioExecutor::new());
        protocol
            .timer(TokioTimer::new())
            .initial_stream_window_size(bytes(self.place.stream_window_bytes()))
            .initial_connection_window_size(bytes(self.place.window_bytes()))
            .max_frame_size(bytes(self.place.frame_bytes_max()))
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        protocol
    }
}

/// Ends when there was no call at all in `first`, or none that keeps the connection busy for `limit`. Looks only now
/// and then, so that a call costs nothing.
async fn idle(activity: &Activity, first: Duration, limit: Duration) {
    sleep(first).await;
    if !activity.has_begun() {
        return;
    }
    let mut before = None;
    loop {
        let now = activity.at_rest();
        if now.is_some() && now == before {
            return;
        }
        before = now;
        sleep(limit).await;
    }
}

#[cfg(test)]
mod tests;

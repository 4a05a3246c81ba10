//! The receiver that `fanfare dev` delivers to: real HTTP, told to fail, hang and recover while it runs.
//!
//! `POST /webhook` takes CloudEvents JSON, one object or an array, and answers as the mode says. The mode is
//! switched by `POST /control/ok`, `/control/hang` and `/control/fail?status=503`; `GET /control` shows it. What
//! arrives is told through a bounded channel; an observer that is too slow misses events but never delays an
//! answer.

mod recent_ids;
mod request;

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::StatusCode;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::recent_ids::RecentIds;

const CONNECTIONS_MAX: usize = 256;
const OBSERVED_MAX: usize = 1024;
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Until the next try when the operating system gives no connection, for lack of file descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answer to events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerMode {
    /// 200.
    Ok,
    /// This status.
    Fail(StatusCode),
    /// Not at all, until the mode changes; then as the new one says.
    Hang,
}

impl fmt::Display for AnswerMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Fail(status) => write!(f, "fail {}", status.as_u16()),
            Self::Hang => f.write_str("hang"),
        }
    }
}

/// One event that arrived and was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceivedEvent {
    pub(crate) id: String,
    pub(crate) event_type: String,
    pub(crate) status: u16,
    /// Time of the answer.
    pub(crate) at: Instant,
    /// An event of this source and id was accepted before, within the last 65,536 accepted ones.
    pub(crate) duplicate: bool,
}

/// A running receiver. It stops when the token given to [`DevReceiver::start`] is cancelled.
pub(crate) struct DevReceiver {
    address: SocketAddr,
    events: mpsc::Receiver<ReceivedEvent>,
    state: Arc<ReceiverState>,
}

impl DevReceiver {
    /// Serves `listener` until `cancel`, on `tasks`.
    pub(crate) fn start(listener: TcpListener, tasks: &TaskTracker, cancel: CancellationToken) -> Self {
        let (observer, events) = mpsc::channel(OBSERVED_MAX);
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = Arc::new(ReceiverState {
            mode: watch::Sender::new(AnswerMode::Ok),
            observer,
            missed: AtomicU64::new(0),
            seen: RecentIds::default(),
            cancel,
        });
        tasks.spawn(accept(listener, state.clone(), tasks.clone()));
        Self { address, events, state }
    }

    /// Events that arrived faster than they were taken by [`DevReceiver::next`], and are missing there.
    pub(crate) fn missed(&self) -> u64 {
        self.state.missed.load(Ordering::Relaxed)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next event that arrived; none once the receiver has stopped. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<ReceivedEvent> {
        self.events.recv().await
    }
}

/// State shared by all connections.
struct ReceiverState {
    mode: watch::Sender<AnswerMode>,
    observer: mpsc::Sender<ReceivedEvent>,
    /// Events that arrived and did not fit into the channel.
    missed: AtomicU64,
    seen: RecentIds,
    cancel: CancellationToken,
}

impl ReceiverState {
    /// The status to answer with, as soon as the mode gives one. None once cancelled.
    async fn verdict(&self) -> Option<StatusCode> {
        let mut mode = self.mode.subscribe();
        let decided = mode.wait_for(|mode| *mode != AnswerMode::Hang);
        let mode = tokio::select! {
            mode = decided => *mode.ok()?,
            () = self.cancel.cancelled() => return None,
        };
        match mode {
            AnswerMode::Ok => Some(StatusCode::OK),
            AnswerMode::Fail(status) => Some(status),
            AnswerMode::Hang => None,
        }
    }

    fn tell(&self, received: ReceivedEvent) {
        if self.observer.try_send(received).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<ReceiverState>, tasks: TaskTracker) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let cancel = state.cancel.clone();
    let accepting = async {
        loop {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, _)) => {
                    let state = state.clone();
                    tasks.spawn(async move {
                        serve(stream, state).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the built-in receiver failed to accept a connection; it tries again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    cancel.run_until_cancelled(accepting).await;
}

async fn serve(stream: TcpStream, state: Arc<ReceiverState>) {
    // Without it the connection works too, only slower.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the built-in receiver cannot set TCP_NODELAY");
    }
    let service = service_fn(|request| request::answer(request, &state));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = state.cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the built-in receiver ended");
    }
}

#[cfg(test)]
mod tests;

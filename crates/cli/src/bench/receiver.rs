//! The receiver of a delivery run: an HTTP server on loopback that answers at once and keeps the account.

use std::{
    borrow::Cow,
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{event_pool::EventPool, ledger::DeliveryLedger, load::Signals};
use crate::failure::{Exit, Failure};

/// More than any batch of events that a sink sends.
const BODY_BYTES_MAX: usize = 64 << 20;

/// State that a request is checked against.
#[derive(Debug)]
pub(super) struct ReceiverState {
    pub(super) pool: Arc<EventPool>,
    pub(super) ledger: Arc<DeliveryLedger>,
    /// While it is set every request is refused.
    pub(super) refuses: AtomicBool,
    /// The events of the first keys are refused for ever.
    pub(super) failing_keys: usize,
    /// Requests that were refused for their keys.
    pub(super) failed_requests: AtomicU64,
    /// Set when the run begins: events sent before it warm up.
    pub(super) measure_from: watch::Receiver<Option<Instant>>,
}

/// A server that runs until it is stopped.
#[derive(Debug)]
pub(super) struct Receiver {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

impl Receiver {
    pub(super) async fn start(account: Arc<ReceiverState>) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            let message = format!("serve on loopback: {error}");
            Failure::new(Exit::Failed, message, "check the network of this machine")
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let accepting = accept(listener, account, stop.clone(), tasks.clone());
        tasks.spawn(accepting);
        Ok(Self { address, stop, tasks })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn accept(
    listener: TcpListener,
    account: Arc<ReceiverState>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        // Without it answers wait for the sender's delayed acknowledgements.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let (account, stop) = (account.clone(), stop.clone());
        tasks.spawn(async move {
            let service = service_fn(|request| receive(request, &account));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                // The sender closes its connections when it likes.
                _ = connection => {}
            }
        });
    }
}

async fn receive(
    request: Request<Incoming>,
    account: &ReceiverState,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let status = match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
        Ok(body) => account.take(&body.to_bytes()),
        Err(_) => StatusCode::PAYLOAD_TOO_LARGE,
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    Ok(response)
}

impl ReceiverState {
    /// Takes everything from the start.
    pub(super) fn open(
        pool: &Arc<EventPool>,
        ledger: &Arc<DeliveryLedger>,
        signals: &Signals,
        failing_keys: usize,
    ) -> Arc<Self> {
        let (pool, ledger, measure_from) = (pool.clone(), ledger.clone(), signals.started.subscribe());
        let (refuses, failed_requests) = (AtomicBool::new(false), AtomicU64::new(0));
        Arc::new(Self { pool, ledger, refuses, failing_keys, failed_requests, measure_from })
    }

    fn take(&self, body: &[u8]) -> StatusCode {
        let now = Instant::now();
        if self.refuses.load(Ordering::Acquire) {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        let envelopes = match body.first() {
            Some(b'[') => serde_json::from_slice(body),
            _ => serde_json::from_slice(body).map(|envelope: Envelope<'_>| vec![envelope]),
        };
        let Ok(envelopes) = envelopes else { return StatusCode::BAD_REQUEST };
        let Some(measure_from) = *self.measure_from.borrow() else { return StatusCode::NO_CONTENT };
        let numbers: Vec<u64> =
            envelopes.iter().filter_map(|envelope| self.pool.number(&envelope.id)).collect();
        if numbers.iter().any(|number| self.pool.key(*number) < self.failing_keys) {
            self.failed_requests.fetch_add(1, Ordering::AcqRel);
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        for number in numbers {
            self.ledger.arrived(number, now, measure_from);
        }
        StatusCode::NO_CONTENT
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn single_events_and_batches_are_counted_and_strangers_are_not() {
        let epoch = Instant::now();
        let pool = Arc::new(EventPool::generate(&["t"], 1, 640, &mut StdRng::seed_from_u64(1)));
        let ledger = Arc::new(DeliveryLedger::new(3, epoch));
        let (_started, measure_from) = watch::channel(Some(epoch));
        let (refuses, failing_keys, failed_requests) = (AtomicBool::new(true), 0, AtomicU64::new(0));
        let mut account =
            ReceiverState { pool, ledger, refuses, failing_keys, failed_requests, measure_from };
        let (pool, ledger) = (account.pool.clone(), account.ledger.clone());
        let event =
            |number| format!(r#"{{"specversion":"1.0","id":"{}","data":{{"id":1}}}}"#, pool.id(number));
        (0..3).for_each(|number| ledger.sent(number, epoch));
        assert_eq!(account.take(event(0).as_bytes()), StatusCode::SERVICE_UNAVAILABLE);
        account.refuses.store(false, Ordering::Release);
        assert_eq!(account.take(event(0).as_bytes()), StatusCode::NO_CONTENT);
        let batch = format!(r#"[{},{{"id":"stranger"}},{}]"#, event(1), event(0));
        assert_eq!(account.take(batch.as_bytes()), StatusCode::NO_CONTENT);
        assert_eq!(account.take(b"{"), StatusCode::BAD_REQUEST);
        let balance = ledger.balance();
        assert_eq!((balance.arrived, balance.duplicates, balance.missing), (2, 1, 1));
        account.failing_keys = 1;
        assert_eq!(account.take(event(2).as_bytes()), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(account.failed_requests.into_inner(), 1);
        assert_eq!(ledger.arrivals(), 2);
    }
}

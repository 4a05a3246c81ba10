//! A webhook receiver that remembers what it was sent, in order.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

/// One event of one request.
#[derive(Clone, Debug)]
pub struct Delivered {
    pub id: String,
    pub subject: String,
    pub event: serde_json::Value,
}

#[derive(Default)]
struct Shared {
    delivered: Mutex<Vec<Delivered>>,
    status: Mutex<Option<u16>>,
}

/// Answers 200, or what it is told to, and remembers every event it answered 200.
#[derive(Clone)]
pub struct Receiver {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Receiver {
    /// Listens on a free port of loopback; lives as long as the runtime.
    ///
    /// # Errors
    /// If no port is to be had.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for deliveries")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let tasks = TaskTracker::new();
        let accepting = shared.clone();
        let connections = tasks.clone();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = accepting.clone();
                let service = service_fn(move |request| answer(shared.clone(), request));
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(Self { shared, address })
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/webhook", self.address)
    }

    /// Answers this status instead of 200 from now on.
    pub fn fail_with(&self, status: u16) {
        *self.shared.status.lock() = Some(status);
    }

    /// Answers 200 from now on.
    pub fn recover(&self) {
        *self.shared.status.lock() = None;
    }

    /// Every event answered 200, in order of arrival, repeats included.
    #[must_use]
    pub fn delivered(&self) -> Vec<Delivered> {
        self.shared.delivered.lock().clone()
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let status = *shared.status.lock();
    let body =
        request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let status = match status {
        Some(status) => status,
        None => {
            let parsed: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let events = match parsed {
                serde_json::Value::Array(events) => events,
                event => vec![event],
            };
            let text =
                |event: &serde_json::Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
            shared.delivered.lock().extend(events.into_iter().map(|event| Delivered {
                id: text(&event, "id"),
                subject: text(&event, "subject"),
                event,
            }));
            200
        }
    };
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Ok(response)
}

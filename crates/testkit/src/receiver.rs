//! A real HTTP/1.1 server on a free port of loopback that answers as a test says and remembers every request.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

pub type Answer = Response<BoxBody<Bytes, Infallible>>;

/// A server that stops when it is dropped.
pub struct Receiver {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<ReceivedRequest>>>,
    connections: Arc<AtomicUsize>,
    _accepting: AbortOnDropHandle<()>,
}

impl Receiver {
    /// Answers each request with `answer`, then remembers the request.
    ///
    /// # Panics
    /// If loopback has no free port.
    pub async fn start(answer: impl Fn(&ReceivedRequest) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_behind(None, answer).await
    }

    /// The same behind TLS, if an acceptor is given. A failed handshake ends its connection alone.
    ///
    /// # Panics
    /// If loopback has no free port.
    pub async fn start_behind(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&ReceivedRequest) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (requests, connections) = (Arc::default(), Arc::<AtomicUsize>::default());
        let tasks = TaskTracker::new();
        let handler = Arc::new(Handler { answer, requests: Arc::clone(&requests) });
        let (serving, accepted) = (tasks.clone(), connections.clone());
        let accepting = tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                serving.spawn(serve(stream, tls.clone(), handler.clone()));
            }
        });
        Self { address, requests, connections, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// Answers every request with this status.
    ///
    /// # Panics
    /// If loopback has no free port.
    pub async fn answering(status: u16) -> Self {
        Self::start(move |_| answer_with(status, "answer")).await
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL of this receiver, without TLS.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Every request answered so far, in order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.requests.lock().clone()
    }

    /// # Panics
    /// If no request has arrived.
    #[must_use]
    pub fn last_request(&self) -> ReceivedRequest {
        self.requests.lock().last().cloned().expect("a request has arrived")
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

struct Handler<F> {
    answer: F,
    requests: Arc<Mutex<Vec<ReceivedRequest>>>,
}

async fn serve<F>(stream: TcpStream, tls: Option<TlsAcceptor>, handler: Arc<Handler<F>>)
where
    F: Fn(&ReceivedRequest) -> Answer + Send + Sync + 'static,
{
    let service = service_fn(move |request| respond(request, handler.clone()));
    // The client ends its connections as it likes; tests look at requests and answers.
    match tls {
        None => drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await),
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            }
        }
    }
}

async fn respond<F>(request: Request<Incoming>, handler: Arc<Handler<F>>) -> Result<Answer, hyper::Error>
where
    F: Fn(&ReceivedRequest) -> Answer + Send + Sync + 'static,
{
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let received =
        ReceivedRequest { method: head.method, target: head.uri.to_string(), headers: head.headers, body };
    let answer = (handler.answer)(&received);
    handler.requests.lock().push(received);
    Ok(answer)
}

/// An answer with this status and body.
///
/// # Panics
/// If there is no such status.
#[must_use]
pub fn answer_with(status: u16, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = StatusCode::from_u16(status).expect("a status of HTTP");
    response
}

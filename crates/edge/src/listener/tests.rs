//! The listener as clients see it: over TCP, with a service that reads when it is told to.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use fanfare_model::AccountId;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::{SendRequest, handshake},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Semaphore, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, body::Body as TonicBody, server::NamedService, service::Routes};
use tonic_types::StatusExt;
use tower::Service;

use super::*;
use crate::listener::request_limits::{CHECK_CALL, STREAMING_CALL};

/// Longer than anything here takes on a busy machine; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(60);
const CALL: &str = "/fanfare.v1.PublisherService/Publish";
/// The call that the service answers as if it had no key.
const UNAUTHENTICATED_CALL: &str = "/fanfare.v1.PublisherService/PublishBatch";
const WATCH_CALL: &str = "/grpc.health.v1.Health/Watch";

const LIMITS: ListenerLimits = ListenerLimits {
    connections_max: 4,
    requests_max: 3,
    window_bytes_max: 4 * CONNECTION_BYTES_MIN,
    arriving_bytes_max: 200_000,
    idle_timeout: Duration::from_secs(3600),
};

type SomeBody = http_body_util::combinators::BoxBody<Bytes, Infallible>;

/// Reads a request's body, then answers with its size. A stream is read a frame for each turn it is given.
#[derive(Clone)]
struct Reading {
    turns: Arc<Semaphore>,
    begun: Arc<AtomicUsize>,
    received: Arc<AtomicUsize>,
}

impl NamedService for Reading {
    const NAME: &'static str = "fanfare.v1.PublisherService";
}

impl Service<Request<TonicBody>> for Reading {
    type Response = Response<TonicBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<TonicBody>) -> Self::Future {
        let Self { turns, begun, received } = self.clone();
        begun.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            if request.uri().path() == UNAUTHENTICATED_CALL {
                return Ok(Status::unauthenticated("no key").into_http());
            }
            let in_turns = request.uri().path() == STREAMING_CALL;
            let mut body = request.into_body();
            let mut size = 0;
            loop {
                if in_turns {
                    turns.acquire().await.unwrap().forget();
                }
                match body.frame().await {
                    Some(Ok(frame)) => {
                        let bytes = frame.into_data().map_or(0, |data| data.len());
                        received.fetch_add(bytes, Ordering::SeqCst);
                        size += bytes;
                    }
                    Some(Err(status)) => return Ok(status.into_http()),
                    None => return Ok(Response::new(TonicBody::new(Full::from(size.to_string())))),
                }
            }
        })
    }
}

struct Listener {
    address: SocketAddr,
    service: Reading,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Listener {
    async fn start(limits: ListenerLimits) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let service =
            Reading { turns: Arc::new(Semaphore::new(0)), begun: Arc::default(), received: Arc::default() };
        let (_, health) = tonic_health::server::health_reporter();
        let routes = Routes::new(service.clone()).add_service(health);
        let identify: Identify = Arc::new(|headers| {
            let number = headers.get("x-account")?.to_str().ok()?.parse().ok()?;
            Some(AccountId::from_bytes([number; 16]))
        });
        tasks.spawn(serve(socket, Served { routes, identify }, limits, stop.clone()));
        Self { address, service, stop, tasks }
    }

    async fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (sender, connection) =
            handshake::<_, _, SomeBody>(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        self.tasks.spawn(connection);
        Client { sender, authority: self.address, account: None }
    }

    /// A connection that says nothing.
    async fn connect_silently(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

#[derive(Clone)]
struct Client {
    sender: SendRequest<SomeBody>,
    authority: SocketAddr,
    /// None without a key.
    account: Option<u8>,
}

impl Client {
    fn of(self, account: u8) -> Self {
        Self { account: Some(account), ..self }
    }

    /// The answer to a call, or its refusal.
    async fn call(&mut self, path: &str, body: SomeBody) -> Result<String, Status> {
        let response = timeout(DEADLINE, self.send(path, body)).await.expect("it answers in time");
        if let Some(status) = Status::from_header_map(response.headers()) {
            return Err(status);
        }
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }

    async fn send(&mut self, path: &str, body: SomeBody) -> Response<Incoming> {
        self.try_send(path, body).await.unwrap()
    }

    /// Fails if the connection is closed.
    async fn try_send(&mut self, path: &str, body: SomeBody) -> hyper::Result<Response<Incoming>> {
        let uri = format!("http://{}{path}", self.authority);
        let mut request = Request::post(uri).header("content-type", "application/grpc");
        if let Some(account) = self.account {
            request = request.header("x-account", u16::from(account));
        }
        let request = request.body(body).unwrap();
        self.sender.send_request(request).await
    }
}

/// One message of `size` bytes, with its prefix.
fn message(size: u32) -> Vec<u8> {
    let mut message = vec![0];
    message.extend(size.to_be_bytes());
    message.resize(5 + size as usize, 7);
    message
}

fn whole(bytes: Vec<u8>) -> SomeBody {
    Full::from(bytes).boxed()
}

/// A body that is sent as the test says.
fn by_hand() -> (mpsc::Sender<Result<Frame<Bytes>, Infallible>>, SomeBody) {
    let (sender, parts) = mpsc::channel(8);
    (sender, BodyExt::boxed(StreamBody::new(ReceiverStream::new(parts))))
}

fn part(bytes: &[u8]) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(Bytes::copy_from_slice(bytes)))
}

async fn is_closed(stream: &mut TcpStream) {
    let mut read = Vec::new();
    // Reset or ended: closed either way.
    drop(timeout(DEADLINE, stream.read_to_end(&mut read)).await.expect("it is closed in time"));
}

fn refused(status: &Status) -> (Code, bool) {
    (status.code(), status.get_details_retry_info().is_some())
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_until_one_ends() {
    let listener = Listener::start(ListenerLimits { connections_max: 2, ..LIMITS }).await;
    let (mut first, mut second) = (listener.connect().await.of(1), listener.connect().await.of(2));
    for client in [&mut first, &mut second] {
        assert_eq!(client.call(CALL, whole(message(10))).await.unwrap(), "15");
    }
    is_closed(&mut listener.connect_silently().await).await;
    drop(second);
    let served = async {
        loop {
            let mut third = listener.connect_silently().await;
            third.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
            if matches!(third.read(&mut [0; 9]).await, Ok(9)) {
                break;
            }
        }
    };
    timeout(DEADLINE, served).await.expect("the place of the one that left is free");
}

#[tokio::test]
async fn calls_beyond_the_limit_are_overloaded_except_probes() {
    let listener = Listener::start(LIMITS).await;
    let mut client = listener.connect().await;
    let mut open = Vec::new();
    for account in [1, 1, 2] {
        let (sender, body) = by_hand();
        let mut client = client.clone().of(account);
        open.push((sender, listener.tasks.spawn(async move { client.call(CALL, body).await })));
    }
    until("all have begun", || listener.service.begun.load(Ordering::SeqCst) == LIMITS.requests_max).await;
    let refusal = client.call(CALL, whole(message(1))).await.unwrap_err();
    assert_eq!(refused(&refusal), (Code::ResourceExhausted, true));
    client.call(CHECK_CALL, whole(message(0))).await.unwrap();
    for (sender, answer) in open {
        sender.send(part(&message(2))).await.unwrap();
        drop(sender);
        assert_eq!(timeout(DEADLINE, answer).await.unwrap().unwrap().unwrap(), "7");
    }
    assert_eq!(client.call(CALL, whole(message(1))).await.unwrap(), "6");
}

#[tokio::test]
async fn connections_without_a_key_give_way_to_others() {
    let listener = Listener::start(ListenerLimits { connections_max: 2, ..LIMITS }).await;
    let mut keyless = (listener.connect().await, listener.connect().await);
    for client in [&mut keyless.0, &mut keyless.1] {
        client.call(CHECK_CALL, whole(message(0))).await.unwrap();
    }
    let mut tenant = listener.connect().await.of(1);
    assert_eq!(tenant.call(CALL, whole(message(10))).await.unwrap(), "15");
    let oldest = async { while keyless.0.try_send(CHECK_CALL, whole(message(0))).await.is_ok() {} };
    timeout(DEADLINE, oldest).await.expect("the oldest one was closed");
}

#[tokio::test]
async fn one_account_leaves_calls_for_others() {
    let listener = Listener::start(ListenerLimits { requests_max: 8, ..LIMITS }).await;
    let mut client = listener.connect().await.of(1);
    let mut open = Vec::new();
    for _ in 0..4 {
        let (sender, body) = by_hand();
        let mut client = client.clone();
        open.push((sender, listener.tasks.spawn(async move { client.call(STREAMING_CALL, body).await })));
    }
    until("all have begun", || listener.service.begun.load(Ordering::SeqCst) == 4).await;
    let refusal = client.call(CALL, whole(message(1))).await.unwrap_err();
    assert_eq!(refused(&refusal), (Code::ResourceExhausted, true));
    let mut other = listener.connect().await.of(2);
    assert_eq!(other.call(CALL, whole(message(1))).await.unwrap(), "6");
}

#[tokio::test]
async fn calls_without_a_key_take_neither_the_probes_nor_the_memory_of_others() {
    let listener = Listener::start(ListenerLimits { arriving_bytes_max: 64 << 20, ..LIMITS }).await;
    let (mut client, mut other) = (listener.connect().await, listener.connect().await);
    let refusal = client.call(WATCH_CALL, whole(message(2 << 20))).await.unwrap_err();
    assert_eq!(refused(&refusal), (Code::ResourceExhausted, true), "more than is for all without a key");

    let mut watches = Vec::new();
    let refusal = loop {
        let watch = timeout(DEADLINE, client.send(WATCH_CALL, whole(message(0)))).await.unwrap();
        match Status::from_header_map(watch.headers()) {
            None => watches.push(watch),
            Some(refusal) => break refusal,
        }
    };
    assert_eq!((refused(&refusal), watches.len()), ((Code::ResourceExhausted, true), 64));
    client.call(CHECK_CALL, whole(message(0))).await.expect("probes are not among them");

    let (senders, mut checks): (Vec<_>, FuturesUnordered<_>) = (0..5)
        .map(|_| {
            let (sender, body) = by_hand();
            let mut caller = client.clone();
            (sender, async move { caller.call(CHECK_CALL, body).await })
        })
        .unzip();
    let refusal = checks.next().await.unwrap().unwrap_err();
    assert_eq!(refused(&refusal), (Code::ResourceExhausted, true), "a connection has places for four");
    other.call(CHECK_CALL, whole(message(0))).await.expect("another has its own");
    drop(senders);
}

#[tokio::test]
async fn bytes_being_received_are_bounded_for_all_connections_together() {
    let listener = Listener::start(LIMITS).await;
    let (mut first, mut second) = (listener.connect().await, listener.connect().await);
    let (sender, body) = by_hand();
    let mut caller = first.clone();
    let slow = listener.tasks.spawn(async move { caller.call(CALL, body).await });
    let begun = message(90_000);
    sender.send(part(&begun[..50_000])).await.unwrap();
    until("they arrive", || listener.service.received.load(Ordering::SeqCst) == 50_000).await;
    let refusal = second.call(CALL, whole(message(60_000))).await.unwrap_err();
    assert_eq!(refused(&refusal), (Code::ResourceExhausted, true));
    assert_eq!(second.call(CALL, whole(message(5_000))).await.unwrap(), "5005", "what fits is taken");
    sender.send(part(&begun[50_000..])).await.unwrap();
    drop(sender);
    assert_eq!(timeout(DEADLINE, slow).await.unwrap().unwrap().unwrap(), "90005");
    for client in [&mut first, &mut second] {
        assert_eq!(client.call(CALL, whole(message(90_000))).await.unwrap(), "90005", "all of it is free");
    }
}

#[tokio::test]
async fn a_stream_holds_memory_for_its_unread_message_only() {
    let listener = Listener::start(LIMITS).await;
    let mut client = listener.connect().await;
    listener.service.turns.add_permits(Semaphore::MAX_PERMITS / 2);
    let messages = (0..20).map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from(message(40_000)))));
    let body = StreamBody::new(futures_util::stream::iter(messages));
    assert_eq!(client.call(STREAMING_CALL, BodyExt::boxed(body)).await.unwrap(), (20 * 40_005).to_string());
    let endless = whole(message(200_000));
    let refusal = client.call(STREAMING_CALL, endless).await.unwrap_err();
    assert_eq!(refused(&refusal), (Code::ResourceExhausted, true), "a message larger than all of it");
}

/// A body without end that counts what the protocol has taken of it.
struct Endless(Arc<AtomicUsize>);

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.fetch_add(1000, Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![0; 1000])))))
    }
}

#[tokio::test]
async fn a_client_that_is_not_read_sends_no_more_than_its_windows() {
    let listener = Listener::start(LIMITS).await;
    let taken: Vec<Arc<AtomicUsize>> = (0..2).map(|_| Arc::default()).collect();
    let client = listener.connect().await;
    for taken in &taken {
        let (mut client, body) = (client.clone(), Endless(taken.clone()));
        listener.tasks.spawn(async move { client.send(STREAMING_CALL, BodyExt::boxed(body)).await });
    }
    let total = || taken.iter().map(|taken| taken.load(Ordering::SeqCst)).sum::<usize>();
    until("the window fills", || total() >= CONNECTION_BYTES_MIN - (16 << 10)).await;
    // A call that is answered shows that the connection had its turn since.
    let mut other = client.clone();
    for _ in 0..100 {
        other.call(CHECK_CALL, whole(Vec::new())).await.unwrap_err();
    }
    assert!(total() <= CONNECTION_BYTES_MIN + 2 * (1 << 20), "{} bytes", total());
}

#[tokio::test]
async fn a_connection_without_calls_is_closed_and_one_with_a_call_is_not() {
    let listener =
        Listener::start(ListenerLimits { idle_timeout: Duration::from_millis(20), ..LIMITS }).await;
    let mut busy = listener.connect().await;
    let (sender, body) = by_hand();
    sender.send(part(&message(10))).await.unwrap();
    let open = listener.tasks.spawn(async move { busy.call(CALL, body).await });
    until("the call has begun", || listener.service.begun.load(Ordering::SeqCst) == 1).await;
    is_closed(&mut listener.connect_silently().await).await;
    let mut idle = listener.connect_silently().await;
    idle.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    is_closed(&mut idle).await;
    drop(sender);
    assert_eq!(timeout(DEADLINE, open).await.unwrap().unwrap().unwrap(), "15");
}

#[tokio::test]
async fn calls_without_a_key_do_not_keep_a_connection() {
    // Many calls long.
    let listener =
        Listener::start(ListenerLimits { idle_timeout: Duration::from_millis(400), ..LIMITS }).await;
    let mut watching = listener.connect().await;
    let watch = watching.send(WATCH_CALL, whole(message(0))).await.into_body().collect();
    drop(timeout(DEADLINE, watch).await.expect("its connection is closed"));
    for path in [CHECK_CALL, UNAUTHENTICATED_CALL] {
        let mut client = listener.connect().await;
        let calling = async {
            while let Ok(response) = client.try_send(path, whole(message(0))).await {
                drop(response.into_body().collect().await);
            }
        };
        timeout(DEADLINE, calling).await.unwrap_or_else(|_| panic!("{path} keeps the connection"));
    }
}

#[tokio::test]
async fn a_connection_without_a_first_call_is_closed_early() {
    let (soon, late) = (Duration::from_millis(1), Duration::from_secs(3600));
    timeout(DEADLINE, wait_until_idle(&ConnectionActivity::default(), soon, late))
        .await
        .expect("it is given up");
    let activity = ConnectionActivity::default();
    activity.note_call();
    assert!(timeout(20 * soon, wait_until_idle(&activity, soon, late)).await.is_err(), "it has made a call");
}

#[test]
fn only_an_error_of_the_socket_itself_ends_the_listener() {
    let is_fatal = |errno: Errno| is_fatal_accept_error(&io::Error::from_raw_os_error(errno.raw_os_error()));
    for errno in [Errno::BADF, Errno::INVAL, Errno::NOTSOCK, Errno::FAULT] {
        assert!(is_fatal(errno), "{errno:?}");
    }
    for errno in [
        Errno::NETDOWN,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::OPNOTSUPP,
        Errno::NETUNREACH,
        Errno::PERM,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::NOBUFS,
    ] {
        assert!(!is_fatal(errno), "{errno:?}");
    }
}

#[tokio::test]
async fn a_stop_lets_running_calls_end() {
    let listener = Listener::start(LIMITS).await;
    let mut client = listener.connect().await;
    let (sender, body) = by_hand();
    sender.send(part(&message(10))).await.unwrap();
    let mut caller = client.clone();
    let running = listener.tasks.spawn(async move { caller.call(CALL, body).await });
    client.call(CHECK_CALL, whole(message(0))).await.unwrap();
    let silent = listener.connect_silently().await;
    listener.stop.cancel();
    drop(sender);
    assert_eq!(timeout(DEADLINE, running).await.unwrap().unwrap().unwrap(), "15");
    drop((client, silent));
    listener.tasks.close();
    timeout(DEADLINE, listener.tasks.wait()).await.expect("the listener ends");
}

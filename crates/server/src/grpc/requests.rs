//! One connection's requests: each takes a place among those of the node and is counted while it is received.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status, body::Body as TonicBody, service::Routes};
use tower::Service;

use super::{
    arriving::{Arriving, Budget, Kind},
    overloaded,
};

/// The one call whose requests go on.
pub(super) const STREAMING_CALL: &str = "/fanfare.v1.PublisherService/PublishStream";
/// What orchestrators ask. Each connection has its own places for it: were they shared, whoever took all would have the
/// node killed.
pub(super) const CHECK_CALL: &str = "/grpc.health.v1.Health/Check";
const CHECKS_MAX: usize = 4;
const CHECK_BYTES_MAX: usize = 16 << 10;
/// Calls that need no key have few places and little memory of their own, so that they cannot take those of tenants.
const OPEN_CALLS: &str = "/grpc.";
const OPEN_REQUESTS_MAX: usize = 64;
const OPEN_BYTES_MAX: usize = 1 << 20;

/// Places for calls, and memory for what arrives of them.
#[derive(Clone)]
struct Room {
    places: Arc<Semaphore>,
    arriving: Budget,
}

impl Room {
    fn new(requests_max: usize, arriving_bytes_max: usize) -> Self {
        let places = Arc::new(Semaphore::new(requests_max.min(Semaphore::MAX_PERMITS)));
        Self { places, arriving: Budget::new(arriving_bytes_max) }
    }
}

/// What all connections share.
#[derive(Clone)]
pub(super) struct Shared {
    routes: Routes,
    tenants: Room,
    open: Room,
}

impl Shared {
    pub(super) fn new(routes: Routes, requests_max: usize, arriving_bytes_max: usize) -> Self {
        Self {
            routes: routes.prepare(),
            tenants: Room::new(requests_max, arriving_bytes_max),
            open: Room::new(OPEN_REQUESTS_MAX, OPEN_BYTES_MAX),
        }
    }
}

/// What a connection is doing. Only calls with a key keep it busy: any other peer could hold it for ever.
#[derive(Debug, Default)]
pub(super) struct Activity {
    called: AtomicBool,
    running: AtomicUsize,
    served: AtomicUsize,
}

impl Activity {
    /// How many calls with a key were served; none while one is running.
    pub(super) fn at_rest(&self) -> Option<usize> {
        (self.running.load(Ordering::Acquire) == 0).then(|| self.served.load(Ordering::Acquire))
    }

    pub(super) fn begin(&self) {
        self.called.store(true, Ordering::Release);
    }

    /// Whether there was any call, with a key or without.
    pub(super) fn has_begun(&self) -> bool {
        self.called.load(Ordering::Acquire)
    }
}

/// The service of one connection.
pub(super) struct Requests {
    shared: Shared,
    checks: Room,
    activity: Arc<Activity>,
}

impl Requests {
    pub(super) fn new(shared: Shared, activity: Arc<Activity>) -> Self {
        Self { shared, checks: Room::new(CHECKS_MAX, CHECK_BYTES_MAX), activity }
    }
}

impl hyper::service::Service<Request<Incoming>> for Requests {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.activity.begin();
        let path = request.uri().path();
        let (room, mut running) = match path {
            CHECK_CALL => (&self.checks, None),
            _ if path.starts_with(OPEN_CALLS) => (&self.shared.open, None),
            _ => (&self.shared.tenants, Some(Running::begin(self.activity.clone()))),
        };
        let Ok(place) = room.places.clone().try_acquire_owned() else {
            let status = overloaded("the node serves as many calls as it can: retry after the time given");
            let response: Response<TonicBody> = status.into_http();
            return Box::pin(async { Ok(response.map(|body| Answer { body, _open: (running, None) })) });
        };
        let kind = if path == STREAMING_CALL { Kind::Messages } else { Kind::Message };
        let held = room.arriving.hold();
        let counted = held.clone();
        let mut routes = self.shared.routes.clone();
        Box::pin(async move {
            let answer = routes.call(request.map(|body| Arriving::new(body, counted, kind))).await;
            drop(held);
            answer.map(|response| {
                if let Some(running) = running.as_mut().filter(|_| lacks_key(&response)) {
                    running.counts = false;
                }
                response.map(|body| Answer { body, _open: (running, Some(place)) })
            })
        })
    }
}

fn lacks_key(response: &Response<TonicBody>) -> bool {
    let code = response.headers().get("grpc-status");
    code.is_some_and(|code| Code::from_bytes(code.as_bytes()) == Code::Unauthenticated)
}

/// A tenant's call, from beginning to end.
struct Running {
    activity: Arc<Activity>,
    /// Whether the connection was in use by it.
    counts: bool,
}

impl Running {
    fn begin(activity: Arc<Activity>) -> Self {
        activity.running.fetch_add(1, Ordering::AcqRel);
        Self { activity, counts: true }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whoever sees that it ended must see that it was served.
        self.activity.served.fetch_add(usize::from(self.counts), Ordering::AcqRel);
        self.activity.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The body of an answer; its request is open until it is sent.
pub(super) struct Answer {
    body: TonicBody,
    _open: (Option<Running>, Option<OwnedSemaphorePermit>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! One connection's requests: each takes a place among those of the node and is counted while it is received.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{body::Body as TonicBody, service::Routes};
use tower::Service;

use super::{
    arriving::{Arriving, Budget, Kind},
    overloaded,
};

/// The one call whose requests go on.
pub(super) const STREAMING_CALL: &str = "/fanfare.v1.PublisherService/PublishStream";
/// Calls that need no key have few places of their own, so that they cannot take those of tenants.
const OPEN_CALLS: &str = "/grpc.";
const OPEN_REQUESTS_MAX: usize = 64;

/// What all connections share.
#[derive(Clone)]
pub(super) struct Shared {
    routes: Routes,
    pub(super) arriving: Budget,
    tenants: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Shared {
    pub(super) fn new(routes: Routes, requests_max: usize, arriving_bytes_max: usize) -> Self {
        Self {
            routes: routes.prepare(),
            arriving: Budget::new(arriving_bytes_max),
            tenants: Arc::new(Semaphore::new(requests_max.min(Semaphore::MAX_PERMITS))),
            open: Arc::new(Semaphore::new(OPEN_REQUESTS_MAX)),
        }
    }

    fn place(&self, path: &str) -> Option<OwnedSemaphorePermit> {
        let places = if path.starts_with(OPEN_CALLS) { &self.open } else { &self.tenants };
        places.clone().try_acquire_owned().ok()
    }
}

/// What a connection is doing.
#[derive(Debug, Default)]
pub(super) struct Activity {
    begun: AtomicUsize,
    ended: AtomicUsize,
}

impl Activity {
    /// How many requests there were; none while one is running.
    pub(super) fn at_rest(&self) -> Option<usize> {
        let ended = self.ended.load(Ordering::Acquire);
        (self.begun.load(Ordering::Acquire) == ended).then_some(ended)
    }
}

/// The service of one connection.
pub(super) struct Requests {
    pub(super) shared: Shared,
    pub(super) activity: Arc<Activity>,
}

impl hyper::service::Service<Request<Incoming>> for Requests {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let running = Running::begin(self.activity.clone());
        let path = request.uri().path();
        let Some(place) = self.shared.place(path) else {
            let status = overloaded("the node serves as many calls as it can: retry after the time given");
            let response: Response<TonicBody> = status.into_http();
            return Box::pin(async { Ok(response.map(|body| Answer { body, _open: (running, None) })) });
        };
        let kind = if path == STREAMING_CALL { Kind::Messages } else { Kind::Message };
        let held = self.shared.arriving.hold();
        let counted = held.clone();
        let mut routes = self.shared.routes.clone();
        Box::pin(async move {
            let answer = routes.call(request.map(|body| Arriving::new(body, counted, kind))).await;
            drop(held);
            answer.map(|response| response.map(|body| Answer { body, _open: (running, Some(place)) }))
        })
    }
}

/// Counts a request of its connection from beginning to end.
struct Running(Arc<Activity>);

impl Running {
    fn begin(activity: Arc<Activity>) -> Self {
        activity.begun.fetch_add(1, Ordering::AcqRel);
        Self(activity)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::AcqRel);
    }
}

/// The body of an answer; its request is open until it is sent.
pub(super) struct Answer {
    body: TonicBody,
    _open: (Running, Option<OwnedSemaphorePermit>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

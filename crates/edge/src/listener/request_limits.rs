//! Limits of calls: each takes a permit of the node, and is counted while it is received.

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
use fanfare_fairness::{FairLimiter, FairPermit};
use fanfare_model::AccountId;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tonic::{Code, Status, body::Body as TonicBody, service::Routes};
use tower::Service;

use super::{
    ListenerLimits,
    body_limit::{BodyKind, Caller, LimitedBody, ReceiveBudget},
    connection_limits::ConnectionPermit,
    overloaded,
};

/// The one method that clients stream requests to.
pub(super) const STREAMING_CALL: &str = "/fanfare.v1.PublisherService/PublishStream";
/// The probe of orchestrators. Each connection has its own permits for it: with shared permits, one client that takes
/// all of them would get the node killed.
pub(super) const CHECK_CALL: &str = "/grpc.health.v1.Health/Check";
const CHECKS_MAX: usize = 4;
const CHECK_BYTES_MAX: usize = 16 << 10;
/// Calls that need no key have few permits and little memory of their own, so that they cannot take those of tenants.
const OPEN_CALLS: &str = "/grpc.";
const OPEN_REQUESTS_MAX: usize = 64;
const OPEN_BYTES_MAX: usize = 1 << 20;

/// Permits for calls at once, and memory for requests being received. No caller takes all of them.
#[derive(Clone)]
struct CallLimits {
    permits: FairLimiter<Caller>,
    receiving: ReceiveBudget,
}

impl CallLimits {
    fn new(calls_max: usize, receiving_bytes_max: usize) -> Self {
        let receiving = ReceiveBudget::new(receiving_bytes_max, receiving_bytes_max);
        Self { permits: FairLimiter::new(calls_max, calls_max), receiving }
    }

    /// The same for callers that are one: those without a key.
    fn of_one(calls_max: usize, receiving_bytes_max: usize) -> Self {
        // A single owner gets half of a fair limit.
        let receiving = ReceiveBudget::new(receiving_bytes_max * 2, receiving_bytes_max);
        Self { permits: FairLimiter::new(calls_max * 2, calls_max), receiving }
    }
}

/// Tells the account whose key the headers of a call carry.
pub(crate) type Identify = Arc<dyn Fn(&HeaderMap) -> Option<AccountId> + Send + Sync>;

/// The services of the public port, and who calls them.
pub(crate) struct Served {
    pub(crate) routes: Routes,
    pub(crate) identify: Identify,
}

/// Routes and limits that all connections share.
#[derive(Clone)]
pub(super) struct SharedRoutes {
    routes: Routes,
    identify: Identify,
    tenants: CallLimits,
    open: CallLimits,
}

impl SharedRoutes {
    pub(super) fn new(served: Served, limits: &ListenerLimits) -> Self {
        Self {
            routes: served.routes.prepare(),
            identify: served.identify,
            tenants: CallLimits::new(limits.requests_max, limits.arriving_bytes_max),
            open: CallLimits::of_one(OPEN_REQUESTS_MAX, OPEN_BYTES_MAX),
        }
    }
}

/// Calls of a connection. Only calls with a key keep it open: any other peer could hold it for ever.
#[derive(Debug, Default)]
pub(super) struct ConnectionActivity {
    called: AtomicBool,
    running: AtomicUsize,
    served: AtomicUsize,
}

impl ConnectionActivity {
    /// Number of calls with a key that were served; none while one is running.
    pub(super) fn served_if_idle(&self) -> Option<usize> {
        (self.running.load(Ordering::Acquire) == 0).then(|| self.served.load(Ordering::Acquire))
    }

    pub(super) fn note_call(&self) {
        self.called.store(true, Ordering::Release);
    }

    /// True after any call, with a key or without.
    pub(super) fn was_called(&self) -> bool {
        self.called.load(Ordering::Acquire)
    }
}

/// The service of one connection.
pub(super) struct LimitedRoutes {
    shared: SharedRoutes,
    checks: CallLimits,
    activity: Arc<ConnectionActivity>,
    connection: Arc<ConnectionPermit>,
}

impl LimitedRoutes {
    pub(super) fn new(
        shared: SharedRoutes,
        activity: Arc<ConnectionActivity>,
        connection: Arc<ConnectionPermit>,
    ) -> Self {
        let checks = CallLimits::of_one(CHECKS_MAX, CHECK_BYTES_MAX);
        Self { shared, checks, activity, connection }
    }

    /// The caller of a call that may need a key.
    ///
    /// # Errors
    /// If the caller's account has its share of the connections without this one.
    fn caller(&self, headers: &HeaderMap) -> Result<Caller, Status> {
        let Some(account) = (self.shared.identify)(headers) else { return Ok(None) };
        if self.connection.belongs_to(account) {
            return Ok(Some(account));
        }
        Err(overloaded(
            "the account has as many connections open as it may: close some, or use one for more calls",
        ))
    }
}

impl hyper::service::Service<Request<Incoming>> for LimitedRoutes {
    type Response = Response<LimitedResponse>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.activity.note_call();
        let path = request.uri().path();
        let (limits, mut running) = match path {
            CHECK_CALL => (&self.checks, None),
            _ if path.starts_with(OPEN_CALLS) => (&self.shared.open, None),
            _ => (&self.shared.tenants, Some(RunningCall::begin(self.activity.clone()))),
        };
        let caller = if running.is_some() { self.caller(request.headers()) } else { Ok(None) };
        let permitted = caller.and_then(|caller| {
            let permit = limits.permits.try_acquire(caller, 1).ok_or_else(|| {
                overloaded("the node serves as many calls as it can, or as it can of one account: retry after the time given")
            })?;
            Ok((permit, limits.receiving.share(caller)))
        });
        let (permit, share) = match permitted {
            Ok(permitted) => permitted,
            Err(status) => {
                let response: Response<TonicBody> = status.into_http();
                return Box::pin(async {
                    Ok(response.map(|body| LimitedResponse { body, _open: (running, None) }))
                });
            }
        };
        let kind = if path == STREAMING_CALL { BodyKind::Messages } else { BodyKind::Message };
        let body_share = share.clone();
        let mut routes = self.shared.routes.clone();
        Box::pin(async move {
            let answer = routes.call(request.map(|body| LimitedBody::new(body, body_share, kind))).await;
            drop(share);
            answer.map(|response| {
                if let Some(running) = running.as_mut().filter(|_| lacks_key(&response)) {
                    running.counts = false;
                }
                response.map(|body| LimitedResponse { body, _open: (running, Some(permit)) })
            })
        })
    }
}

fn lacks_key(response: &Response<TonicBody>) -> bool {
    let code = response.headers().get("grpc-status");
    code.is_some_and(|code| Code::from_bytes(code.as_bytes()) == Code::Unauthenticated)
}

/// A tenant's call, from beginning to end.
struct RunningCall {
    activity: Arc<ConnectionActivity>,
    /// False if the call turns out to have no key: it does not keep its connection open.
    counts: bool,
}

impl RunningCall {
    fn begin(activity: Arc<ConnectionActivity>) -> Self {
        activity.running.fetch_add(1, Ordering::AcqRel);
        Self { activity, counts: true }
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        // In this order: an observer that sees no running call must see this one as served.
        self.activity.served.fetch_add(usize::from(self.counts), Ordering::AcqRel);
        self.activity.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The body of a response; its call holds its permit until the body is sent.
pub(super) struct LimitedResponse {
    body: TonicBody,
    _open: (Option<RunningCall>, Option<FairPermit<Caller>>),
}

impl Body for LimitedResponse {
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

//! Frame of a gRPC service that is written by hand, because its messages are raw bytes instead of generated structs.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, FutureExt};
use tonic::{
    Status,
    codegen::{Body, Service, StdError, http},
    server::NamedService,
};

/// Methods of a hand-written service.
pub(crate) trait RawMethods: Clone + Send + Sync + 'static {
    /// The service's full name.
    const NAME: &'static str;

    /// Answers a call of `method`; none if the service has no such method.
    fn answer<B>(self, method: &str, request: http::Request<B>) -> Option<Answer>
    where
        B: Body + Send + 'static,
        B::Error: Into<StdError> + Send + 'static;
}

/// A call that is being answered.
pub(crate) type Answer = BoxFuture<'static, http::Response<tonic::body::Body>>;

/// A hand-written service.
#[derive(Clone)]
pub(crate) struct RawService<M>(pub(crate) M);

impl<M: RawMethods> NamedService for RawService<M> {
    const NAME: &'static str = M::NAME;
}

impl<M, B> Service<http::Request<B>> for RawService<M>
where
    M: RawMethods,
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let uri = request.uri().clone();
        let method = uri.path().rsplit('/').next().unwrap_or_default();
        match self.0.clone().answer(method, request) {
            Some(answer) => answer.map(Ok).boxed(),
            None => {
                let status = Status::unimplemented("this service has no such method");
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    }
}

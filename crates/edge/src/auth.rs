//! Authentication and authorization of every call: the caller comes from the credential, never from the request.

use std::{
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use fanfare_control::{Control, Tenant};
use futures_util::future::Either;
use http::{Request, Response, header};
use tonic::Status;
use tower::{Layer, Service};

use crate::{
    listener::Identify,
    permission::{self, Access, Permission},
    problem::{Condition, Problem},
};

/// Caller of an authenticated call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    tenant: Tenant,
    role: Role,
}

/// Rights of a credential within its account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Everything in its own account: the role of every API key.
    AccountOwner,
}

impl Role {
    fn allows(self, permission: Permission) -> bool {
        match (self, permission) {
            (
                Self::AccountOwner,
                Permission::PublishEvents
                | Permission::ReadEvents
                | Permission::ReadCatalog
                | Permission::ChangeCatalog
                | Permission::ReadDeliveries,
            ) => true,
        }
    }
}

/// Lets calls through to a service only for callers that are permitted to make them.
#[derive(Clone)]
pub(crate) struct Gate {
    control: Control,
}

impl Gate {
    pub(crate) fn new(control: Control) -> Self {
        Self { control }
    }

    /// Tells the account whose key a call carries, before the call is let in.
    pub(crate) fn identify(self) -> Identify {
        Arc::new(move |headers| self.authenticate(headers).ok().map(|principal| principal.tenant.account()))
    }

    /// The caller; none if the call is for anybody.
    ///
    /// A method that the table does not list is refused to every caller, so that a service that is added without a row
    /// is closed, not open.
    fn admit(&self, path: &str, headers: &http::HeaderMap) -> Result<Option<Principal>, Status> {
        let access = permission::of_method(path);
        if access == Some(Access::Anybody) {
            return Ok(None);
        }
        let principal = self.authenticate(headers)?;
        match access {
            Some(Access::Requires(permission)) if principal.role.allows(permission) => Ok(Some(principal)),
            Some(_) => {
                let message = format!("the API key may not call {path}: ask the owner of the account");
                Err(Problem::new(Condition::PermissionDenied, message).into())
            }
            None => Err(Status::unimplemented("this service has no such method")),
        }
    }

    fn authenticate(&self, headers: &http::HeaderMap) -> Result<Principal, Problem> {
        let header = headers.get(header::AUTHORIZATION).ok_or_else(Problem::key_missing)?;
        let tenant = header.to_str().ok().and_then(bearer).and_then(|key| self.control.authenticate(key));
        let tenant = tenant.ok_or_else(|| {
            let message =
                "the API key is not valid here: check the key and the address, or ask for a new key";
            Problem::new(Condition::KeyInvalid, message)
        })?;
        Ok(Principal { tenant, role: Role::AccountOwner })
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, service: S) -> Gated<S> {
        Gated { service, gate: self.clone() }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub(crate) struct Gated<S> {
    service: S,
    gate: Gate,
}

impl<S, B, R> Service<Request<B>> for Gated<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<R>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.gate.admit(request.uri().path(), request.headers()) {
            Ok(principal) => {
                if let Some(principal) = principal {
                    request.extensions_mut().insert(principal);
                }
                Either::Left(self.service.call(request))
            }
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}

/// The tenant of a call that passed the gate.
///
/// # Errors
/// If the call did not pass the gate: a service that is wired without it lets nobody in.
pub(crate) fn tenant<T>(request: &tonic::Request<T>) -> Result<Tenant, Problem> {
    let principal = request.extensions().get::<Principal>();
    principal.map(|principal| principal.tenant).ok_or_else(Problem::key_missing)
}

/// The scheme's name is case-insensitive (RFC 9110, section 11.1).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, key) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bearer_scheme_carries_a_key() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("abc"), None);
        assert_eq!(bearer(""), None);
    }

    #[test]
    fn a_call_that_did_not_pass_the_gate_has_no_tenant() {
        let problem = tenant(&tonic::Request::new(())).unwrap_err();
        assert_eq!(Status::from(problem).code(), tonic::Code::Unauthenticated);
    }
}

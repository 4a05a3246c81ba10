//! Who calls: the tenant comes from the API key, never from the request.

use fanfare_catalog::{Catalog, Tenant};
use tonic::{Request, Status, service::Interceptor};

use crate::status::unauthenticated;

/// Puts the caller's [`Tenant`] into the request's extensions, or refuses the call.
#[derive(Clone)]
pub struct Authentication {
    catalog: Catalog,
}

/// The interceptor that every tenant's service is wrapped in.
#[must_use]
pub fn authenticate(catalog: Catalog) -> Authentication {
    Authentication { catalog }
}

impl Interceptor for Authentication {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let Some(header) = request.metadata().get("authorization") else {
            return Err(unauthenticated("KEY_MISSING", "no API key: send `authorization: Bearer KEY`"));
        };
        let tenant = header.to_str().ok().and_then(bearer).and_then(|key| self.catalog.authenticate(key));
        let tenant = tenant.ok_or_else(|| {
            let message =
                "the API key is not valid here: check the key and the address, or ask for a new key";
            unauthenticated("KEY_INVALID", message)
        })?;
        request.extensions_mut().insert(tenant);
        Ok(request)
    }
}

/// The scheme's name is case-insensitive (RFC 9110, section 11.1).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, key) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// The caller of an authenticated request.
///
/// # Errors
/// If the service was wired without [`authenticate`]: nobody is let in then.
pub(crate) fn tenant<T>(request: &Request<T>) -> Result<Tenant, Status> {
    let tenant = request.extensions().get::<Tenant>().copied();
    tenant.ok_or_else(|| unauthenticated("KEY_MISSING", "no API key: send `authorization: Bearer KEY`"))
}

#[cfg(test)]
mod tests {
    use super::bearer;

    #[test]
    fn only_a_bearer_key_is_a_key() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("abc"), None);
        assert_eq!(bearer(""), None);
    }
}

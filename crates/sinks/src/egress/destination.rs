//! Reads a destination's URL so that check, connection and signature see the same host.

use std::net::IpAddr;

use url::{Host, Url};

use super::EgressPolicy;

const URL_CHARS_MAX: usize = 2048;

/// The reason that a URL is no destination. The text says what to do.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum UrlError {
    #[error("is not a URL ({0}); write it as https://host/path")]
    Malformed(url::ParseError),
    #[error("contains {0}; percent-encode it or leave it out")]
    Character(&'static str),
    #[error("is longer than {URL_CHARS_MAX} characters; use a shorter URL")]
    TooLong,
    #[error("has the scheme {0:?}; use https")]
    Scheme(String),
    #[error("uses plain http, which this deployment does not allow; use https")]
    PlainHttp,
    #[error("has a fragment, which is never sent; remove it from '#' on")]
    Fragment,
    #[error("uses port {0}, which is not allowed; use 443 or one from 1024 up")]
    Port(u16),
    #[error("names an address that is not allowed; use a public host, or let the operator allow its network")]
    Address,
}

/// Parses `text` and checks everything that needs no name resolution. User info is left to the caller.
pub(crate) fn parse_url(text: &str, policy: &EgressPolicy) -> Result<Url, UrlError> {
    if text.len() > URL_CHARS_MAX {
        return Err(UrlError::TooLong);
    }
    // The URL standard drops some of these characters silently and reads '\' as '/'. Another parser could then see
    // another host than this check does.
    if text.chars().any(|symbol| symbol.is_control() || symbol.is_whitespace()) {
        return Err(UrlError::Character("white space or control characters"));
    }
    if text.contains('\\') {
        return Err(UrlError::Character("a backslash"));
    }
    let url = Url::parse(text).map_err(UrlError::Malformed)?;
    match url.scheme() {
        "https" => {}
        "http" if policy.allow_http => {}
        "http" => return Err(UrlError::PlainHttp),
        other => return Err(UrlError::Scheme(other.chars().take(32).collect())),
    }
    if url.fragment().is_some() {
        return Err(UrlError::Fragment);
    }
    let literal = match url.host().ok_or(UrlError::Malformed(url::ParseError::EmptyHost))? {
        Host::Domain(_) => None,
        Host::Ipv4(four) => Some(IpAddr::V4(four)),
        Host::Ipv6(six) => Some(IpAddr::V6(six)),
    };
    if literal.is_some_and(|address| !policy.allows(address)) {
        return Err(UrlError::Address);
    }
    match url.port_or_known_default() {
        Some(port) if !policy.allows_port(port) => Err(UrlError::Port(port)),
        _ => Ok(url),
    }
}

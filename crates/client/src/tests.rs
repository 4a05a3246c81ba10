//! Addresses and keys.

use super::*;

#[test]
fn addresses_are_http_with_a_host_or_refused() {
    for good in ["http://127.0.0.1:7070", "http://[::1]:7070/", "localhost:7070", "broker"] {
        assert!(endpoint(good).is_ok(), "{good} was refused");
    }
    for bad in ["", "https://h:1", "ftp://h", "http://", "http://a b", "/path"] {
        assert!(matches!(endpoint(bad), Err(ConnectError::Address { .. })), "{bad} was taken");
    }
}

#[test]
fn the_key_is_sent_as_a_bearer_and_never_printed() {
    let mut authorization = Authorization::new(Some("SKsecret")).unwrap();
    let request = authorization.call(Request::new(())).unwrap();
    assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer SKsecret");
    assert!(!format!("{authorization:?}").contains("SKsecret"));
    let request = Authorization::new(None).unwrap().call(Request::new(())).unwrap();
    assert!(request.metadata().get("authorization").is_none());
    assert!(matches!(Authorization::new(Some("line\nfeed")), Err(ConnectError::Key)));
}

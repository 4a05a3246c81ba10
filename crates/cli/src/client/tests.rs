use tokio::{io::AsyncReadExt, net::TcpListener};
use tokio_util::task::TaskTracker;

use super::*;
use crate::failure::{Exit, Failure};

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

#[tokio::test]
async fn a_node_that_is_not_there_is_unavailable_and_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let options = Options { addr: addr.clone(), key: None, timeout: Duration::from_secs(5) };
    let failure = Failure::from_connect(Client::connect(options).await.unwrap_err());
    assert_eq!(failure.exit(), Exit::Unavailable);
    let summary = failure.summary();
    assert!(summary.contains(&addr) && summary.contains("refused"), "{summary}");
}

#[tokio::test]
async fn a_connection_that_breaks_during_a_call_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = format!("http://{}", listener.local_addr().unwrap());
    TaskTracker::new().spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
    });
    let client =
        Client::connect(Options { addr, key: None, timeout: Duration::from_secs(30) }).await.unwrap();
    let status = client.publish(EventBuilder::new("t").build()).await.unwrap_err();
    let failure = Failure::from_status("publish t", &status);
    assert_eq!(failure.exit(), Exit::Unavailable, "{failure:?} of {status:?}");
    assert!(failure.summary().contains("the connection was lost"), "{failure:?}");
}

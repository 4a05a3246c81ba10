//! A request that is lost on a connection kept alive.

use super::*;

/// Answers the first `answered` requests of each connection with 200, reads one more, and closes. Returns the address and
/// the count of requests that were read.
async fn closing_after(
    answered: &'static [usize],
) -> (SocketAddr, watch::Receiver<usize>, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (read, requests) = watch::channel(0);
    let serving = TaskTracker::new().spawn(async move {
        for answered in answered {
            let (mut stream, _) = listener.accept().await.unwrap();
            for request in 0..=*answered {
                let mut bytes = Vec::new();
                while !bytes.ends_with(b"}") {
                    assert!(
                        stream.read_buf(&mut bytes).await.unwrap() > 0,
                        "the client ended the connection"
                    );
                }
                read.send_modify(|read| *read += 1);
                if request < *answered {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                }
            }
        }
    });
    (address, requests, AbortOnDropHandle::new(serving))
}

#[tokio::test]
async fn request_lost_on_a_reused_connection_is_repeated_once_on_a_new_one() {
    let (address, requests, _serving) = closing_after(&[1, 2, 0]).await;
    let sink = sink(&config(&format!("http://{address}/")));
    assert_eq!(attempt_one(&sink).await, Outcome::Delivered);
    assert_eq!(attempt_one(&sink).await, Outcome::Delivered, "lost, and taken by a new connection");
    assert_eq!(*requests.borrow(), 3);
    assert_eq!(attempt_one(&sink).await, Outcome::Delivered);
    // Lost twice: on the reused connection, and on the new one.
    let outcome = attempt_one(&sink).await;
    assert_eq!(why(&outcome).class, Failure::CONNECTION_LOST);
    assert_eq!(*requests.borrow(), 6, "one repeat");
}

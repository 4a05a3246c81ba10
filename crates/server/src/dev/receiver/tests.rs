use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use tokio::time::timeout;

use super::*;

const DEADLINE: Duration = Duration::from_secs(5);

struct Fixture {
    receiver: DevReceiver,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Fixture {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let receiver = DevReceiver::start(listener, &tasks, cancel.clone());
        Self { receiver, tasks, cancel }
    }

    fn set_mode(&self, mode: AnswerMode) {
        self.receiver.state.mode.send_replace(mode);
    }

    fn mode(&self) -> AnswerMode {
        *self.receiver.state.mode.borrow()
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> hyper::Result<Response<Incoming>> {
        let stream = TcpStream::connect(self.receiver.address()).await.unwrap();
        let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        self.tasks.spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "receiver");
        client.send_request(request.body(Full::new(body.into())).unwrap()).await
    }

    async fn status(&self, method: Method, path: &str, body: impl Into<Bytes>) -> u16 {
        self.send(method, path, body).await.unwrap().status().as_u16()
    }

    async fn post(&self, body: &str) -> u16 {
        self.status(Method::POST, "/webhook", body.to_owned()).await
    }

    async fn shown_mode(&self) -> String {
        let response = self.send(Method::GET, "/control", "").await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8_lossy(body.trim_ascii_end()).into_owned()
    }

    async fn next(&mut self) -> (String, u16, bool) {
        let received = timeout(DEADLINE, self.receiver.next()).await.unwrap().unwrap();
        assert_eq!(received.event_type, "t");
        (received.id, received.status, received.duplicate)
    }
}

fn event(id: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t","data":{{"id":[1]}}}}"#)
}

#[tokio::test]
async fn objects_and_arrays_are_told_event_by_event_and_repeats_are_marked() {
    let mut fixture = Fixture::start().await;
    assert_eq!(fixture.post(&event("1")).await, 200);
    assert_eq!(fixture.post(&format!(" [{},{}]", event("2"), event("1"))).await, 200);
    assert_eq!(fixture.post("[]").await, 200);
    for expected in [("1", 200, false), ("2", 200, false), ("1", 200, true)] {
        assert_eq!(fixture.next().await, (expected.0.to_owned(), expected.1, expected.2));
    }
}

#[tokio::test]
async fn a_retry_of_what_was_refused_is_no_duplicate() {
    let mut fixture = Fixture::start().await;
    fixture.set_mode(AnswerMode::Fail(StatusCode::BAD_GATEWAY));
    assert_eq!(fixture.post(&event("1")).await, 502);
    fixture.set_mode(AnswerMode::Ok);
    assert_eq!(fixture.post(&event("1")).await, 200);
    assert_eq!(fixture.next().await, ("1".to_owned(), 502, false));
    assert_eq!(fixture.next().await, ("1".to_owned(), 200, false));
}

#[tokio::test]
async fn the_mode_is_switched_and_shown_over_http() {
    let fixture = Fixture::start().await;
    assert_eq!(fixture.shown_mode().await, "ok");
    for (path, shown) in [
        ("/control/fail?status=429", "fail 429"),
        ("/control/fail", "fail 503"),
        ("/control/hang", "hang"),
        ("/control/ok", "ok"),
    ] {
        assert_eq!(fixture.status(Method::POST, path, "").await, 200, "{path}");
        assert_eq!(fixture.shown_mode().await, shown);
        assert_eq!(fixture.mode().to_string(), shown);
    }
    for (method, path, status) in [
        (Method::POST, "/control/fail?status=200", 400),
        (Method::POST, "/control/fail?status=600", 400),
        (Method::POST, "/control/fail?code=503", 400),
        (Method::GET, "/control/hang", 405),
        (Method::POST, "/control", 405),
        (Method::GET, "/webhook", 405),
        (Method::GET, "/", 404),
    ] {
        assert_eq!(fixture.status(method, path, "").await, status, "{path}");
    }
    assert_eq!(fixture.mode(), AnswerMode::Ok);
}

#[tokio::test]
async fn a_hung_request_is_answered_when_the_mode_changes() {
    let mut fixture = Fixture::start().await;
    fixture.set_mode(AnswerMode::Hang);
    let body = event("1");
    {
        let mut hung = std::pin::pin!(fixture.post(&body));
        // Another request's full round trip through the same server: the hung one is not answered meanwhile.
        tokio::select! {
            biased;
            status = &mut hung => panic!("answered with {status} while hanging"),
            mode = fixture.shown_mode() => assert_eq!(mode, "hang"),
        }
        fixture.set_mode(AnswerMode::Fail(StatusCode::GONE));
        assert_eq!(timeout(DEADLINE, hung).await.unwrap(), 410);
    }
    assert_eq!(fixture.next().await, ("1".to_owned(), 410, false));
}

#[tokio::test]
async fn cancelling_ends_hung_requests_and_everything_else() {
    let fixture = Fixture::start().await;
    fixture.set_mode(AnswerMode::Hang);
    let body = event("1");
    let mut hung = std::pin::pin!(fixture.send(Method::POST, "/webhook", body));
    tokio::select! {
        biased;
        _ = &mut hung => panic!("answered while hanging"),
        _ = fixture.shown_mode() => {}
    }
    fixture.cancel.cancel();
    assert!(timeout(DEADLINE, hung).await.unwrap().is_err());
    fixture.tasks.close();
    timeout(DEADLINE, fixture.tasks.wait()).await.unwrap();
    assert!(TcpStream::connect(fixture.receiver.address()).await.is_err());
}

#[tokio::test]
async fn what_is_not_an_event_is_refused_and_not_told() {
    let mut fixture = Fixture::start().await;
    for body in ["", "{", "1", "[1]", r#"{"id":"1"}"#, &format!("{}x", event("1"))] {
        assert_eq!(fixture.post(body).await, 400, "{body}");
    }
    assert_eq!(fixture.status(Method::POST, "/webhook", vec![b' '; (8 << 20) + 1]).await, 413);
    assert!(fixture.receiver.events.try_recv().is_err());
}

#[tokio::test]
async fn a_slow_observer_misses_events_and_delays_nobody() {
    let mut fixture = Fixture::start().await;
    let batch: Vec<String> = (0..OBSERVED_MAX + 10).map(|number| event(&number.to_string())).collect();
    assert_eq!(fixture.post(&format!("[{}]", batch.join(","))).await, 200);
    assert_eq!(fixture.shown_mode().await, "ok (not shown: 10 events)");
    assert_eq!(fixture.next().await.0, "0");
}

//! A webhook receiver that remembers the events it accepted, in order.

use std::sync::Arc;

use fanfare_testkit::{ReceivedRequest, answer_with};
use parking_lot::Mutex;

/// One event of one request.
#[derive(Clone, Debug)]
pub struct Delivered {
    pub id: String,
    pub subject: String,
    pub event: serde_json::Value,
}

#[derive(Default)]
struct Shared {
    delivered: Mutex<Vec<Delivered>>,
    /// The status to answer with; None for 200.
    failure: Mutex<Option<u16>>,
}

/// Answers 200, or the status of a failure, and remembers every event that it answered with 200.
pub struct Receiver {
    shared: Arc<Shared>,
    server: fanfare_testkit::Receiver,
}

impl Receiver {
    /// Listens on a free port of loopback until it is dropped.
    pub async fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let handler = shared.clone();
        let server =
            fanfare_testkit::Receiver::start(move |request| answer_with(handler.accept(request), ""));
        Self { server: server.await, shared }
    }

    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Answers this status instead of 200 from now on.
    pub fn fail_with(&self, status: u16) {
        *self.shared.failure.lock() = Some(status);
    }

    /// Answers 200 from now on.
    pub fn recover(&self) {
        *self.shared.failure.lock() = None;
    }

    /// Every event answered 200, in order of arrival, repeats included.
    #[must_use]
    pub fn delivered(&self) -> Vec<Delivered> {
        self.shared.delivered.lock().clone()
    }
}

impl Shared {
    fn accept(&self, request: &ReceivedRequest) -> u16 {
        if let Some(status) = *self.failure.lock() {
            return status;
        }
        let parsed: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let events = match parsed {
            serde_json::Value::Array(events) => events,
            event => vec![event],
        };
        let text =
            |event: &serde_json::Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
        self.delivered.lock().extend(events.into_iter().map(|event| Delivered {
            id: text(&event, "id"),
            subject: text(&event, "subject"),
            event,
        }));
        200
    }
}

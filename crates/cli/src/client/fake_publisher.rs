//! A publisher service in this process that keeps the order rules of the protocol and fails on request.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use fanfare_proto::{
    cloudevents::v1::{CloudEvent, cloud_event::cloud_event_attribute_value::Attr},
    v1::{
        self,
        publisher_service_server::{PublisherService, PublisherServiceServer},
    },
};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::task::TaskTracker;
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};

use super::{Client, Options};

/// As long as nothing more comes, what was received is answered.
const QUIET: Duration = Duration::from_millis(20);

#[derive(Clone, Debug, Default)]
pub(crate) struct FakePublisher {
    state: Arc<Mutex<State>>,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// Ids committed, by partition, in order.
    pub(crate) logs: BTreeMap<u32, Vec<String>>,
    /// Ids to refuse retryably, and how often.
    pub(crate) refuse: HashMap<String, u32>,
    /// Refuse the next new event retryably after so many attempts, again and again.
    pub(crate) refuse_every: Option<u32>,
    attempts: u32,
    /// Ids to refuse for good.
    pub(crate) poison: BTreeSet<String>,
    /// Cut the connection instead of answering this many requests; what they hold is committed.
    pub(crate) cuts: u32,
    /// Most events that were ever unanswered after the window was announced.
    pub(crate) unanswered_max: usize,
    pub(crate) window_events: u32,
    pub(crate) streams: u32,
}

impl FakePublisher {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) async fn serve(&self) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = format!("http://{}", listener.local_addr().unwrap());
        let server = Server::builder().add_service(PublisherServiceServer::new(self.clone()));
        self.tasks.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let options = Options { addr, key: None, timeout: Duration::from_secs(30) };
        Client::connect(options).await.unwrap()
    }
}

impl State {
    fn take(
        &mut self,
        request: &v1::PublishStreamRequest,
        held: &mut BTreeSet<u32>,
    ) -> v1::PublishStreamResponse {
        if request.resume {
            held.clear();
        }
        let results: Vec<_> = request.events.iter().map(|event| self.publish(event, held)).collect();
        let fresh = results.iter().all(|result| result.error.is_none() && !result.duplicate);
        let first = results.first().cloned().unwrap_or_default();
        let run = fresh && results.iter().all(|result| result.partition == first.partition);
        v1::PublishStreamResponse {
            sequence: request.sequence,
            partition: first.partition,
            first_offset: first.offset,
            count: u32::try_from(results.len()).unwrap(),
            results: if run { Vec::new() } else { results },
            window: None,
        }
    }

    fn publish(&mut self, event: &CloudEvent, held: &mut BTreeSet<u32>) -> v1::PublishResult {
        let partition = partition_of(event);
        let refused = |code: Code, reason: &str, retry_after_ms| v1::PublishResult {
            partition,
            error: Some(v1::PublishError {
                code: code as i32,
                reason: reason.to_owned(),
                retry_after_ms,
                ..v1::PublishError::default()
            }),
            ..v1::PublishResult::default()
        };
        if held.contains(&partition) {
            return refused(Code::Aborted, "ABORTED_BEHIND", None);
        }
        if self.poison.contains(&event.id) {
            return refused(Code::InvalidArgument, "SCHEMA_VIOLATION", None);
        }
        self.attempts += 1;
        if self.refuse_every.is_some_and(|every| self.attempts.is_multiple_of(every)) {
            held.insert(partition);
            return refused(Code::ResourceExhausted, "OVERLOADED", Some(1));
        }
        if let Some(left) = self.refuse.get_mut(&event.id).filter(|left| **left > 0) {
            *left -= 1;
            held.insert(partition);
            return refused(Code::ResourceExhausted, "OVERLOADED", Some(1));
        }
        let log = self.logs.entry(partition).or_default();
        let found = log.iter().position(|id| *id == event.id);
        let offset = found.unwrap_or(log.len()) as u64;
        if found.is_none() {
            log.push(event.id.clone());
        }
        v1::PublishResult { partition, offset, duplicate: found.is_some(), error: None }
    }
}

/// The partition key is the partition's number.
fn partition_of(event: &CloudEvent) -> u32 {
    match event.attributes.get("partitionkey").and_then(|value| value.attr.as_ref()) {
        Some(Attr::CeString(key)) => key.trim_start_matches("key-").parse().unwrap(),
        _ => 0,
    }
}

#[tonic::async_trait]
impl PublisherService for FakePublisher {
    type PublishStreamStream = ReceiverStream<Result<v1::PublishStreamResponse, Status>>;

    async fn publish(&self, _: Request<v1::PublishRequest>) -> Result<Response<v1::PublishResponse>, Status> {
        Err(Status::unimplemented("the fake has streams only"))
    }

    async fn publish_batch(
        &self,
        _: Request<v1::PublishBatchRequest>,
    ) -> Result<Response<v1::PublishBatchResponse>, Status> {
        Err(Status::unimplemented("the fake has streams only"))
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let (answers, responses) = mpsc::channel(1024);
        self.state().streams += 1;
        self.tasks.spawn(answer(self.clone(), request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

async fn answer(
    fake: FakePublisher,
    mut requests: Streaming<v1::PublishStreamRequest>,
    answers: mpsc::Sender<Result<v1::PublishStreamResponse, Status>>,
) {
    let (mut held, mut queue, mut announced) = (BTreeSet::new(), Vec::new(), false);
    loop {
        match timeout(QUIET, requests.message()).await {
            Ok(Ok(Some(request))) => {
                queue.push(request);
                let unanswered: usize = queue.iter().map(|request| request.events.len()).sum();
                let mut state = fake.state();
                state.unanswered_max = state.unanswered_max.max(unanswered);
                continue;
            }
            Ok(_) => return,
            Err(_) => {}
        }
        for request in queue.drain(..) {
            let response = {
                let mut state = fake.state();
                let mut response = state.take(&request, &mut held);
                if !std::mem::replace(&mut announced, true) {
                    response.window = Some(v1::PublishWindow { events: state.window_events, bytes: 1 << 20 });
                }
                if state.cuts > 0 {
                    state.cuts -= 1;
                    Err(Status::unavailable("the fake cut the stream"))
                } else {
                    Ok(response)
                }
            };
            let cut = response.is_err();
            if answers.send(response).await.is_err() || cut {
                return;
            }
        }
    }
}

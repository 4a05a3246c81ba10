//! A publisher service in this process that keeps the order rules of the protocol and fails on request.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use fanfare_client::{Client, Options};
use fanfare_proto::{
    cloudevents::v1::{CloudEvent, cloud_event::cloud_event_attribute_value::Attr},
    v1::{
        self,
        publisher_service_server::{PublisherService, PublisherServiceServer},
    },
};
use prost::Message;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::task::TaskTracker;
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};

/// As long as nothing more comes, what was received is answered.
const QUIET: Duration = Duration::from_millis(20);

/// The service; clones share their state.
#[derive(Clone, Debug, Default)]
pub struct FakePublisher {
    state: Arc<Mutex<FakePublisherState>>,
    /// Breaks all connections that there are.
    broken: Arc<Notify>,
    tasks: TaskTracker,
}

/// Committed events, and the faults to inject.
#[derive(Debug)]
pub struct FakePublisherState {
    /// Ids committed, by partition, in order.
    pub logs: BTreeMap<u32, Vec<String>>,
    /// Ids to refuse retryably, and how often.
    pub refuse: HashMap<String, u32>,
    /// The refusal of those ids.
    pub refusal: v1::PublishError,
    /// They are committed all the same: the refusal says that the outcome is unknown.
    pub refusal_commits: bool,
    /// Refuse the next new event retryably after so many attempts, again and again.
    pub refuse_every: Option<u32>,
    attempts: u32,
    /// Ids to refuse for good.
    pub poison: BTreeSet<String>,
    /// End the stream instead of answering this many requests; what they hold is committed.
    pub cuts: u32,
    pub cut_with: Status,
    /// Break the connection under the stream instead of answering this many requests; likewise.
    pub breaks: u32,
    /// Most events and bytes of events that were ever unanswered.
    pub unanswered_max: (usize, usize),
    pub request_events_max: usize,
    /// Requests that began again before all requests before them were answered.
    pub early_resumes: u32,
    pub window: v1::PublishWindow,
    pub streams: u32,
}

impl Default for FakePublisherState {
    fn default() -> Self {
        Self {
            logs: BTreeMap::new(),
            refuse: HashMap::new(),
            refusal: refusal(Code::ResourceExhausted, "OVERLOADED", Some(1)),
            refusal_commits: false,
            refuse_every: None,
            attempts: 0,
            poison: BTreeSet::new(),
            cuts: 0,
            cut_with: Status::unavailable("the fake cut the stream"),
            breaks: 0,
            unanswered_max: (0, 0),
            request_events_max: 0,
            early_resumes: 0,
            window: v1::PublishWindow { events: 0, bytes: 1 << 20 },
            streams: 0,
        }
    }
}

/// A refusal of one event, retryable if it says when.
#[must_use]
pub fn refusal(code: Code, reason: &str, retry_after_ms: Option<u64>) -> v1::PublishError {
    v1::PublishError {
        code: code as i32,
        reason: reason.to_owned(),
        retry_after_ms,
        ..v1::PublishError::default()
    }
}

impl FakePublisher {
    /// The state, to be set and looked at by a test.
    ///
    /// # Panics
    /// If a panic happened while the state was locked.
    pub fn state(&self) -> MutexGuard<'_, FakePublisherState> {
        self.state.lock().expect("the fake works")
    }

    /// A client of this publisher, connected through a proxy whose connections can be broken.
    ///
    /// # Panics
    /// If loopback cannot be served.
    pub async fn serve(&self) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the fake works");
        let wire = TcpListener::bind("127.0.0.1:0").await.expect("the fake works");
        let addr = format!("http://{}", wire.local_addr().expect("the fake works"));
        self.tasks.spawn(carry(
            wire,
            listener.local_addr().expect("the fake works"),
            self.broken.clone(),
            self.tasks.clone(),
        ));
        let server = Server::builder().add_service(PublisherServiceServer::new(self.clone()));
        self.tasks.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let options = Options { addr, key: None, timeout: Duration::from_secs(30) };
        Client::connect(options).await.expect("the fake works")
    }
}

impl FakePublisherState {
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
            count: u32::try_from(results.len()).expect("the fake works"),
            results: if run { Vec::new() } else { results },
            window: None,
        }
    }

    fn publish(&mut self, event: &CloudEvent, held: &mut BTreeSet<u32>) -> v1::PublishResult {
        let partition = partition_of(event);
        let refused =
            |error| v1::PublishResult { partition, error: Some(error), ..v1::PublishResult::default() };
        if held.contains(&partition) {
            return refused(refusal(Code::Aborted, "ABORTED_BEHIND", None));
        }
        if self.poison.contains(&event.id) {
            return refused(refusal(Code::InvalidArgument, "SCHEMA_VIOLATION", None));
        }
        self.attempts += 1;
        if self.refuse_every.is_some_and(|every| self.attempts.is_multiple_of(every)) {
            held.insert(partition);
            return refused(self.refusal.clone());
        }
        if let Some(left) = self.refuse.get_mut(&event.id).filter(|left| **left > 0) {
            *left -= 1;
            let error = self.refusal.clone();
            if error.retry_after_ms.is_some() {
                held.insert(partition);
            }
            if self.refusal_commits {
                self.commit(partition, &event.id);
            }
            return refused(error);
        }
        self.commit(partition, &event.id)
    }

    fn commit(&mut self, partition: u32, id: &str) -> v1::PublishResult {
        let log = self.logs.entry(partition).or_default();
        let found = log.iter().position(|known| known == id);
        let offset = found.unwrap_or(log.len()) as u64;
        if found.is_none() {
            log.push(id.to_owned());
        }
        v1::PublishResult { partition, offset, duplicate: found.is_some(), error: None }
    }
}

/// The partition key is the partition's number.
fn partition_of(event: &CloudEvent) -> u32 {
    match event.attributes.get("partitionkey").and_then(|value| value.attr.as_ref()) {
        Some(Attr::CeString(key)) => key.trim_start_matches("key-").parse().expect("the fake works"),
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
                let mut state = fake.state();
                state.early_resumes += u32::from(request.resume && !queue.is_empty());
                state.request_events_max = state.request_events_max.max(request.events.len());
                queue.push(request);
                let unanswered = queue.iter().flat_map(|request| &request.events);
                let (events, bytes) =
                    (unanswered.clone().count(), unanswered.map(Message::encoded_len).sum());
                state.unanswered_max =
                    (state.unanswered_max.0.max(events), state.unanswered_max.1.max(bytes));
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
                    response.window = Some(state.window);
                }
                if state.breaks > 0 {
                    state.breaks -= 1;
                    return fake.broken.notify_waiters();
                }
                if state.cuts > 0 {
                    state.cuts -= 1;
                    Err(state.cut_with.clone())
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

/// Carries bytes between clients and the server until the wire breaks.
async fn carry(wire: TcpListener, server: SocketAddr, broken: Arc<Notify>, tasks: TaskTracker) {
    while let Ok((mut client, _)) = wire.accept().await {
        let broken = broken.clone();
        tasks.spawn(async move {
            let mut server = TcpStream::connect(server).await.expect("the fake works");
            client.set_nodelay(true).expect("the fake works");
            server.set_nodelay(true).expect("the fake works");
            tokio::select! {
                // An end of either side is the other's to notice.
                _ = copy_bidirectional(&mut client, &mut server) => {}
                () = broken.notified() => {}
            }
        });
    }
}

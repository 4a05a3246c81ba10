//! One producer of a run: a publish stream of its own, kept filled (closed loop) or fed by the clock (open loop).
//!
//! In the open loop latency counts from when a request was due, not from when it could be sent, so a slow
//! node cannot hide its slowness by slowing the producer down.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fanfare_proto::v1;
use http::uri::PathAndQuery;
use tokio::{sync::mpsc, sync::watch, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, Streaming, client::Grpc};

use super::{
    event_pool::{Batch, BatchCodec, EventPool},
    latency::Latencies,
    ledger::DeliveryLedger,
    pacer::Timetable,
};
use fanfare_client::Client;

/// Most requests without an answer in the open loop, unless the node's window is smaller.
pub(super) const REQUESTS_IN_FLIGHT_MAX: usize = 4096;
const METHOD: &str = "/fanfare.v1.PublisherService/PublishStream";
/// Longest wait of a refused producer before its next request.
const REFUSED_DELAY_MAX: Duration = Duration::from_millis(100);

/// State shared by all producers of a run.
#[derive(Debug)]
pub(super) struct ProducerPlan {
    pub(super) pool: Arc<EventPool>,
    /// Events per request.
    pub(super) batch: u32,
    /// Requests of all producers together.
    pub(super) requests: u64,
    /// Requests one producer may have unanswered.
    pub(super) in_flight: usize,
    /// Answers before it warm up.
    pub(super) measure_from: Instant,
    /// Nothing is sent after it.
    pub(super) end: Instant,
    /// NextRequest request of the closed loop.
    pub(super) next_request: AtomicU64,
    /// Nothing is sent after it either.
    pub(super) stop: CancellationToken,
    /// Ledger of sent events, for runs that compare it with the events that arrive.
    pub(super) ledger: Option<Arc<DeliveryLedger>>,
}

/// Times at which a producer sends.
#[derive(Clone, Debug)]
pub(super) enum Schedule {
    /// As soon as fewer than the allowed requests are unanswered.
    Closed,
    /// At its due time; this producer sends every `step`th request from `next` on.
    Open { timetable: Timetable, due: watch::Receiver<u64>, next: u64, step: u64 },
}

/// Condition that a producer's next request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NextRequest {
    /// Its time.
    NotDue,
    /// An answer.
    NoRoom,
    /// There is none: the run is over.
    Nothing,
}

/// Figures of one producer.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) latencies: Latencies,
    /// Events committed while it was measured.
    pub(super) measured: u64,
    /// Events committed in all.
    pub(super) committed: u64,
    pub(super) duplicates: u64,
    /// Events that were due and not sent before the end.
    pub(super) unsent: u64,
    /// Events refused or lost, by reason.
    pub(super) errors: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            latencies: Latencies::new(),
            measured: 0,
            committed: 0,
            duplicates: 0,
            unsent: 0,
            errors: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.latencies.add(&other.latencies);
        self.measured += other.measured;
        self.committed += other.committed;
        self.duplicates += other.duplicates;
        self.unsent += other.unsent;
        for (reason, count) in other.errors {
            *self.errors.entry(reason).or_default() += count;
        }
    }

    fn fail(&mut self, reason: &str, events: u64) {
        *self.errors.entry(reason.to_owned()).or_default() += events;
    }
}

/// An open stream that has sent nothing.
#[derive(Debug)]
pub(super) struct Producer {
    requests: mpsc::Sender<Batch>,
    responses: Streaming<v1::PublishStreamResponse>,
    answer_timeout: Duration,
    in_flight: VecDeque<Sent>,
    /// Events the node lets this stream have unanswered; one request until it has said so.
    window_events: Option<u64>,
    next_sequence: u64,
    resume: bool,
    tally: Tally,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    request: u64,
    since: Instant,
}

impl Producer {
    pub(super) async fn open(client: &Client) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(REQUESTS_IN_FLIGHT_MAX);
        let mut grpc = Grpc::new(client.service());
        let connected = async {
            grpc.ready().await.map_err(|error| Status::unavailable(format!("connection lost: {error}")))?;
            let stream = Request::new(ReceiverStream::new(outgoing));
            grpc.streaming(stream, PathAndQuery::from_static(METHOD), BatchCodec).await
        };
        let responses = timeout(client.timeout(), connected)
            .await
            .map_err(|_| Status::deadline_exceeded("no answer when opening the stream"))??
            .into_inner();
        Ok(Self {
            requests,
            responses,
            answer_timeout: client.timeout(),
            in_flight: VecDeque::new(),
            window_events: None,
            next_sequence: 0,
            resume: false,
            tally: Tally::new(),
        })
    }

    /// Sends until the end of the run and waits for every answer.
    pub(super) async fn run(mut self, plan: Arc<ProducerPlan>, mut schedule: Schedule) -> Tally {
        loop {
            let next = self.fill(&plan, &mut schedule);
            let idle = self.in_flight.is_empty();
            if idle && next == NextRequest::Nothing {
                break;
            }
            let answered = match &mut schedule {
                Schedule::Open { due, .. } if next == NextRequest::NotDue => tokio::select! {
                    biased;
                    answer = answer(&mut self.responses, self.answer_timeout), if !idle => Some(answer),
                    // Cannot fail: the pacer goes only when everything is due.
                    _ = due.changed() => None,
                },
                _ => Some(answer(&mut self.responses, self.answer_timeout).await),
            };
            match answered {
                None => {}
                Some(Ok(response)) => self.accept(&plan, response).await,
                Some(Err(status)) => {
                    self.give_up(&plan, &status);
                    break;
                }
            }
        }
        self.count_unsent(&plan, &schedule);
        self.tally
    }

    /// Sends what may be sent; gives what the next request waits for.
    fn fill(&mut self, plan: &ProducerPlan, schedule: &mut Schedule) -> NextRequest {
        loop {
            let now = Instant::now();
            if now >= plan.end || plan.stop.is_cancelled() {
                return NextRequest::Nothing;
            }
            match schedule {
                Schedule::Closed => {
                    if !self.has_room(plan, plan.in_flight) {
                        return NextRequest::NoRoom;
                    }
                    let request = plan.next_request.fetch_add(1, Ordering::Relaxed);
                    if request >= plan.requests {
                        return NextRequest::Nothing;
                    }
                    self.send(plan, request, now);
                }
                Schedule::Open { timetable, due, next, step } => {
                    if *next >= plan.requests {
                        return NextRequest::Nothing;
                    }
                    if *next >= *due.borrow_and_update() {
                        return NextRequest::NotDue;
                    }
                    if !self.has_room(plan, REQUESTS_IN_FLIGHT_MAX) {
                        return NextRequest::NoRoom;
                    }
                    self.send(plan, *next, timetable.due_at(*next));
                    *next += *step;
                }
            }
        }
    }

    fn has_room(&self, plan: &ProducerPlan, requests: usize) -> bool {
        let window = self.window_events.unwrap_or(0);
        let events = (self.in_flight.len() as u64 + 1) * u64::from(plan.batch);
        self.in_flight.is_empty() || (self.in_flight.len() < requests && events <= window)
    }

    fn send(&mut self, plan: &ProducerPlan, request: u64, since: Instant) {
        let first = request * u64::from(plan.batch);
        let batch = Batch {
            pool: plan.pool.clone(),
            sequence: self.next_sequence,
            resume: std::mem::take(&mut self.resume),
            first,
            count: plan.batch,
        };
        self.next_sequence += 1;
        if let Some(ledger) = &plan.ledger {
            (first..first + u64::from(plan.batch)).for_each(|event| ledger.sent(event, since));
        }
        // Never full: it holds as many as may be in flight. Closed, the responses end and tell why.
        drop(self.requests.try_send(batch));
        self.in_flight.push_back(Sent { request, since });
    }

    async fn accept(&mut self, plan: &ProducerPlan, response: v1::PublishStreamResponse) {
        let now = Instant::now();
        if let Some(window) = response.window {
            self.window_events = Some(window.events.into());
        }
        self.window_events.get_or_insert_with(|| plan.batch.into());
        let Some(Sent { request, since }) = self.in_flight.pop_front() else { return };
        let first = request * u64::from(plan.batch);
        let mut committed = u64::from(plan.batch);
        let mut delay = None;
        for (event, result) in (first..).zip(&response.results) {
            self.tally.duplicates += u64::from(result.duplicate);
            let Some(error) = &result.error else { continue };
            committed -= 1;
            self.tally.fail(reason(error), 1);
            if let Some(ledger) = &plan.ledger {
                ledger.refused(event);
            }
            if error.retry_after_ms.is_some() || error.reason == "ABORTED_BEHIND" {
                self.resume = true;
                delay = delay.max(error.retry_after_ms.map(Duration::from_millis));
            }
        }
        self.tally.committed += committed;
        if since >= plan.measure_from {
            self.tally.latencies.record(now.saturating_duration_since(since), committed);
        }
        if now >= plan.measure_from && now <= plan.end {
            self.tally.measured += committed;
        }
        if let Some(delay) = delay {
            tokio::time::sleep(delay.min(REFUSED_DELAY_MAX)).await;
        }
    }

    fn give_up(&mut self, plan: &ProducerPlan, status: &Status) {
        let lost = self.in_flight.len() as u64 * u64::from(plan.batch);
        self.tally.fail(&format!("{:?}: {}", status.code(), status.message()), lost.max(1));
        for sent in self.in_flight.drain(..) {
            let first = sent.request * u64::from(plan.batch);
            if let Some(ledger) = &plan.ledger {
                (first..first + u64::from(plan.batch)).for_each(|event| ledger.refused(event));
            }
        }
    }

    fn count_unsent(&mut self, plan: &ProducerPlan, schedule: &Schedule) {
        if let Schedule::Open { due, next, step, .. } = schedule {
            let due = if plan.stop.is_cancelled() { *due.borrow() } else { plan.requests };
            let requests = due.saturating_sub(*next).div_ceil(*step);
            self.tally.unsent = requests * u64::from(plan.batch);
        }
    }
}

async fn answer(
    responses: &mut Streaming<v1::PublishStreamResponse>,
    limit: Duration,
) -> Result<v1::PublishStreamResponse, Status> {
    match timeout(limit, responses.message()).await {
        Ok(Ok(Some(response))) => Ok(response),
        Ok(Ok(None)) => Err(Status::unavailable("the node ended the stream")),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::deadline_exceeded("no answer on the stream")),
    }
}

fn reason(error: &v1::PublishError) -> &str {
    if error.reason.is_empty() { Code::from_i32(error.code).description() } else { &error.reason }
}

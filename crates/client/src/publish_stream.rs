//! Publishing along a stream: a bounded window, answers in order, and resending what a retry can cure.
//!
//! An event that was refused retryably, and every later one the server held back for it, is sent again
//! under the same identity and in the order of the first sending. Nothing new is sent meanwhile, so the
//! events of one partition are committed in the order they were given.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    time::Duration,
};

use fanfare_proto::{cloudevents::v1::CloudEvent, v1};
use prost::Message;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use crate::Client;

/// Upper bound of unanswered requests, whatever window the server announces.
const REQUESTS_IN_FLIGHT_MAX: usize = 1024;
/// Window assumed until the first answer announces the server's.
const FIRST_WINDOW: v1::PublishWindow = v1::PublishWindow { events: 100, bytes: 1 << 20 };
/// Upper bounds of one resent request, below the server's limits.
const RESEND_BYTES_MAX: u64 = 2 << 20;
const RESEND_EVENTS_MAX: u64 = 1_000;
/// Resending of an event ends this long after its first refusal; the last refusal is then final.
const RETRY_FOR: Duration = Duration::from_secs(30);
const RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(2);

/// A stream for publishing. Dropping the stream leaves the outcome of unacknowledged events unknown.
#[derive(Debug)]
pub struct PublishStream {
    client: Client,
    /// None after the connection broke, until the next request.
    connection: Option<Connection>,
    /// None until the first answer on this connection.
    window: Option<v1::PublishWindow>,
    in_flight: Inflight,
    /// Events refused retryably, by ordinal, which is the order of the first sending.
    retry_queue: BTreeMap<u64, PendingEvent>,
    resend_at: Instant,
    /// Time at which the oldest in-flight request became the oldest.
    oldest_sent_at: Instant,
    /// Consecutive resends that were refused again; sets the backoff.
    refusals: u32,
    acknowledged: VecDeque<Acknowledgement>,
    next_ordinal: u64,
    next_sequence: u64,
}

/// The final outcome of one event.
#[derive(Clone, Debug, PartialEq)]
pub struct Acknowledgement {
    /// The event's number on this stream: from 0, in the order given.
    pub ordinal: u64,
    pub outcome: Result<Stored, v1::PublishError>,
    /// From the first sending to the answer.
    pub elapsed: Duration,
}

/// Position of a stored event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub partition: u32,
    pub offset: u64,
    /// The event was committed here before.
    pub duplicate: bool,
}

#[derive(Debug)]
struct Connection {
    requests: mpsc::Sender<v1::PublishStreamRequest>,
    responses: Streaming<v1::PublishStreamResponse>,
}

/// Unanswered requests in the order of sending, with the sums of what they hold.
#[derive(Debug, Default)]
struct Inflight {
    requests: VecDeque<InflightRequest>,
    events: u64,
    bytes: u64,
}

#[derive(Debug)]
struct InflightRequest {
    sequence: u64,
    bytes: u64,
    events: Vec<PendingEvent>,
}

#[derive(Debug)]
struct PendingEvent {
    ordinal: u64,
    event: CloudEvent,
    sent: Instant,
    first_refused: Option<Instant>,
}

impl PublishStream {
    pub(crate) async fn open(client: Client) -> Result<Self, Status> {
        let connection = Connection::open(&client).await?;
        Ok(Self {
            client,
            connection: Some(connection),
            window: None,
            in_flight: Inflight::default(),
            retry_queue: BTreeMap::new(),
            resend_at: Instant::now(),
            oldest_sent_at: Instant::now(),
            refusals: 0,
            acknowledged: VecDeque::new(),
            next_ordinal: 0,
            next_sequence: 0,
        })
    }

    /// Sends events in one request as soon as the window has room, and gives their ordinals. They may
    /// be at most 10,000 and hold at most 4 MiB together. Not cancel safe. An error is final for the stream: no
    /// retry cures it, or none did for 30 s.
    pub async fn send(&mut self, events: Vec<CloudEvent>) -> Result<Range<u64>, Status> {
        let bytes = events.iter().map(size_bytes).sum();
        while !(self.retry_queue.is_empty()
            && self.connection.is_some()
            && self.has_room(events.len() as u64, bytes))
        {
            self.step().await?;
        }
        let first = self.next_ordinal;
        let now = Instant::now();
        let pending = (first..).zip(events);
        let pending: Vec<_> = pending
            .map(|(ordinal, event)| PendingEvent { ordinal, event, sent: now, first_refused: None })
            .collect();
        self.next_ordinal += pending.len() as u64;
        self.transmit(pending, bytes, false);
        Ok(first..self.next_ordinal)
    }

    /// The next acknowledgement, not always in order of ordinals; none when nothing is outstanding.
    /// Cancel safe. Errors as [`Self::send`].
    pub async fn next(&mut self) -> Result<Option<Acknowledgement>, Status> {
        loop {
            if let Some(acknowledgement) = self.acknowledged.pop_front() {
                return Ok(Some(acknowledgement));
            }
            if self.outstanding() == 0 {
                return Ok(None);
            }
            self.step().await?;
        }
    }

    /// The next acknowledgement that has arrived already. Acknowledgements wait in memory until they are polled, so a
    /// long stream polls while it sends.
    pub fn try_next(&mut self) -> Option<Acknowledgement> {
        self.acknowledged.pop_front()
    }

    /// Events that were sent and are not acknowledged.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.in_flight.events + self.retry_queue.len() as u64
    }

    fn has_room(&self, events: u64, bytes: u64) -> bool {
        if self.in_flight.requests.is_empty() {
            return true;
        }
        let Some(window) = self.window else { return false };
        self.in_flight.requests.len() < REQUESTS_IN_FLIGHT_MAX
            && self.in_flight.events + events <= u64::from(window.events)
            && self.in_flight.bytes + bytes <= window.bytes
    }

    /// Takes one answer, or sends again what is held once everything in flight is answered.
    async fn step(&mut self) -> Result<(), Status> {
        if self.in_flight.requests.is_empty() {
            sleep_until(self.resend_at).await;
            return self.resend().await;
        }
        let Some(connection) = &mut self.connection else {
            return self.disconnect(Status::unavailable("not connected"));
        };
        match timeout_at(self.oldest_sent_at + self.client.timeout(), connection.responses.message()).await {
            Ok(Ok(Some(response))) => self.accept(response),
            Ok(Ok(None)) => self.disconnect(Status::unavailable("the node ended the stream")),
            Ok(Err(status)) => self.disconnect(status),
            Err(_) => self.disconnect(Status::deadline_exceeded("no answer on the stream")),
        }
    }

    async fn resend(&mut self) -> Result<(), Status> {
        if self.connection.is_none() {
            match Connection::open(&self.client).await {
                Ok(connection) => self.connection = Some(connection),
                Err(status) => return self.disconnect(status),
            }
        }
        let window = self.window.unwrap_or(FIRST_WINDOW);
        let bytes_max = window.bytes.min(RESEND_BYTES_MAX);
        let events_max = u64::from(window.events).min(RESEND_EVENTS_MAX);
        let (mut events, mut bytes) = (Vec::new(), 0);
        while let Some(entry) = self.retry_queue.first_entry() {
            let size = size_bytes(&entry.get().event);
            if !events.is_empty() && (bytes + size > bytes_max || events.len() as u64 >= events_max) {
                break;
            }
            bytes += size;
            events.push(entry.remove());
        }
        if !events.is_empty() {
            self.transmit(events, bytes, true);
        }
        Ok(())
    }

    fn transmit(&mut self, events: Vec<PendingEvent>, bytes: u64, resume: bool) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let request = v1::PublishStreamRequest {
            sequence,
            resume,
            events: events.iter().map(|pending| pending.event.clone()).collect(),
        };
        if let Some(connection) = &self.connection {
            // The channel holds as many requests as may be in flight, so it is never full; a closed one
            // shows as the end of the responses.
            drop(connection.requests.try_send(request));
        }
        if self.in_flight.requests.is_empty() {
            self.oldest_sent_at = Instant::now();
        }
        self.in_flight.events += events.len() as u64;
        self.in_flight.bytes += bytes;
        self.in_flight.requests.push_back(InflightRequest { sequence, bytes, events });
    }

    fn accept(&mut self, response: v1::PublishStreamResponse) -> Result<(), Status> {
        if let Some(window) = response.window {
            self.window = Some(window);
        }
        self.window.get_or_insert(FIRST_WINDOW);
        self.oldest_sent_at = Instant::now();
        let request =
            self.in_flight.requests.pop_front().ok_or_else(|| protocol_error("an answer too many"))?;
        self.in_flight.events -= request.events.len() as u64;
        self.in_flight.bytes -= request.bytes;
        if request.sequence != response.sequence {
            return Err(protocol_error("an answer out of order"));
        }
        let count = if response.results.is_empty() {
            usize::try_from(response.count).unwrap_or(usize::MAX)
        } else {
            response.results.len()
        };
        if count != request.events.len() {
            return Err(protocol_error("an answer for another number of events"));
        }
        let run = (response.first_offset..).map(|offset| v1::PublishResult {
            partition: response.partition,
            offset,
            duplicate: false,
            error: None,
        });
        let results: Vec<_> =
            if response.results.is_empty() { run.take(count).collect() } else { response.results };
        let queued_before = self.retry_queue.len();
        for (pending, result) in request.events.into_iter().zip(results) {
            self.settle(pending, result);
        }
        if self.retry_queue.len() == queued_before && count > 0 {
            self.refusals = 0;
        }
        Ok(())
    }

    fn settle(&mut self, mut pending: PendingEvent, result: v1::PublishResult) {
        let now = Instant::now();
        let outcome = match result.error {
            None => {
                Ok(Stored { partition: result.partition, offset: result.offset, duplicate: result.duplicate })
            }
            Some(error) if is_retryable(&error) => {
                let since = *pending.first_refused.get_or_insert(now);
                if now - since < RETRY_FOR {
                    self.hold(pending, error.retry_after_ms.map(Duration::from_millis));
                    return;
                }
                Err(error)
            }
            Some(error) => Err(error),
        };
        self.acknowledged.push_back(Acknowledgement {
            ordinal: pending.ordinal,
            outcome,
            elapsed: now - pending.sent,
        });
    }

    fn hold(&mut self, pending: PendingEvent, retry_after: Option<Duration>) {
        if self.retry_queue.is_empty() {
            self.refusals += 1;
        }
        let delay = retry_after.unwrap_or_default().max(delay_after(self.refusals)).min(RETRY_FOR);
        self.resend_at = self.resend_at.max(Instant::now() + delay);
        self.retry_queue.insert(pending.ordinal, pending);
    }

    /// Drops the connection. The outcome of in-flight events is unknown, so they are sent again on the next connection,
    /// where the node recognizes committed ones by their identity.
    fn disconnect(&mut self, status: Status) -> Result<(), Status> {
        self.connection = None;
        self.window = None;
        let now = Instant::now();
        for request in std::mem::take(&mut self.in_flight).requests {
            for mut pending in request.events {
                pending.first_refused.get_or_insert(now);
                self.retry_queue.insert(pending.ordinal, pending);
            }
        }
        self.refusals += 1;
        let retry_after = retry_after(&status);
        let delay = retry_after.unwrap_or_default().min(RETRY_FOR).max(delay_after(self.refusals));
        self.resend_at = now + delay;
        let oldest = self.retry_queue.values().filter_map(|pending| pending.first_refused).min();
        let waited = oldest.map(|oldest| now - oldest).unwrap_or_default();
        let helps = retry_after.is_some() || reconnect_helps(status.code());
        if waited < RETRY_FOR && helps { Ok(()) } else { Err(status) }
    }
}

impl Connection {
    async fn open(client: &Client) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(REQUESTS_IN_FLIGHT_MAX);
        let mut publisher = client.publisher();
        let opening = publisher.publish_stream(ReceiverStream::new(outgoing));
        let responses = timeout(client.timeout(), opening)
            .await
            .map_err(|_| Status::deadline_exceeded("no answer when opening the stream"))??
            .into_inner();
        Ok(Self { requests, responses })
    }
}

fn size_bytes(event: &CloudEvent) -> u64 {
    event.encoded_len() as u64
}

fn delay_after(refusals: u32) -> Duration {
    RETRY_DELAY_MIN.saturating_mul(1 << refusals.saturating_sub(1).min(16)).min(RETRY_DELAY_MAX)
}

fn is_retryable(error: &v1::PublishError) -> bool {
    error.retry_after_ms.is_some() || error.reason == "ABORTED_BEHIND"
}

fn retry_after(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

fn reconnect_helps(code: Code) -> bool {
    // A cut connection shows as UNKNOWN or CANCELLED, depending on what noticed it first.
    matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded)
}

fn protocol_error(what: &str) -> Status {
    Status::internal(format!("the node broke the stream's protocol: {what}"))
}

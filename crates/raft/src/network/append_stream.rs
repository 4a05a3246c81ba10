//! The sending side of an append stream: several appends to one follower in flight, answered in order.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use futures_util::{
    Stream, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use openraft::{
    RPCTypes,
    errors::{NetworkError, RPCError},
    raft::{AppendEntriesRequest, StreamAppendResult},
};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{self, Instant},
};

use super::rpc_error;
use crate::{
    entry::Types,
    peer::{Answered, Peer, PeerError, TrafficClass},
    rpc::{self, SequenceId, StreamedAppend},
};

/// Appends in flight to one follower; the receiver counts on it.
pub(crate) const WINDOW_APPENDS_MAX: usize = 16;
/// No further append is begun while the window holds this much.
const WINDOW_BYTES_MAX: usize = 8 << 20;
/// A follower that takes appends and never answers keeps the leader's log from being purged, so the stream breaks when
/// its oldest append is this old. An answer waits for the follower's disk, so this is much longer than a heartbeat.
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);

/// An append that was sent and not answered.
struct InFlightAppend {
    answered: Answered,
    deadline: Instant,
    bytes: usize,
    _admitted: OwnedSemaphorePermit,
}

/// Sends what openraft hands it, without waiting for the answers, and yields these in order. Ends with the first error:
/// openraft begins a new stream then, from what the follower has.
pub(super) struct AppendStream<S> {
    peer: Peer,
    id: SequenceId,
    next_number: u64,
    /// None when it is exhausted, or when the stream has failed.
    input: Option<S>,
    sending: Option<BoxFuture<'static, Result<InFlightAppend, PeerError>>>,
    in_flight: VecDeque<InFlightAppend>,
    in_flight_bytes: usize,
}

type AppendAnswer = Result<StreamAppendResult<Types>, RPCError<Types>>;

/// The event that a stream waited for.
enum StreamStep {
    Answered(Result<Bytes, PeerError>),
    Sent(Result<InFlightAppend, PeerError>),
    Input(Option<AppendEntriesRequest<Types>>),
}

impl<S> AppendStream<S>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
{
    pub(super) fn new(peer: Peer, input: S) -> Self {
        let id = peer.requests.sequence();
        Self {
            peer,
            id,
            next_number: 0,
            input: Some(input),
            sending: None,
            in_flight: VecDeque::with_capacity(WINDOW_APPENDS_MAX),
            in_flight_bytes: 0,
        }
    }

    pub(super) fn answers<'s>(self) -> BoxStream<'s, AppendAnswer> {
        let answers = stream::unfold(self, |mut stream| async move {
            let answer = stream.next_answer().await?;
            Some((answer, stream))
        });
        Box::pin(answers)
    }

    async fn next_answer(&mut self) -> Option<AppendAnswer> {
        loop {
            match self.step().await? {
                StreamStep::Answered(Ok(body)) => return Some(self.answered(body)),
                StreamStep::Answered(Err(error)) | StreamStep::Sent(Err(error)) => {
                    return Some(self.fail(&error));
                }
                StreamStep::Sent(Ok(append)) => {
                    self.in_flight_bytes += append.bytes;
                    self.in_flight.push_back(append);
                }
                StreamStep::Input(Some(request)) => self.begin(request),
                StreamStep::Input(None) => self.input = None,
            }
        }
    }

    /// None when there is nothing left to wait for.
    async fn step(&mut self) -> Option<StreamStep> {
        let has_room = self.in_flight.len() < WINDOW_APPENDS_MAX && self.in_flight_bytes < WINDOW_BYTES_MAX;
        // One append at a time is on its way into the connection's queue, so their order is kept.
        let may_begin = has_room && self.sending.is_none();
        let Self { input, sending, in_flight, .. } = self;
        let input = input.as_mut().filter(|_| may_begin);
        if in_flight.is_empty() && sending.is_none() && input.is_none() {
            return None;
        }
        tokio::select! {
            // Answers first: they make room, and an answer that is there comes before a deadline that has passed.
            biased;
            Some(outcome) = answer_of(in_flight.front_mut()) => Some(StreamStep::Answered(outcome)),
            Some(sent) = optional(sending.as_mut()) => {
                *sending = None;
                Some(StreamStep::Sent(sent))
            }
            Some(request) = optional(input.map(StreamExt::next)) => Some(StreamStep::Input(request)),
        }
    }

    fn begin(&mut self, request: AppendEntriesRequest<Types>) {
        debug_assert!(self.sending.is_none(), "appends are sent one after another");
        let append = StreamedAppend { stream: self.id, number: self.next_number, request };
        self.next_number += 1;
        let body = rpc::encode_append(append);
        let (peer, bytes) = (self.peer.clone(), body.len());
        let deadline = Instant::now() + APPEND_TIMEOUT;
        let sent = async move {
            let admitted = peer.admit_append(bytes).await;
            let answered = peer.send(TrafficClass::Append, body).await?;
            Ok(InFlightAppend { answered, deadline, bytes, _admitted: admitted })
        };
        self.sending = Some(Box::pin(async move {
            time::timeout_at(deadline, sent).await.unwrap_or(Err(PeerError::Timeout))
        }));
    }

    /// The answer to the oldest append.
    fn answered(&mut self, body: Bytes) -> AppendAnswer {
        let append = self.in_flight.pop_front().expect("the oldest append was waited for");
        self.in_flight_bytes -= append.bytes;
        let result = rpc::decode_stream_appended(body);
        if !matches!(result, Ok(Ok(_))) {
            // The follower takes nothing more of this stream.
            self.end();
        }
        result.map_err(|malformed| NetworkError::new(&malformed).into())
    }

    fn fail(&mut self, error: &PeerError) -> AppendAnswer {
        self.end();
        Err(rpc_error(&self.peer, RPCTypes::AppendEntries, APPEND_TIMEOUT, error))
    }

    fn end(&mut self) {
        self.input = None;
        self.sending = None;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
    }
}

/// The answer to the oldest append, or its deadline. None if there is none.
async fn answer_of(oldest: Option<&mut InFlightAppend>) -> Option<Result<Bytes, PeerError>> {
    let oldest = oldest?;
    let answer = time::timeout_at(oldest.deadline, oldest.answered.outcome()).await;
    Some(answer.unwrap_or(Err(PeerError::Timeout)))
}

async fn optional<F: Future>(future: Option<F>) -> Option<F::Output> {
    Some(future?.await)
}

//! The receiving side of append streams: one task per sender feeds openraft and answers in order.

use std::{collections::VecDeque, time::Duration};

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use openraft::{
    errors::Fatal,
    raft::{AppendEntriesRequest, StreamAppendResult},
};
use tokio::{sync::mpsc, time};

use super::IncomingRequest;
use crate::{
    apply::Adapter,
    entry::Types,
    network::WINDOW_APPENDS_MAX,
    rpc::{self, Request, SequenceId, StreamedAppend},
};

/// A sender that is silent for so long has no stream any more. Its next append begins a task anew.
const IDLE: Duration = Duration::from_secs(60);

type EngineAnswer = Result<StreamAppendResult<Types>, Fatal<Types>>;

/// Takes the appends of one sender.
pub(super) struct AppendReceiver {
    raft: openraft::Raft<Types, Adapter>,
    queue: mpsc::Receiver<IncomingRequest>,
    current: Option<ReceivedStream>,
}

/// A stream as the receiver follows it.
struct ReceivedStream {
    id: SequenceId,
    next_number: u64,
    /// None after a gap, or when openraft has refused an append: nothing more of this stream is taken.
    requests: Option<mpsc::Sender<AppendEntriesRequest<Types>>>,
    answers: BoxStream<'static, EngineAnswer>,
    /// In the order in which openraft answers.
    unanswered: VecDeque<IncomingRequest>,
}

enum ReceiverStep {
    Answer(Option<EngineAnswer>),
    Request(IncomingRequest),
}

impl AppendReceiver {
    pub(super) fn new(raft: openraft::Raft<Types, Adapter>, queue: mpsc::Receiver<IncomingRequest>) -> Self {
        Self { raft, queue, current: None }
    }

    pub(super) async fn run(mut self) {
        while let Some(step) = self.step().await {
            match step {
                ReceiverStep::Request(request) => self.take(request).await,
                ReceiverStep::Answer(answer) => {
                    let stream = self.current.as_mut().expect("a stream was waited for");
                    stream.answer(answer).await;
                }
            }
        }
    }

    /// None when the sender is silent, or the replica was closed.
    async fn step(&mut self) -> Option<ReceiverStep> {
        let Self { queue, current, .. } = self;
        let waiting = current.as_mut().filter(|stream| !stream.unanswered.is_empty());
        let answer = async {
            match waiting {
                Some(stream) => stream.answers.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Answers first: a sender with a full window waits for them.
            biased;
            answer = answer => Some(ReceiverStep::Answer(answer)),
            request = time::timeout(IDLE, queue.recv()) => request.ok().flatten().map(ReceiverStep::Request),
        }
    }

    async fn take(&mut self, request: IncomingRequest) {
        let append = match Request::decode(rpc::joined(&request.message.body)) {
            Ok(Request::Append(append)) => append,
            Ok(_) => return request.refuse("it belongs to another traffic class").await,
            Err(malformed) => {
                let from = request.message.from;
                tracing::error!(%from, reason = malformed.0, "refused an append that arrived damaged");
                return request.refuse(malformed.0).await;
            }
        };
        let is_known = |stream: &ReceivedStream| !append.stream.replaces(stream.id);
        if !self.current.as_ref().is_some_and(is_known) {
            // The sender has given up all that is not answered of its former stream.
            self.current = Some(ReceivedStream::begin(&self.raft, append.stream));
        }
        let stream = self.current.as_mut().expect("it was begun above");
        stream.take(request, append).await;
    }
}

impl ReceivedStream {
    fn begin(raft: &openraft::Raft<Types, Adapter>, id: SequenceId) -> Self {
        let (requests, queue) = mpsc::channel(WINDOW_APPENDS_MAX);
        let queue = stream::unfold(queue, |mut queue: mpsc::Receiver<_>| async move {
            let request = queue.recv().await?;
            Some((request, queue))
        });
        let answers = Box::pin(raft.stream_append(Box::pin(queue)));
        Self { id, next_number: 0, requests: Some(requests), answers, unanswered: VecDeque::new() }
    }

    async fn take(&mut self, request: IncomingRequest, append: StreamedAppend) {
        let StreamedAppend { stream, number, request: entries } = append;
        if stream != self.id || number < self.next_number {
            // A repeat, or a rest of a stream that its sender has given up: the first of its kind was answered or will be.
            return;
        }
        let Some(requests) = &self.requests else { return request.refuse("its stream has ended").await };
        if number > self.next_number {
            // An append was lost on the way. openraft would call those behind it a conflict and look for the follower's
            // end anew; the sender learns sooner from this.
            self.requests = None;
            return request.refuse("an append before it is missing").await;
        }
        if self.unanswered.len() == WINDOW_APPENDS_MAX {
            self.requests = None;
            return request.refuse("its sender exceeds the window").await;
        }
        // At most a window is unanswered, and the queue has room for one.
        if requests.try_send(entries).is_err() {
            self.requests = None;
            return request.refuse("the group has stopped").await;
        }
        self.next_number += 1;
        self.unanswered.push_back(request);
    }

    async fn answer(&mut self, answer: Option<EngineAnswer>) {
        let request = self.unanswered.pop_front().expect("openraft answers what it was asked");
        let Some(Ok(result)) = answer else {
            self.requests = None;
            return request.refuse("the group has stopped").await;
        };
        if result.is_err() {
            // openraft answers nothing behind a conflict, and the sender waits for nothing.
            self.requests = None;
            self.unanswered.clear();
        }
        request.answer(rpc::encode_stream_appended(&result)).await;
    }
}

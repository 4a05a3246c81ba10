//! Requests of this host and the answers they wait for.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fanfare_environment::Environment;
use fanfare_log::Payload;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    time,
};

use crate::{
    id::{GroupId, ReplicaId},
    peer::{Message, MessageKind, PeerConnection, PeerError, TrafficClass},
    rpc::{self, SequenceId},
};

/// Appends to one peer that are queued or not answered yet, those of all groups together.
const PEER_APPEND_BYTES_MAX: u32 = 64 << 20;

/// All requests of a host that wait for an answer. Bounded by the requesters, each of which waits for a few.
#[derive(Clone)]
pub(crate) struct Requests {
    shared: Arc<RequestTable>,
}

struct RequestTable {
    session: u64,
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, WaitingRequest>>,
}

struct WaitingRequest {
    group: GroupId,
    to: ReplicaId,
    answer: oneshot::Sender<Result<Bytes, PeerError>>,
}

impl Requests {
    pub(crate) fn new(environment: &Environment) -> Self {
        let random = environment.random();
        // A random start: an answer to a request of this node's former life matches none of this one's. In the lower
        // half, so that numbers only grow.
        let next = AtomicU64::new(random.next_u64() >> 1);
        let shared = RequestTable { session: random.next_u64(), next, waiting: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn sequence(&self) -> SequenceId {
        SequenceId { session: self.shared.session, number: self.shared.next.fetch_add(1, Ordering::Relaxed) }
    }

    /// The waiting end is registered before the request is sent, so no answer comes too early.
    fn begin(&self, group: GroupId, to: ReplicaId) -> (u64, oneshot::Receiver<Result<Bytes, PeerError>>) {
        let correlation = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let former = self.shared.waiting.lock().insert(correlation, WaitingRequest { group, to, answer });
        assert!(former.is_none(), "correlation {correlation} waits for an answer already");
        (correlation, answered)
    }

    /// Hands an answer or refusal to the request that waits for it. A second answer, or one that came too late, is
    /// dropped.
    pub(crate) fn answer(&self, message: &Message) {
        let mut waiting = self.shared.waiting.lock();
        let Some(request) = waiting.get(&message.correlation) else { return };
        if request.group != message.group || request.to != message.from {
            tracing::warn!(
                group = %message.group, from = %message.from,
                "dropped an answer from a replica that was not asked"
            );
            return;
        }
        let Some(request) = waiting.remove(&message.correlation) else { return };
        drop(waiting);
        let body = rpc::joined(&message.body);
        let outcome = match message.kind {
            MessageKind::Answer => Ok(body),
            MessageKind::Refusal | MessageKind::Request => {
                Err(PeerError::Refused { reason: String::from_utf8_lossy(&body).into_owned() })
            }
        };
        // The requester may have given up in this moment.
        drop(request.answer.send(outcome));
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.shared.waiting.lock().len()
    }
}

/// Another replica of a group, as one of this host's replicas speaks to it.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) group: GroupId,
    pub(crate) from: ReplicaId,
    pub(crate) to: ReplicaId,
    pub(crate) requests: Requests,
    pub(crate) connection: Arc<dyn PeerConnection>,
    /// Shared by all groups that append to the same node.
    pub(crate) append_bytes: Arc<Semaphore>,
}

impl Peer {
    /// The budget that the appends of all groups to one peer share.
    pub(crate) fn append_budget() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(PEER_APPEND_BYTES_MAX as usize))
    }

    /// Waits until the bytes of an append fit into the peer's budget.
    pub(crate) async fn admit_append(&self, bytes: usize) -> OwnedSemaphorePermit {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(PEER_APPEND_BYTES_MAX);
        let admitted = self.append_bytes.clone().acquire_many_owned(bytes).await;
        admitted.expect("the budget of a peer is never closed")
    }

    /// Queues a request; the answer is to be waited for.
    pub(crate) async fn send(&self, class: TrafficClass, body: Payload) -> Result<Answered, PeerError> {
        let Self { group, from, to, requests, connection, .. } = self;
        // Taken before the request leaves, so no break after it goes unseen.
        let mut breaks = connection.breaks();
        breaks.borrow_and_update();
        let (correlation, answered) = requests.begin(*group, *to);
        // Removes the request from the table when it is dropped, also if it cannot be sent.
        let answered = Answered { requests: requests.clone(), correlation, answered, breaks };
        let (group, from, to) = (*group, *from, *to);
        let message = Message { group, from, to, kind: MessageKind::Request, correlation, body };
        connection.send(class, message).await?;
        Ok(answered)
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn call(
        &self,
        class: TrafficClass,
        body: Payload,
        timeout: Duration,
    ) -> Result<Bytes, PeerError> {
        let called = async { self.send(class, body).await?.outcome().await };
        time::timeout(timeout, called).await.unwrap_or(Err(PeerError::Timeout))
    }
}

/// The answer to one request, to come. Dropping it gives the request up.
pub(crate) struct Answered {
    requests: Requests,
    correlation: u64,
    answered: oneshot::Receiver<Result<Bytes, PeerError>>,
    breaks: watch::Receiver<u64>,
}

impl Answered {
    pub(crate) async fn outcome(&mut self) -> Result<Bytes, PeerError> {
        tokio::select! {
            // An answer that came before the break counts.
            biased;
            answer = &mut self.answered => answer.unwrap_or(Err(PeerError::Broken)),
            // A transport that is gone counts as broken, too.
            _ = self.breaks.changed() => Err(PeerError::Broken),
        }
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.requests.shared.waiting.lock().remove(&self.correlation);
    }
}

//! The receiving side of a host: what peers send reaches the group, or the request, that it is for.

mod append_receiver;
mod endpoint;
mod snapshot_receiver;

use std::{
    collections::{BTreeMap, btree_map},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fanfare_log::Payload;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};

pub(crate) use self::endpoint::{Endpoint, EndpointTasks};
use crate::{
    id::GroupId,
    peer::{Message, MessageKind, PeerConnection, Requests, TrafficClass},
};

/// Requests of peers that are queued or in work, those of all groups together.
const INCOMING_BYTES_MAX: u32 = 256 << 20;
/// Snapshots that a host receives at once. Each is in memory as a whole.
const INCOMING_TRANSFERS_MAX: usize = 2;
/// An answer that finds no room in the connection for so long is dropped; its requester has given up by then.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The open groups of one host, as a transport delivers to them. Cheap to clone.
#[derive(Clone)]
pub struct Inbox {
    shared: Arc<InboxState>,
}

struct InboxState {
    requests: Requests,
    groups: Mutex<BTreeMap<GroupId, Endpoint>>,
    bytes: Arc<Semaphore>,
    transfers: Arc<Semaphore>,
}

impl Inbox {
    pub(crate) fn new(requests: Requests) -> Self {
        let bytes = Arc::new(Semaphore::new(INCOMING_BYTES_MAX as usize));
        let transfers = Arc::new(Semaphore::new(INCOMING_TRANSFERS_MAX));
        Self { shared: Arc::new(InboxState { requests, groups: Mutex::default(), bytes, transfers }) }
    }

    /// Takes one message that a peer sent; answers go back over `connection`. Never waits: a request that finds no room
    /// is refused, so that no group holds up the messages of another.
    pub fn deliver(&self, connection: &Arc<dyn PeerConnection>, class: TrafficClass, message: Message) {
        if message.kind != MessageKind::Request {
            return self.shared.requests.answer(&message);
        }
        let (connection, bytes) = (connection.clone(), message.body.len());
        let incoming = IncomingRequest { connection, class, message, admitted: None };
        if let Err(refused) = self.accept(incoming, bytes) {
            refused.request.refuse_at_once(refused.reason);
        }
    }

    fn accept(&self, mut incoming: IncomingRequest, bytes: usize) -> Result<(), Refused> {
        let endpoint = self.shared.groups.lock().get(&incoming.message.group).cloned();
        let Some(endpoint) = endpoint else { return Err(incoming.refused("the group is not open here")) };
        if endpoint.replica != incoming.message.to {
            return Err(incoming.refused("it is for another replica"));
        }
        // Votes and heartbeats are small and must get through.
        if incoming.class != TrafficClass::Control {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            let Ok(admitted) = self.shared.bytes.clone().try_acquire_many_owned(bytes) else {
                return Err(incoming.refused("too many bytes of peers are waiting"));
            };
            incoming.admitted = Some(admitted);
        }
        endpoint.accept(incoming)
    }

    pub(crate) fn transfers(&self) -> &Arc<Semaphore> {
        &self.shared.transfers
    }

    /// Requests of this host that wait for an answer.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.shared.requests.waiting()
    }

    /// # Panics
    /// If the group is open already.
    pub(crate) fn register(&self, group: GroupId, endpoint: Endpoint) -> Registration {
        let mut groups = self.shared.groups.lock();
        let btree_map::Entry::Vacant(vacant) = groups.entry(group) else {
            panic!("group {group} is open on this host already");
        };
        vacant.insert(endpoint);
        drop(groups);
        Registration { inbox: self.clone(), group, removed: AtomicBool::new(false) }
    }
}

/// An open group's row in the table. Removed on drop.
pub(crate) struct Registration {
    inbox: Inbox,
    group: GroupId,
    removed: AtomicBool,
}

impl Registration {
    pub(crate) fn remove(&self) {
        // Only once: after a shutdown the row may already be that of the reopened group.
        if !self.removed.swap(true, Ordering::AcqRel) {
            self.inbox.shared.groups.lock().remove(&self.group);
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A request with the way back to its sender.
struct IncomingRequest {
    connection: Arc<dyn PeerConnection>,
    class: TrafficClass,
    message: Message,
    /// Its share of the host's budget, until it is answered.
    admitted: Option<OwnedSemaphorePermit>,
}

/// A request that is not taken, and the reason for its sender.
struct Refused {
    request: IncomingRequest,
    reason: &'static str,
}

/// The text of a refusal.
struct RefusalReason(&'static str);

impl IncomingRequest {
    fn refused(self, reason: &'static str) -> Refused {
        Refused { request: self, reason }
    }

    /// Refuses without waiting. A refusal that finds no room is dropped; the sender's deadline tells it.
    fn refuse_at_once(&self, reason: &'static str) {
        let sent = self.connection.send(self.class, self.reply(MessageKind::Refusal, reason.into()));
        drop(sent.now_or_never());
    }

    async fn refuse(self, reason: &'static str) {
        self.send(MessageKind::Refusal, reason.into()).await;
    }

    async fn answer(self, body: Bytes) {
        self.send(MessageKind::Answer, body).await;
    }

    async fn send(self, kind: MessageKind, body: Bytes) {
        let sent = self.connection.send(self.class, self.reply(kind, body));
        // A peer that is unreachable by now waits for no answer, and one that takes none has given up.
        drop(time::timeout(ANSWER_TIMEOUT, sent).await);
    }

    fn reply(&self, kind: MessageKind, body: Bytes) -> Message {
        let Message { group, from, to, correlation, .. } = self.message;
        Message { group, from: to, to: from, kind, correlation, body: Payload::new(vec![body]) }
    }
}

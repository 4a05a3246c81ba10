//! One open replica as the receiver of its peers' requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    IncomingRequest, RefusalReason, Refused, append_receiver::AppendReceiver,
    snapshot_receiver::SnapshotReceiver,
};
use crate::{
    apply::Adapter,
    entry::{Types, voters},
    id::ReplicaId,
    network::WINDOW_APPENDS_MAX,
    peer::TrafficClass,
    rpc::{self, Request},
};

/// Votes and heartbeats in work at once; each of the few peers has one or two under way.
const CONTROL_REQUESTS_MAX: usize = 32;
/// Replicas that a replica listens to at once: all that a membership has, with some that left.
const SENDERS_MAX: usize = 16;
/// A stream and its successor may overlap.
const APPEND_QUEUE_MAX: usize = 2 * WINDOW_APPENDS_MAX;
/// A chunk is answered before the next; the others are repeats.
const CHUNK_QUEUE_MAX: usize = 4;

type Receivers = BTreeMap<(ReplicaId, TrafficClass), mpsc::Sender<IncomingRequest>>;

#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) replica: ReplicaId,
    raft: openraft::Raft<Types, Adapter>,
    /// Until then no vote is granted: a leader may count on a lease that this replica granted before its restart and
    /// has forgotten since.
    silent_until: Option<Instant>,
    transfers: Arc<Semaphore>,
    control: Arc<Semaphore>,
    /// The tasks that take the appends and the snapshots of one sender each.
    receivers: Arc<Mutex<Receivers>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The tasks of a replica: where they run, and when they end.
pub(crate) struct EndpointTasks {
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Endpoint {
    pub(crate) fn new(
        replica: ReplicaId,
        raft: openraft::Raft<Types, Adapter>,
        silent_until: Option<Instant>,
        transfers: Arc<Semaphore>,
        EndpointTasks { tasks, stop }: EndpointTasks,
    ) -> Self {
        let control = Arc::new(Semaphore::new(CONTROL_REQUESTS_MAX));
        Self { replica, raft, silent_until, transfers, control, receivers: Arc::default(), tasks, stop }
    }

    /// Hands a request to the task that takes it. Never waits.
    pub(super) fn accept(&self, request: IncomingRequest) -> Result<(), Refused> {
        match request.class {
            TrafficClass::Control => self.accept_control(request),
            TrafficClass::Append | TrafficClass::Snapshot => self.accept_in_order(request),
        }
    }

    /// A vote waits for the disk, so each request has a task of its own.
    fn accept_control(&self, request: IncomingRequest) -> Result<(), Refused> {
        let Ok(permit) = self.control.clone().try_acquire_owned() else {
            return Err(request.refused("too many votes and heartbeats are in work"));
        };
        let (endpoint, stop) = (self.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let handled = async {
                match endpoint.handle_control(rpc::joined(&request.message.body)).await {
                    Ok(answer) => request.answer(answer).await,
                    Err(reason) => request.refuse(reason.0).await,
                }
            };
            stop.run_until_cancelled(handled).await;
            drop(permit);
        });
        Ok(())
    }

    async fn handle_control(&self, body: Bytes) -> Result<Bytes, RefusalReason> {
        let request = Request::decode(body).map_err(|malformed| RefusalReason(malformed.0))?;
        let answer = match request {
            Request::Heartbeat(heartbeat) => {
                self.raft.append_entries(heartbeat).await.map(|r| rpc::encode_appended(&r))
            }
            Request::Vote(_) | Request::PreVote(_) if self.owes_silence().await => {
                return Err(RefusalReason("it started less than a leader's lease ago"));
            }
            Request::Vote(vote) => self.raft.vote(vote).await.map(|r| rpc::encode_voted(&r)),
            Request::PreVote(vote) => self.raft.pre_vote(vote).await.map(|r| rpc::encode_voted(&r)),
            Request::TransferLeader(transfer) => {
                let transferred = self.raft.handle_transfer_leader(transfer).await;
                return transferred.map(|r| rpc::encode_transferred(&r)).map_err(|_| STOPPED);
            }
            Request::Append(_) | Request::SnapshotChunk(_) => {
                return Err(RefusalReason("it belongs to another traffic class"));
            }
        };
        answer.map_err(|_| STOPPED)
    }

    /// Appends and chunks of one sender go through one task each, in the order of their arrival.
    fn accept_in_order(&self, request: IncomingRequest) -> Result<(), Refused> {
        let sender = (request.message.from, request.class);
        let mut receivers = self.receivers.lock();
        receivers.retain(|_, queue| !queue.is_closed());
        if !receivers.contains_key(&sender) {
            if receivers.len() == SENDERS_MAX {
                return Err(request.refused("too many replicas send"));
            }
            receivers.insert(sender, self.start_receiver(request.class));
        }
        receivers[&sender].try_send(request).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(request) => request.refused("too many requests are waiting"),
            mpsc::error::TrySendError::Closed(request) => request.refused("its receiver has just ended"),
        })
    }

    fn start_receiver(&self, class: TrafficClass) -> mpsc::Sender<IncomingRequest> {
        let (raft, stop) = (self.raft.clone(), self.stop.clone());
        if class == TrafficClass::Snapshot {
            let (sender, queue) = mpsc::channel(CHUNK_QUEUE_MAX);
            let receiver = SnapshotReceiver::new(raft, queue, self.transfers.clone());
            self.tasks.spawn(async move { stop.run_until_cancelled(receiver.run()).await });
            return sender;
        }
        let (sender, queue) = mpsc::channel(APPEND_QUEUE_MAX);
        let receiver = AppendReceiver::new(raft, queue);
        self.tasks.spawn(async move { stop.run_until_cancelled(receiver.run()).await });
        sender
    }

    async fn owes_silence(&self) -> bool {
        if self.silent_until.is_none_or(|until| until <= Instant::now()) {
            return false;
        }
        // A sole voter has no peer whose lease it could break.
        let own = BTreeSet::from([self.replica.0]);
        let is_sole_voter = self
            .raft
            .with_raft_state(move |state| voters(state.membership_state.effective().membership()) == own);
        !is_sole_voter.await.unwrap_or(false)
    }
}

const STOPPED: RefusalReason = RefusalReason("the group has stopped");

//! openraft's network over a [`PeerTransport`]: one client per replica and lane.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_log::Payload;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};

use crate::codec::Malformed;
use crate::entry::{Broker, Snapshot, Types, Vote};
use crate::peer::{Lane, Message, PeerError, PeerTransport};
use crate::rpc;

/// An append that carries entries may wait for the follower's disk, so it has longer than a heartbeat; but
/// not for ever, because a follower that takes entries and never answers keeps the leader's log from being
/// purged.
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes clients for the other replicas of one group.
pub(crate) struct Network {
    pub(crate) transport: Arc<dyn PeerTransport>,
    pub(crate) group: Arc<str>,
    pub(crate) replica: u64,
}

impl Network {
    fn client(&self, to: u64, at: &Broker, lane: Lane) -> Client {
        let (transport, group, replica) = (self.transport.clone(), self.group.clone(), self.replica);
        Client { transport, group, replica, to, at: at.clone(), lane }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &Broker) -> Client {
        self.client(target, node, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Broker) -> Client {
        self.client(target, node, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Broker) -> Client {
        self.client(target, node, Lane::Snapshot)
    }
}

/// Speaks to one replica on one lane.
pub(crate) struct Client {
    transport: Arc<dyn PeerTransport>,
    group: Arc<str>,
    replica: u64,
    to: u64,
    at: Broker,
    lane: Lane,
}

impl Client {
    async fn call<T>(
        &self,
        action: RPCTypes,
        body: Payload,
        timeout: Duration,
        decode: impl FnOnce(Bytes) -> Result<T, Malformed>,
    ) -> Result<T, RPCError<Types>> {
        let lane = if matches!(action, RPCTypes::Vote | RPCTypes::TransferLeader) {
            Lane::Control
        } else {
            self.lane
        };
        let Broker { broker, address } = self.at.clone();
        let message =
            Message { group: self.group.clone(), to: self.to, broker, address, lane, body, timeout };
        // The transport promises to give up in time; a broken one must not hold the log back for ever.
        let answer = match tokio::time::timeout(timeout, self.transport.call(message)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error @ PeerError::Unreachable { .. })) => return Err(Unreachable::new(&error).into()),
            Ok(Err(error @ PeerError::Refused(_))) => return Err(NetworkError::new(&error).into()),
            Ok(Err(PeerError::Timeout { .. })) | Err(_) => {
                return Err(Timeout { action, id: self.replica, target: self.to, timeout }.into());
            }
        };
        decode(answer).map_err(|malformed| NetworkError::new(&malformed).into())
    }
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let timeout = if request.entries.is_empty() { option.hard_ttl() } else { APPEND_TIMEOUT };
        let body = rpc::encode_append(request);
        self.call(RPCTypes::AppendEntries, body, timeout, rpc::decode_appended).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let body = rpc::encode_vote(&request);
        self.call(RPCTypes::Vote, body, option.hard_ttl(), rpc::decode_voted).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let body = rpc::encode_pre_vote(&request);
        self.call(RPCTypes::Vote, body, option.hard_ttl(), rpc::decode_voted).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let body = rpc::encode_snapshot(&vote, snapshot);
        let sent = self.call(RPCTypes::InstallSnapshot, body, option.hard_ttl(), rpc::decode_installed);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = sent => answer.map_err(StreamingError::from),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let body = rpc::encode_transfer(&request);
        self.call(RPCTypes::TransferLeader, body, option.hard_ttl(), rpc::decode_transferred).await
    }
}

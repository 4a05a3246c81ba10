//! openraft's network over a [`PeerTransport`]: one client per replica and class.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use fanfare_log::Payload;
use openraft::{
    OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};

use crate::{
    codec::Malformed,
    entry::{NodeAddress, Snapshot, Types, Vote},
    id::ReplicaId,
    peer::{Message, PeerError, PeerTransport, TrafficClass},
    replica::Identity,
    rpc,
};

/// An append that carries entries may wait for the follower's disk, so it has longer than a heartbeat; but
/// not for ever, because a follower that takes entries and never answers keeps the leader's log from being
/// purged.
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes clients for the other replicas of one group.
pub(crate) struct Network {
    pub(crate) transport: Arc<dyn PeerTransport>,
    pub(crate) identity: Identity,
}

impl Network {
    fn client(&self, to: u64, at: &NodeAddress, class: TrafficClass) -> Client {
        let (transport, identity) = (self.transport.clone(), self.identity);
        Client { transport, identity, to: ReplicaId(to), at: at.clone(), class }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &NodeAddress) -> Client {
        self.client(target, node, TrafficClass::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &NodeAddress) -> Client {
        self.client(target, node, TrafficClass::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &NodeAddress) -> Client {
        self.client(target, node, TrafficClass::Snapshot)
    }
}

/// Speaks to one replica on one class.
pub(crate) struct Client {
    transport: Arc<dyn PeerTransport>,
    identity: Identity,
    to: ReplicaId,
    at: NodeAddress,
    class: TrafficClass,
}

impl Client {
    async fn call<T>(
        &self,
        action: RPCTypes,
        body: Payload,
        timeout: Duration,
        decode: impl FnOnce(Bytes) -> Result<T, Malformed>,
    ) -> Result<T, RPCError<Types>> {
        let class = if matches!(action, RPCTypes::Vote | RPCTypes::TransferLeader) {
            TrafficClass::Control
        } else {
            self.class
        };
        let NodeAddress { node, address } = self.at.clone();
        let Identity { group, replica } = self.identity;
        let message = Message { group, to: self.to, node, address, class, body, timeout };
        // The transport promises to give up in time; a broken one must not hold the log back for ever.
        let answer = match tokio::time::timeout(timeout, self.transport.call(message)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error @ PeerError::Unreachable { .. })) => return Err(Unreachable::new(&error).into()),
            Ok(Err(error @ PeerError::Refused(_))) => return Err(NetworkError::new(&error).into()),
            Ok(Err(PeerError::Timeout { .. })) | Err(_) => {
                return Err(Timeout { action, id: replica.0, target: self.to.0, timeout }.into());
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

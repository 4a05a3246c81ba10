//! openraft's network over the connections to peers: one client per replica and class.

mod append_stream;
mod snapshot_transfer;

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use fanfare_log::Payload;
use futures_util::{Stream, future::BoxFuture, stream::BoxStream};
use openraft::{
    OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{RPCOption, stream_append_sequential},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};

use self::{append_stream::AppendStream, snapshot_transfer::SnapshotTransfer};
pub(crate) use self::{append_stream::WINDOW_APPENDS_MAX, snapshot_transfer::SNAPSHOT_BYTES_MAX};
use crate::{
    codec::Malformed,
    entry::{NodeAddress, Snapshot, Types, Vote},
    id::{Identity, ReplicaId},
    peer::{Peer, PeerError, Peers, TrafficClass},
    rpc,
};

/// Makes clients for the other replicas of one group.
pub(crate) struct Network {
    pub(crate) peers: Arc<Peers>,
    pub(crate) identity: Identity,
}

impl Network {
    fn client(&self, to: u64, at: &NodeAddress, class: TrafficClass) -> Client {
        let peer = self.peers.peer(self.identity, ReplicaId(to), at);
        Client { peers: self.peers.clone(), peer, class, transfer: None }
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
    peers: Arc<Peers>,
    peer: Peer,
    class: TrafficClass,
    /// The transfer that was under way last, to be resumed if the same snapshot is sent again.
    transfer: Option<SnapshotTransfer>,
}

impl Client {
    /// A unary request of class Control: a vote, a heartbeat, a transfer of leadership.
    async fn call<T>(
        &self,
        action: RPCTypes,
        body: Payload,
        timeout: Duration,
        decode: impl FnOnce(Bytes) -> Result<T, Malformed>,
    ) -> Result<T, RPCError<Types>> {
        let answer = self.peer.call(TrafficClass::Control, body, timeout).await;
        let answer = answer.map_err(|error| rpc_error(&self.peer, action, timeout, &error))?;
        decode(answer).map_err(|malformed| NetworkError::new(&malformed).into())
    }
}

fn rpc_error(peer: &Peer, action: RPCTypes, timeout: Duration, error: &PeerError) -> RPCError<Types> {
    match error {
        PeerError::Unreachable { .. } => Unreachable::new(error).into(),
        PeerError::Broken | PeerError::Refused { .. } => NetworkError::new(error).into(),
        PeerError::Timeout => Timeout { action, id: peer.from.0, target: peer.to.0, timeout }.into(),
    }
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = Bytes;

    /// A heartbeat; entries go through [`Self::stream_append`].
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let body = rpc::encode_heartbeat(request);
        self.call(RPCTypes::AppendEntries, body, option.hard_ttl(), rpc::decode_appended).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        if self.class == TrafficClass::Control {
            // A heartbeat is a stream of one request to openraft. It must not wait behind appends, nor break them.
            return stream_append_sequential(self, input, option);
        }
        let appended = AppendStream::new(self.peer.clone(), input).answers();
        Box::pin(async move { Ok(appended) })
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
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let Self { peers, peer, transfer, .. } = self;
        let sent = async {
            let _slot = peers.outgoing_transfers.acquire().await;
            SnapshotTransfer::resume(transfer, peer, vote, snapshot).run(peer).await
        };
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = sent => answer.map_err(|error| {
                let timeout = snapshot_transfer::CHUNK_TIMEOUT;
                rpc_error(peer, RPCTypes::InstallSnapshot, timeout, &error).into()
            }),
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

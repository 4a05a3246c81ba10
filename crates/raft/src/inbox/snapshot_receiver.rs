//! The receiving side of snapshots: one task per sender collects chunks, and installs when the last is there.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time,
};

use super::{IncomingRequest, RefusalReason};
use crate::{
    apply::Adapter,
    entry::{Snapshot, Types, Vote},
    network::SNAPSHOT_BYTES_MAX,
    rpc::{self, Chunk, ChunkAnswer, Request, SequenceId, SnapshotHeader},
};

/// A transfer whose sender is silent for so long is dropped with what it holds.
const IDLE: Duration = Duration::from_secs(30);

/// Takes the snapshots of one sender.
pub(super) struct SnapshotReceiver {
    raft: openraft::Raft<Types, Adapter>,
    queue: mpsc::Receiver<IncomingRequest>,
    transfers: Arc<Semaphore>,
    current: Option<ReceivedSnapshot>,
    /// The last one that was installed, whose chunks may be repeated.
    installed: Option<(SequenceId, Vote)>,
}

/// A snapshot that is on its way. Nothing of it has an effect before it is complete.
struct ReceivedSnapshot {
    header: SnapshotHeader,
    data: BytesMut,
    _slot: OwnedSemaphorePermit,
}

impl SnapshotReceiver {
    pub(super) fn new(
        raft: openraft::Raft<Types, Adapter>,
        queue: mpsc::Receiver<IncomingRequest>,
        transfers: Arc<Semaphore>,
    ) -> Self {
        Self { raft, queue, transfers, current: None, installed: None }
    }

    pub(super) async fn run(mut self) {
        while let Ok(Some(request)) = time::timeout(IDLE, self.queue.recv()).await {
            let chunk = match Request::decode(rpc::joined(&request.message.body)) {
                Ok(Request::SnapshotChunk(chunk)) => chunk,
                Ok(_) => {
                    request.refuse("it belongs to another traffic class").await;
                    continue;
                }
                Err(malformed) => {
                    request.refuse(malformed.0).await;
                    continue;
                }
            };
            match self.take(chunk).await {
                Ok(answer) => request.answer(answer.encode()).await,
                Err(reason) => request.refuse(reason.0).await,
            }
        }
    }

    async fn take(&mut self, chunk: Chunk) -> Result<ChunkAnswer, RefusalReason> {
        let transfer = chunk.header.transfer;
        if let Some((installed, vote)) = self.installed
            && installed == transfer
        {
            return Ok(ChunkAnswer::Installed { vote });
        }
        match &self.current {
            Some(current) if current.header == chunk.header => (),
            Some(current) if !transfer.replaces(current.header.transfer) => {
                return Err(RefusalReason("its transfer was given up"));
            }
            Some(_) | None if chunk.offset > 0 => return Ok(ChunkAnswer::Restart),
            Some(_) | None => self.begin(chunk.header.clone())?,
        }
        let current = self.current.as_mut().expect("it was begun above");
        current.add(&chunk);
        let received = current.data.len() as u64;
        if received < chunk.header.total_bytes {
            return Ok(ChunkAnswer::Received { next: received });
        }
        self.install().await
    }

    fn begin(&mut self, header: SnapshotHeader) -> Result<(), RefusalReason> {
        if header.total_bytes > SNAPSHOT_BYTES_MAX {
            return Err(RefusalReason("the snapshot is too large"));
        }
        // The slot of the transfer that this one replaces comes back first.
        self.current = None;
        let slot = self.transfers.clone().try_acquire_owned();
        let slot = slot.map_err(|_| RefusalReason("too many snapshots are on their way to this node"))?;
        // Grows with what arrives: the total is a claim of the sender.
        self.current = Some(ReceivedSnapshot { header, data: BytesMut::new(), _slot: slot });
        Ok(())
    }

    async fn install(&mut self) -> Result<ChunkAnswer, RefusalReason> {
        let received = self.current.take().expect("a complete snapshot is to be installed");
        let ReceivedSnapshot { header, data, _slot } = received;
        assert_eq!(data.len() as u64, header.total_bytes, "a snapshot is installed whole");
        // Before the install, which throws the present state away.
        if crc32fast::hash(&data) != header.checksum {
            return Ok(ChunkAnswer::Restart);
        }
        let snapshot = Snapshot { meta: header.meta, snapshot: data.freeze() };
        let installed = self.raft.install_full_snapshot(header.vote, snapshot).await;
        let vote = installed.map_err(|_| RefusalReason("the group has stopped"))?.vote;
        // Durable by now. A repeat of the last chunk must not begin the transfer anew.
        self.installed = Some((header.transfer, vote));
        Ok(ChunkAnswer::Installed { vote })
    }
}

impl ReceivedSnapshot {
    /// Takes the chunk if it is sound and comes next. A repeat, or one behind a lost one, changes nothing: the answer
    /// tells the sender where to go on.
    fn add(&mut self, chunk: &Chunk) {
        let is_next = chunk.offset == self.data.len() as u64;
        if is_next && crc32fast::hash(&chunk.data) == chunk.checksum {
            self.data.extend_from_slice(&chunk.data);
        }
    }
}

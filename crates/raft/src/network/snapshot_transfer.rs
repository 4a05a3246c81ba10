//! The sending side of a snapshot: chunk by chunk, each answered before the next.

use std::time::Duration;

use bytes::Bytes;
use openraft::raft::SnapshotResponse;

use crate::{
    entry::{Snapshot, Types, Vote},
    peer::{Peer, PeerError, TrafficClass},
    rpc::{Chunk, ChunkAnswer, SnapshotHeader},
};

const CHUNK_BYTES_MAX: usize = 1 << 20;
/// A receiver holds a snapshot in memory as a whole until it is complete.
pub(crate) const SNAPSHOT_BYTES_MAX: u64 = 512 << 20;
pub(super) const CHUNK_TIMEOUT: Duration = Duration::from_secs(5);
/// The last chunk's answer waits until the snapshot is installed and durable.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Chunks in a row that may bring the transfer no further before it is given up. openraft begins it again.
const FRUITLESS_CHUNKS_MAX: u32 = 8;

/// A snapshot on its way to one replica.
pub(super) struct SnapshotTransfer {
    header: SnapshotHeader,
    data: Bytes,
    /// The receiver has everything below.
    acknowledged: u64,
}

impl SnapshotTransfer {
    /// The transfer of `snapshot`: the last one, if it is of the same bytes and was not completed, or a new one.
    pub(super) fn resume<'t>(
        last: &'t mut Option<Self>,
        peer: &Peer,
        vote: Vote,
        snapshot: Snapshot,
    ) -> &'t mut Self {
        let Snapshot { meta, snapshot: data } = snapshot;
        let (total_bytes, checksum) = (data.len() as u64, crc32fast::hash(&data));
        let same = last.take().filter(|last| {
            let header = &last.header;
            (header.total_bytes, header.checksum) == (total_bytes, checksum)
                && header.vote == vote
                && header.meta == meta
        });
        last.insert(same.unwrap_or_else(|| {
            let transfer = peer.requests.sequence();
            let header = SnapshotHeader { transfer, vote, meta, total_bytes, checksum };
            Self { header, data, acknowledged: 0 }
        }))
    }

    /// Sends until the receiver has installed the snapshot.
    pub(super) async fn run(&mut self, peer: &Peer) -> Result<SnapshotResponse<Types>, PeerError> {
        let total = self.header.total_bytes;
        if total > SNAPSHOT_BYTES_MAX {
            let reason = format!("snapshot of {total} bytes is larger than {SNAPSHOT_BYTES_MAX}");
            tracing::error!(group = %peer.group, to = %peer.to, reason, "failed to send snapshot; the replica stays behind");
            return Err(PeerError::Unreachable { reason });
        }
        let mut fruitless = 0;
        loop {
            let before = self.acknowledged;
            let error = match self.send_chunk(peer).await {
                Ok(ChunkAnswer::Installed { vote }) => return Ok(SnapshotResponse::new(vote)),
                Ok(ChunkAnswer::Received { next }) if next < total => {
                    // Also backwards: the receiver knows what it has.
                    self.acknowledged = next;
                    None
                }
                Ok(ChunkAnswer::Received { .. } | ChunkAnswer::Restart) => {
                    self.acknowledged = 0;
                    None
                }
                // The chunk or its answer was lost, and is sent again; the receiver takes either only once.
                Err(error @ (PeerError::Timeout | PeerError::Broken)) => Some(error),
                Err(error) => return Err(error),
            };
            fruitless = if self.acknowledged > before { 0 } else { fruitless + 1 };
            if fruitless == FRUITLESS_CHUNKS_MAX {
                return Err(error.unwrap_or(PeerError::Timeout));
            }
        }
    }

    async fn send_chunk(&self, peer: &Peer) -> Result<ChunkAnswer, PeerError> {
        let from = usize::try_from(self.acknowledged).expect("it is in memory");
        let end = self.data.len().min(from + CHUNK_BYTES_MAX);
        assert!(from < end || self.data.is_empty(), "a chunk carries data");
        let data = self.data.slice(from..end);
        let chunk = Chunk {
            header: self.header.clone(),
            offset: self.acknowledged,
            checksum: crc32fast::hash(&data),
            data,
        };
        let timeout = if end == self.data.len() { INSTALL_TIMEOUT } else { CHUNK_TIMEOUT };
        let answer = peer.call(TrafficClass::Snapshot, chunk.encode(), timeout).await?;
        ChunkAnswer::decode(answer).map_err(|malformed| PeerError::Refused { reason: malformed.to_string() })
    }
}

#[cfg(test)]
mod tests;

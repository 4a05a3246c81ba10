//! Snapshots in pieces: a chunk and the receiver's answer to it.

use bytes::{Buf, BufMut, Bytes};
use fanfare_log::Payload;

use super::{SNAPSHOT_CHUNK, SequenceId, VERSION, put_sequence, take_sequence};
use crate::{
    codec::{self, Malformed},
    entry::{SnapshotMeta, Vote, encoding},
};

/// The facts about a transferred snapshot that each of its chunks repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotHeader {
    pub(crate) transfer: SequenceId,
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    pub(crate) total_bytes: u64,
    /// CRC-32 of the whole.
    pub(crate) checksum: u32,
}

/// A piece of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) header: SnapshotHeader,
    pub(crate) offset: u64,
    /// CRC-32 of the data.
    pub(crate) checksum: u32,
    pub(crate) data: Bytes,
}

impl Chunk {
    pub(crate) fn encode(self) -> Payload {
        let Self { header, offset, checksum, data } = self;
        let mut out = vec![VERSION, SNAPSHOT_CHUNK];
        put_sequence(&mut out, header.transfer);
        encoding::put_vote(&mut out, &header.vote);
        encoding::put_log_id_option(&mut out, header.meta.last_log_id.as_ref());
        encoding::put_stored_membership(&mut out, &header.meta.last_membership);
        out.put_u64_le(header.total_bytes);
        out.put_u32_le(header.checksum);
        out.put_u64_le(offset);
        out.put_u32_le(checksum);
        Payload::new(vec![out.into(), data])
    }

    pub(super) fn take(from: &mut Bytes) -> Result<Self, Malformed> {
        let (transfer, vote) = (take_sequence(from)?, encoding::take_vote(from)?);
        let last_log_id = encoding::take_log_id_option(from)?;
        let last_membership = encoding::take_stored_membership(from)?;
        let meta = SnapshotMeta { last_log_id, last_membership };
        let (total_bytes, checksum) = (codec::take_u64(from)?, codec::take_u32(from)?);
        let header = SnapshotHeader { transfer, vote, meta, total_bytes, checksum };
        let (offset, checksum) = (codec::take_u64(from)?, codec::take_u32(from)?);
        let data = from.copy_to_bytes(from.remaining());
        match offset.checked_add(data.len() as u64) {
            Some(end) if end <= total_bytes => Ok(Self { header, offset, checksum, data }),
            Some(_) | None => Err(Malformed("chunk: it ends behind the snapshot")),
        }
    }
}

/// The receiver's answer to a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChunkAnswer {
    /// The receiver has the snapshot up to `next` and waits for the chunk from there.
    Received { next: u64 },
    /// The receiver has nothing of the transfer: it starts again from the first chunk.
    Restart,
    /// The whole is there and was handed to the group, whose vote this is.
    Installed { vote: Vote },
}

impl ChunkAnswer {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        match self {
            Self::Received { next } => {
                out.put_u8(0);
                out.put_u64_le(*next);
            }
            Self::Restart => out.put_u8(1),
            Self::Installed { vote } => {
                out.put_u8(2);
                encoding::put_vote(&mut out, vote);
            }
        }
        out.into()
    }

    pub(crate) fn decode(mut from: Bytes) -> Result<Self, Malformed> {
        codec::expect_version(&mut from, VERSION, "answer version")?;
        let answer = match codec::take_u8(&mut from)? {
            0 => Self::Received { next: codec::take_u64(&mut from)? },
            1 => Self::Restart,
            2 => Self::Installed { vote: encoding::take_vote(&mut from)? },
            _ => return Err(Malformed("answer kind")),
        };
        codec::finish(from, "answer")?;
        Ok(answer)
    }
}

//! The encoding of Raft messages between replicas: one version byte, one kind byte, then fields in order.
//!
//! An entry's payload travels as the parts it has in the log, and is a slice of the message on the other
//! side.

mod chunk;

use bytes::{BufMut, Bytes, BytesMut};
use fanfare_log::Payload;
use openraft::{
    entry::RaftEntry,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult,
        TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};

pub(crate) use self::chunk::{Chunk, ChunkAnswer, SnapshotHeader};
use crate::{
    codec::{self, Malformed},
    entry::{Entry, EntryPayload, Types, encoding},
    machine::{KIND_BLANK, KIND_MEMBERSHIP, Proposal},
};

const VERSION: u8 = 3;

const HEARTBEAT: u8 = 1;
const VOTE: u8 = 2;
const PRE_VOTE: u8 = 3;
const SNAPSHOT_CHUNK: u8 = 4;
const TRANSFER_LEADER: u8 = 5;
const APPEND: u8 = 6;

/// Names a run of requests that belong together: an append stream, a snapshot transfer. Never repeats, not even after a
/// restart of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SequenceId {
    /// Drawn at random when the host starts.
    pub(crate) session: u64,
    pub(crate) number: u64,
}

impl SequenceId {
    /// A later run of the same sender, as far as the receiver can tell: a restarted host begins a session of its own.
    pub(crate) fn replaces(self, other: Self) -> bool {
        self.session != other.session || self.number > other.number
    }
}

/// A message as the receiver sees it.
pub(crate) enum Request {
    /// An append without entries, outside of every stream.
    Heartbeat(AppendEntriesRequest<Types>),
    Append(StreamedAppend),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    SnapshotChunk(Chunk),
    TransferLeader(TransferLeaderRequest<Types>),
}

/// An append with its place in an append stream.
pub(crate) struct StreamedAppend {
    pub(crate) stream: SequenceId,
    /// 0 for the first append of the stream.
    pub(crate) number: u64,
    pub(crate) request: AppendEntriesRequest<Types>,
}

impl Request {
    pub(crate) fn decode(mut from: Bytes) -> Result<Self, Malformed> {
        codec::expect_version(&mut from, VERSION, "message version")?;
        let request = match codec::take_u8(&mut from)? {
            HEARTBEAT => Self::Heartbeat(take_heartbeat(&mut from)?),
            APPEND => {
                let (stream, number) = (take_sequence(&mut from)?, codec::take_u64(&mut from)?);
                Self::Append(StreamedAppend { stream, number, request: take_append(&mut from)? })
            }
            VOTE => Self::Vote(take_vote_request(&mut from)?),
            PRE_VOTE => Self::PreVote(take_vote_request(&mut from)?),
            SNAPSHOT_CHUNK => Self::SnapshotChunk(Chunk::take(&mut from)?),
            TRANSFER_LEADER => {
                let (vote, to) = (encoding::take_vote(&mut from)?, codec::take_u64(&mut from)?);
                let last = encoding::take_log_id_option(&mut from)?;
                Self::TransferLeader(TransferLeaderRequest::new(vote, to, last))
            }
            _ => return Err(Malformed("message kind")),
        };
        codec::finish(from, "message")?;
        Ok(request)
    }
}

pub(crate) fn encode_heartbeat(request: AppendEntriesRequest<Types>) -> Payload {
    assert!(request.entries.is_empty(), "entries go through an append stream");
    put_append(vec![VERSION, HEARTBEAT], request)
}

pub(crate) fn encode_append(append: StreamedAppend) -> Payload {
    let mut head = vec![VERSION, APPEND];
    put_sequence(&mut head, append.stream);
    head.put_u64_le(append.number);
    put_append(head, append.request)
}

fn put_append(mut head: Vec<u8>, request: AppendEntriesRequest<Types>) -> Payload {
    encoding::put_vote(&mut head, &request.vote);
    encoding::put_log_id_option(&mut head, request.prev_log_id.as_ref());
    encoding::put_log_id_option(&mut head, request.leader_commit.as_ref());
    head.put_u32_le(u32::try_from(request.entries.len()).expect("a message has few entries"));
    let mut parts = vec![Bytes::from(head)];
    for entry in request.entries {
        put_entry(&mut parts, entry);
    }
    Payload::new(parts)
}

fn put_entry(parts: &mut Vec<Bytes>, entry: Entry) {
    let mut head = Vec::with_capacity(64);
    encoding::put_log_id(&mut head, &entry.log_id());
    head.put_u64_le(entry.base_offset.expect("an entry is sent as the leader's log has it"));
    let frame = entry.into_new_frame();
    head.put_u8(frame.kind);
    head.put_u32_le(frame.count);
    head.put_u64_le(frame.time_ms);
    head.put_u32_le(u32::try_from(frame.payload.len()).expect("the log refuses payloads of 4 GiB"));
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&head);
    frame.payload.parts().iter().for_each(|part| checksum.update(part));
    head.put_u32_le(checksum.finalize());
    parts.push(head.into());
    parts.extend_from_slice(frame.payload.parts());
}

fn take_heartbeat(from: &mut Bytes) -> Result<AppendEntriesRequest<Types>, Malformed> {
    let request = take_append(from)?;
    if request.entries.is_empty() { Ok(request) } else { Err(Malformed("heartbeat: it has entries")) }
}

fn take_append(from: &mut Bytes) -> Result<AppendEntriesRequest<Types>, Malformed> {
    let vote = encoding::take_vote(from)?;
    let prev_log_id = encoding::take_log_id_option(from)?;
    let leader_commit = encoding::take_log_id_option(from)?;
    let entries = (0..codec::take_u32(from)?).map(|_| take_entry(from)).collect::<Result<Vec<_>, _>>()?;
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

fn take_entry(from: &mut Bytes) -> Result<Entry, Malformed> {
    let whole = from.clone();
    let log_id = encoding::take_log_id(from)?;
    let base_offset = codec::take_u64(from)?;
    let (kind, count, time_ms) = (codec::take_u8(from)?, codec::take_u32(from)?, codec::take_u64(from)?);
    let length = usize::try_from(codec::take_u32(from)?).map_err(|_| Malformed("payload length"))?;
    let head = whole.slice(..whole.len() - from.len());
    let sent = codec::take_u32(from)?;
    let body = codec::take_bytes(from, length)?;
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&head);
    checksum.update(&body);
    if checksum.finalize() != sent {
        return Err(Malformed("entry: its checksum differs from the sender's"));
    }
    let payload = match kind {
        KIND_BLANK => EntryPayload::Blank,
        KIND_MEMBERSHIP => EntryPayload::Membership(encoding::decode_membership(&body)?),
        kind => {
            EntryPayload::Application(Proposal { kind, count, time_ms, payload: Payload::new(vec![body]) })
        }
    };
    Ok(Entry::new(log_id, payload).at_offset(base_offset))
}

pub(crate) fn encode_vote(request: &VoteRequest<Types>) -> Payload {
    encode_ballot(VOTE, request)
}

pub(crate) fn encode_pre_vote(request: &VoteRequest<Types>) -> Payload {
    encode_ballot(PRE_VOTE, request)
}

fn encode_ballot(kind: u8, request: &VoteRequest<Types>) -> Payload {
    let mut out = vec![VERSION, kind];
    encoding::put_vote(&mut out, &request.vote);
    encoding::put_log_id_option(&mut out, request.last_log_id.as_ref());
    out.put_u8(u8::from(request.leadership_transfer));
    Payload::new(vec![out.into()])
}

fn take_vote_request(from: &mut Bytes) -> Result<VoteRequest<Types>, Malformed> {
    let mut request = VoteRequest::new(encoding::take_vote(from)?, encoding::take_log_id_option(from)?);
    request.leadership_transfer = codec::take_bool(from)?;
    Ok(request)
}

pub(crate) fn encode_transfer(request: &TransferLeaderRequest<Types>) -> Payload {
    let mut out = vec![VERSION, TRANSFER_LEADER];
    encoding::put_vote(&mut out, request.from_leader());
    out.put_u64_le(*request.to_node_id());
    encoding::put_log_id_option(&mut out, request.last_log_id());
    Payload::new(vec![out.into()])
}

pub(crate) fn encode_appended(response: &AppendEntriesResponse<Types>) -> Bytes {
    let mut out = vec![VERSION];
    match response {
        AppendEntriesResponse::Success => out.put_u8(0),
        AppendEntriesResponse::PartialSuccess(upto) => {
            out.put_u8(1);
            encoding::put_log_id_option(&mut out, upto.as_ref());
        }
        AppendEntriesResponse::Conflict => out.put_u8(2),
        AppendEntriesResponse::HigherVote(vote) => {
            out.put_u8(3);
            encoding::put_vote(&mut out, vote);
        }
    }
    out.into()
}

pub(crate) fn decode_appended(mut from: Bytes) -> Result<AppendEntriesResponse<Types>, Malformed> {
    codec::expect_version(&mut from, VERSION, "answer version")?;
    let response = match codec::take_u8(&mut from)? {
        0 => AppendEntriesResponse::Success,
        1 => AppendEntriesResponse::PartialSuccess(encoding::take_log_id_option(&mut from)?),
        2 => AppendEntriesResponse::Conflict,
        3 => AppendEntriesResponse::HigherVote(encoding::take_vote(&mut from)?),
        _ => return Err(Malformed("answer kind")),
    };
    codec::finish(from, "answer")?;
    Ok(response)
}

/// The answer to one append of a stream.
pub(crate) fn encode_stream_appended(result: &StreamAppendResult<Types>) -> Bytes {
    let mut out = vec![VERSION];
    match result {
        Ok(matching) => {
            out.put_u8(0);
            encoding::put_log_id_option(&mut out, matching.as_ref());
        }
        Err(StreamAppendError::Conflict(at)) => {
            out.put_u8(1);
            encoding::put_log_id(&mut out, at);
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            out.put_u8(2);
            encoding::put_vote(&mut out, vote);
        }
    }
    out.into()
}

pub(crate) fn decode_stream_appended(mut from: Bytes) -> Result<StreamAppendResult<Types>, Malformed> {
    codec::expect_version(&mut from, VERSION, "answer version")?;
    let result = match codec::take_u8(&mut from)? {
        0 => Ok(encoding::take_log_id_option(&mut from)?),
        1 => Err(StreamAppendError::Conflict(encoding::take_log_id(&mut from)?)),
        2 => Err(StreamAppendError::HigherVote(encoding::take_vote(&mut from)?)),
        _ => return Err(Malformed("answer kind")),
    };
    codec::finish(from, "answer")?;
    Ok(result)
}

fn put_sequence(out: &mut Vec<u8>, sequence: SequenceId) {
    out.put_u64_le(sequence.session);
    out.put_u64_le(sequence.number);
}

fn take_sequence(from: &mut Bytes) -> Result<SequenceId, Malformed> {
    Ok(SequenceId { session: codec::take_u64(from)?, number: codec::take_u64(from)? })
}

pub(crate) fn encode_voted(response: &VoteResponse<Types>) -> Bytes {
    let mut out = vec![VERSION];
    encoding::put_vote(&mut out, &response.vote);
    out.put_u8(u8::from(response.vote_granted));
    encoding::put_log_id_option(&mut out, response.last_log_id.as_ref());
    out.into()
}

pub(crate) fn decode_voted(mut from: Bytes) -> Result<VoteResponse<Types>, Malformed> {
    codec::expect_version(&mut from, VERSION, "answer version")?;
    let vote = encoding::take_vote(&mut from)?;
    let granted = codec::take_bool(&mut from)?;
    let last_log_id = encoding::take_log_id_option(&mut from)?;
    codec::finish(from, "answer")?;
    Ok(VoteResponse::new(vote, last_log_id, granted))
}

pub(crate) fn encode_transferred(response: &TransferLeaderResponse<Types>) -> Bytes {
    let mut out = vec![VERSION];
    match response {
        Ok(()) => out.put_u8(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            out.put_u8(1);
            encoding::put_vote(&mut out, expected);
            encoding::put_vote(&mut out, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            out.put_u8(2);
            encoding::put_log_id_option(&mut out, expected.as_ref());
            encoding::put_log_id_option(&mut out, actual.as_ref());
        }
    }
    out.into()
}

pub(crate) fn decode_transferred(mut from: Bytes) -> Result<TransferLeaderResponse<Types>, Malformed> {
    codec::expect_version(&mut from, VERSION, "answer version")?;
    let response = match codec::take_u8(&mut from)? {
        0 => Ok(()),
        1 => Err(TransferLeaderError::VoteChanged {
            expected: encoding::take_vote(&mut from)?,
            actual: encoding::take_vote(&mut from)?,
        }),
        2 => Err(TransferLeaderError::LogNotFlushed {
            expected: encoding::take_log_id_option(&mut from)?,
            actual: encoding::take_log_id_option(&mut from)?,
        }),
        _ => return Err(Malformed("answer kind")),
    };
    codec::finish(from, "answer")?;
    Ok(response)
}

/// The message in one piece, as it is on a wire.
pub(crate) fn joined(body: &Payload) -> Bytes {
    if let [whole] = body.parts() {
        return whole.clone();
    }
    let mut whole = BytesMut::with_capacity(body.len());
    body.parts().iter().for_each(|part| whole.extend_from_slice(part));
    whole.freeze()
}

#[cfg(test)]
mod tests;

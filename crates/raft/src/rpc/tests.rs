use super::*;
use crate::entry::{LeaderId, LogId, SnapshotMeta, Vote};

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: 3 }, index }
}

fn vote() -> Vote {
    Vote { leader_id: LeaderId { term: 5, node_id: 3 }, committed: true }
}

fn decoded(body: &Payload) -> Request {
    Request::decode(joined(body)).map_err(|e| e.to_string()).unwrap_or_else(|e| panic!("{e}"))
}

const STREAM: SequenceId = SequenceId { session: 7, number: 8 };

fn streamed(request: AppendEntriesRequest<Types>) -> Payload {
    encode_append(StreamedAppend { stream: STREAM, number: 3, request })
}

fn append() -> AppendEntriesRequest<Types> {
    let payload = Payload::new(vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")]);
    let proposal = Proposal { kind: 7, count: 2, time_ms: 1234, payload };
    AppendEntriesRequest {
        vote: vote(),
        prev_log_id: Some(log_id(4, 8)),
        entries: vec![
            Entry::new(log_id(5, 9), EntryPayload::Blank).at_offset(70),
            Entry::new(log_id(5, 10), EntryPayload::Application(proposal)).at_offset(70),
        ],
        leader_commit: Some(log_id(4, 7)),
    }
}

#[test]
fn an_append_arrives_as_it_was_sent() {
    let Request::Append(streamed) = decoded(&streamed(append())) else { panic!("not an append") };
    assert_eq!((streamed.stream, streamed.number), (STREAM, 3));
    let received = streamed.request;
    let sent = append();
    assert_eq!(
        (received.vote, received.prev_log_id, received.leader_commit),
        (sent.vote, sent.prev_log_id, sent.leader_commit)
    );
    assert_eq!(received.entries.len(), 2);
    assert!(matches!(received.entries[0].payload, EntryPayload::Blank));
    assert_eq!((received.entries[1].log_id(), received.entries[1].base_offset), (log_id(5, 10), Some(70)));
    let EntryPayload::Application(proposal) = &received.entries[1].payload else { panic!("not a proposal") };
    assert_eq!((proposal.kind, proposal.count, proposal.time_ms), (7, 2, 1234));
    assert_eq!(proposal.payload, Payload::new(vec![Bytes::from_static(b"onetwo")]));
}

#[test]
fn a_message_shares_the_payload_with_the_log() {
    let entry = append().entries.pop().unwrap();
    let EntryPayload::Application(proposal) = &entry.payload else { panic!("not a proposal") };
    let part = proposal.payload.parts()[0].as_ptr();
    let body = streamed(AppendEntriesRequest { entries: vec![entry], ..append() });
    assert!(body.parts().iter().any(|sent| sent.as_ptr() == part));
}

#[test]
fn a_cut_or_longer_append_is_refused() {
    let bytes = joined(&streamed(append()));
    for end in 0..bytes.len() {
        assert!(Request::decode(bytes.slice(..end)).is_err(), "cut at {end}");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(Request::decode(longer.into()).is_err());
}

#[test]
fn a_flipped_bit_of_an_entry_is_refused() {
    let whole = joined(&streamed(append()));
    let without = joined(&streamed(AppendEntriesRequest { entries: Vec::new(), ..append() }));
    for at in without.len()..whole.len() {
        for bit in 0..8 {
            let mut flipped = whole.to_vec();
            flipped[at] ^= 1 << bit;
            assert!(Request::decode(flipped.into()).is_err(), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn a_heartbeat_with_entries_is_refused() {
    let heartbeat = AppendEntriesRequest { entries: Vec::new(), ..append() };
    let bytes = joined(&encode_heartbeat(heartbeat));
    let Ok(Request::Heartbeat(received)) = Request::decode(bytes.clone()) else { panic!("not a heartbeat") };
    assert_eq!(received.prev_log_id, append().prev_log_id);
    let with_entries = joined(&put_append(vec![VERSION, HEARTBEAT], append()));
    assert!(with_entries.len() > bytes.len());
    assert!(Request::decode(with_entries).is_err());
}

#[test]
fn a_chunk_arrives_as_it_was_sent_and_never_ends_behind_its_snapshot() {
    let meta = SnapshotMeta { last_log_id: Some(log_id(4, 8)), last_membership: Default::default() };
    let header = SnapshotHeader { transfer: STREAM, vote: vote(), meta, total_bytes: 9, checksum: 10 };
    let data = Bytes::from_static(b"chunk");
    let chunk = Chunk { header, offset: 4, checksum: 11, data };
    let Request::SnapshotChunk(received) = decoded(&chunk.clone().encode()) else { panic!("not a chunk") };
    assert_eq!(received, chunk);
    let beyond = Chunk { offset: 5, ..chunk };
    assert!(Request::decode(joined(&beyond.encode())).is_err());
}

#[test]
fn votes_and_hand_overs_arrive_as_they_were_sent() {
    let mut ballot = VoteRequest::new(vote(), Some(log_id(4, 8)));
    ballot.leadership_transfer = true;
    let Request::Vote(received) = decoded(&encode_vote(&ballot)) else { panic!("not a vote") };
    assert_eq!(received, ballot);
    let Request::PreVote(received) = decoded(&encode_pre_vote(&ballot)) else { panic!("not a pre-vote") };
    assert_eq!(received, ballot);
    let transfer = TransferLeaderRequest::new(vote(), 9, Some(log_id(4, 8)));
    let Request::TransferLeader(received) = decoded(&encode_transfer(&transfer)) else {
        panic!("not a transfer")
    };
    assert_eq!(received, transfer);
}

#[test]
fn answers_arrive_as_they_were_sent() {
    let upto = Some(log_id(4, 8));
    let appended = [
        AppendEntriesResponse::Success,
        AppendEntriesResponse::PartialSuccess(upto),
        AppendEntriesResponse::PartialSuccess(None),
        AppendEntriesResponse::Conflict,
        AppendEntriesResponse::HigherVote(vote()),
    ];
    for answer in appended {
        assert_eq!(decode_appended(encode_appended(&answer)), Ok(answer));
    }
    let voted = VoteResponse::new(vote(), upto, true);
    assert_eq!(decode_voted(encode_voted(&voted)), Ok(voted));
    let streamed = [
        Ok(upto),
        Ok(None),
        Err(StreamAppendError::Conflict(log_id(4, 8))),
        Err(StreamAppendError::HigherVote(vote())),
    ];
    for answer in streamed {
        assert_eq!(decode_stream_appended(encode_stream_appended(&answer)), Ok(answer));
    }
    let chunks =
        [ChunkAnswer::Received { next: 9 }, ChunkAnswer::Restart, ChunkAnswer::Installed { vote: vote() }];
    for answer in chunks {
        assert_eq!(ChunkAnswer::decode(answer.encode()), Ok(answer));
    }
    let transferred = [
        Ok(()),
        Err(TransferLeaderError::VoteChanged { expected: vote(), actual: vote() }),
        Err(TransferLeaderError::LogNotFlushed { expected: upto, actual: None }),
    ];
    for answer in transferred {
        assert_eq!(decode_transferred(encode_transferred(&answer)), Ok(answer));
    }
}

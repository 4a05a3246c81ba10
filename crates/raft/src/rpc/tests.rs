use super::*;
use crate::entry::{LeaderId, LogId};

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: 3 }, index }
}

fn vote() -> Vote {
    Vote { leader_id: LeaderId { term: 5, node_id: 3 }, committed: true }
}

fn decoded(body: &Payload) -> Request {
    Request::decode(joined(body)).map_err(|e| e.to_string()).unwrap_or_else(|e| panic!("{e}"))
}

fn append() -> AppendEntriesRequest<Types> {
    let payload = Payload::new(vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")]);
    let proposal = Proposal { kind: 7, count: 2, time_ms: 1234, payload };
    AppendEntriesRequest {
        vote: vote(),
        prev_log_id: Some(log_id(4, 8)),
        entries: vec![
            Entry::new(log_id(5, 9), EntryPayload::Blank),
            Entry::new(log_id(5, 10), EntryPayload::Application(proposal)),
        ],
        leader_commit: Some(log_id(4, 7)),
    }
}

#[test]
fn an_append_arrives_as_it_was_sent() {
    let Request::Append(received) = decoded(&encode_append(append())) else { panic!("not an append") };
    let sent = append();
    assert_eq!(
        (received.vote, received.prev_log_id, received.leader_commit),
        (sent.vote, sent.prev_log_id, sent.leader_commit)
    );
    assert_eq!(received.entries.len(), 2);
    assert!(matches!(received.entries[0].payload, EntryPayload::Blank));
    assert_eq!(received.entries[1].log_id(), log_id(5, 10));
    let EntryPayload::Application(proposal) = &received.entries[1].payload else { panic!("not a proposal") };
    assert_eq!((proposal.kind, proposal.count, proposal.time_ms), (7, 2, 1234));
    assert_eq!(proposal.payload, Payload::new(vec![Bytes::from_static(b"onetwo")]));
}

#[test]
fn a_message_shares_the_payload_with_the_log() {
    let entry = append().entries.pop().unwrap();
    let EntryPayload::Application(proposal) = &entry.payload else { panic!("not a proposal") };
    let part = proposal.payload.parts()[0].as_ptr();
    let body = encode_append(AppendEntriesRequest { entries: vec![entry], ..append() });
    assert!(body.parts().iter().any(|sent| sent.as_ptr() == part));
}

#[test]
fn a_cut_or_longer_append_is_refused() {
    let bytes = joined(&encode_append(append()));
    for end in 0..bytes.len() {
        assert!(Request::decode(bytes.slice(..end)).is_err(), "cut at {end}");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(Request::decode(longer.into()).is_err());
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
    let installed = SnapshotResponse::new(vote());
    assert_eq!(decode_installed(encode_installed(&installed)), Ok(installed));
    let transferred = [
        Ok(()),
        Err(TransferLeaderError::VoteChanged { expected: vote(), actual: vote() }),
        Err(TransferLeaderError::LogNotFlushed { expected: upto, actual: None }),
    ];
    for answer in transferred {
        assert_eq!(decode_transferred(encode_transferred(&answer)), Ok(answer));
    }
}

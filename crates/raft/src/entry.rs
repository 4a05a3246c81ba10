//! The types that openraft is configured with: entries that share their payload with the log, replica ids,
//! votes, and the channel that a proposer waits on.

pub(crate) mod encoding;

use std::{collections::BTreeSet, fmt};

use fanfare_log::{Frame, FrameHeader, NewFrame, Position};
use openraft::{
    OptionalSend, RaftTypeConfig,
    entry::{RaftEntry, RaftPayload},
    raft::responder::Responder,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    codec::Malformed,
    failure::MachineError,
    machine::{AnyReply, KIND_BLANK, KIND_MEMBERSHIP, Proposal},
    runtime::GroupRuntime,
};

/// Leaders are (term, replica): two candidates of one term do not stall each other.
pub(crate) type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Membership = openraft::Membership<u64, NodeAddress>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, u64, NodeAddress>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, NodeAddress>;
pub(crate) type Snapshot = openraft::Snapshot<LeaderId, u64, NodeAddress, bytes::Bytes>;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl RaftTypeConfig for Types {
    type D = Application;
    type R = AppliedEntry;
    type NodeId = u64;
    type Node = NodeAddress;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = EntryPayload;
    type Entry = Entry;
    type AsyncRuntime = GroupRuntime;
    type Responder<T>
        = ProposalResponder<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// Node and address of a replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NodeAddress {
    pub(crate) node: u64,
    pub(crate) address: String,
}

/// A proposal as openraft carries it.
#[derive(Debug)]
pub(crate) struct Application(pub(crate) Proposal);

impl fmt::Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kind {}, {} bytes", self.0.kind, self.0.payload.len())
    }
}

/// Result of applying an entry: its base offset, and the machine's reply if a proposer waits for it.
pub(crate) struct AppliedEntry {
    pub(crate) base_offset: u64,
    pub(crate) reply: Option<AnyReply>,
}

impl fmt::Debug for AppliedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppliedEntry").field("base_offset", &self.base_offset).finish_non_exhaustive()
    }
}

/// Answers one proposal and returns its permit.
pub(crate) struct ProposalResponder<T> {
    pub(crate) sender: oneshot::Sender<T>,
    pub(crate) _permit: OwnedSemaphorePermit,
}

impl<T: OptionalSend + 'static> Responder<Types, T> for ProposalResponder<T> {
    fn on_complete(self, result: T) {
        // A proposer that went away has no use for the answer.
        drop(self.sender.send(result));
    }
}

#[derive(Debug)]
pub(crate) enum EntryPayload {
    Blank,
    Membership(Membership),
    Application(Proposal),
    /// An application whose payload was left on disk: for who looks only at log ids and memberships.
    Unread,
}

impl fmt::Display for EntryPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("blank"),
            Self::Membership(membership) => membership.fmt(f),
            Self::Application(proposal) => {
                write!(f, "kind {}, {} bytes", proposal.kind, proposal.payload.len())
            }
            Self::Unread => f.write_str("unread"),
        }
    }
}

impl RaftPayload for EntryPayload {
    type D = Application;
    type NodeId = u64;
    type Node = NodeAddress;

    fn blank() -> Self {
        Self::Blank
    }

    fn with_normal(self, data: Application) -> Self {
        Self::Application(data.0)
    }

    fn with_membership(self, membership: Membership) -> Self {
        Self::Membership(membership)
    }

    fn get_membership(&self) -> Option<Membership> {
        match self {
            Self::Membership(membership) => Some(membership.clone()),
            Self::Blank | Self::Application(_) | Self::Unread => None,
        }
    }
}

/// One entry. The log gives the base offset: None of a proposal, the leader's claim of an entry that a peer has sent.
#[derive(Debug)]
pub(crate) struct Entry {
    log_id: LogId,
    pub(crate) base_offset: Option<u64>,
    pub(crate) payload: EntryPayload,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.log_id, self.payload)
    }
}

impl RaftEntry for Entry {
    type CommittedLeaderId = LeaderId;
    type Payload = EntryPayload;

    fn new(log_id: LogId, payload: EntryPayload) -> Self {
        Self { log_id, base_offset: None, payload }
    }

    fn log_id_parts(&self) -> (&LeaderId, u64) {
        (&self.log_id.leader_id, self.log_id.index)
    }

    fn set_log_id(&mut self, log_id: LogId) {
        self.log_id = log_id;
    }

    fn get_membership(&self) -> Option<Membership> {
        self.payload.get_membership()
    }
}

impl Entry {
    /// The entry as a peer sends it, with the offset that its log gives it.
    pub(crate) fn at_offset(self, base_offset: u64) -> Self {
        Self { base_offset: Some(base_offset), ..self }
    }

    /// How many offsets the entry takes.
    pub(crate) fn count(&self) -> u32 {
        match &self.payload {
            EntryPayload::Blank | EntryPayload::Membership(_) | EntryPayload::Unread => 0,
            EntryPayload::Application(proposal) => proposal.count,
        }
    }

    pub(crate) fn into_new_frame(self) -> NewFrame {
        let position = position_of(self.log_id);
        match self.payload {
            EntryPayload::Blank => {
                NewFrame { kind: KIND_BLANK, position, count: 0, time_ms: 0, payload: Default::default() }
            }
            EntryPayload::Membership(membership) => {
                let payload =
                    fanfare_log::Payload::new(vec![encoding::encode_membership(&membership).into()]);
                NewFrame { kind: KIND_MEMBERSHIP, position, count: 0, time_ms: 0, payload }
            }
            EntryPayload::Application(Proposal { kind, count, time_ms, payload }) => {
                NewFrame { kind, position, count, time_ms, payload }
            }
            EntryPayload::Unread => {
                panic!("invariant violation: entry {position:?} is written without its payload")
            }
        }
    }

    pub(crate) fn from_frame(frame: Frame) -> Result<Self, Malformed> {
        let Frame { header, payload } = frame;
        let FrameHeader { kind, position, base_offset, count, time_ms, .. } = header;
        let payload = match kind {
            KIND_BLANK => EntryPayload::Blank,
            KIND_MEMBERSHIP => {
                EntryPayload::Membership(encoding::decode_membership(&payload.slice(0..payload.len()))?)
            }
            kind => EntryPayload::Application(Proposal { kind, count, time_ms, payload }),
        };
        Ok(Self { log_id: log_id_of(position), base_offset: Some(base_offset), payload })
    }

    /// The entry as far as its header tells. None of a membership, which is in its payload.
    pub(crate) fn from_header(header: &FrameHeader) -> Option<Self> {
        let payload = match header.kind {
            KIND_BLANK => EntryPayload::Blank,
            KIND_MEMBERSHIP => return None,
            _ => EntryPayload::Unread,
        };
        Some(Self { log_id: log_id_of(header.position), base_offset: Some(header.base_offset), payload })
    }

    /// The frame as a machine sees it. Blank and membership entries come without a payload.
    ///
    /// # Errors
    /// If the entry was read without its payload.
    pub(crate) fn into_frame(self) -> Result<Frame, MachineError> {
        let (kind, count, time_ms, payload) = match self.payload {
            EntryPayload::Blank => (KIND_BLANK, 0, 0, Default::default()),
            EntryPayload::Membership(_) => (KIND_MEMBERSHIP, 0, 0, Default::default()),
            EntryPayload::Application(Proposal { kind, count, time_ms, payload }) => {
                (kind, count, time_ms, payload)
            }
            EntryPayload::Unread => {
                return Err(MachineError::Invalid { detail: "its payload was not read".to_owned() });
            }
        };
        let payload_bytes = u32::try_from(payload.len()).expect("the log refuses payloads of 4 GiB");
        let position = position_of(self.log_id);
        let base_offset = self.base_offset.unwrap_or_default();
        let header = FrameHeader { kind, position, base_offset, count, time_ms, payload_bytes };
        Ok(Frame { header, payload })
    }
}

pub(crate) fn position_of(log_id: LogId) -> Position {
    Position { term: log_id.leader_id.term, leader: log_id.leader_id.node_id, index: log_id.index }
}

pub(crate) fn log_id_of(position: Position) -> LogId {
    let leader_id = LeaderId { term: position.term, node_id: position.leader };
    LogId { leader_id, index: position.index }
}

/// The replicas that vote, whatever stage of a change the membership is in.
pub(crate) fn voters(membership: &Membership) -> BTreeSet<u64> {
    membership.voter_ids().collect()
}

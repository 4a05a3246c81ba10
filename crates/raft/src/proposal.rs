//! One proposal from its submission to its reply.

use std::{any::Any, marker::PhantomData};

use fanfare_log::Position;
use openraft::{
    errors::{ClientWriteError, ForwardReason, ForwardToLeader},
    raft::ClientWriteResult,
};
use tokio::sync::oneshot;

use crate::{
    entry::{Types, position_of},
    error::ProposeError,
    id::ReplicaId,
    lease::LeaseRefusals,
};

/// Resolves when the proposal is applied. Dropping it does not cancel the proposal.
pub struct PendingProposal<R> {
    pub(crate) result: oneshot::Receiver<ClientWriteResult<Types>>,
    pub(crate) replica: ReplicaId,
    pub(crate) refusals: LeaseRefusals,
    pub(crate) reply: PhantomData<fn() -> R>,
}

/// A proposal that is committed and applied on this replica.
#[derive(Debug)]
pub struct Applied<R> {
    pub position: Position,
    pub base_offset: u64,
    pub reply: R,
}

impl<R: Any> PendingProposal<R> {
    /// # Errors
    /// See [`ProposeError`]; only [`ProposeError::Unknown`] leaves open whether the proposal is committed.
    pub async fn applied(self) -> Result<Applied<R>, ProposeError> {
        let response = match self.result.await {
            // The engine dropped the responder: it stopped with the proposal somewhere in its queues.
            Err(_) => return Err(ProposeError::Unknown),
            Ok(Err(refusal)) => return Err(write_error(&refusal, self.replica, &self.refusals)),
            Ok(Ok(response)) => response,
        };
        let reply = response.data.reply.expect("an applied proposal has a reply");
        let reply =
            *(reply as Box<dyn Any>).downcast::<R>().expect("the machine of this group made the reply");
        let base_offset = response.data.base_offset;
        Ok(Applied { position: position_of(response.log_id), base_offset, reply })
    }
}

pub(crate) fn write_error(
    refusal: &ClientWriteError<Types>,
    replica: ReplicaId,
    refusals: &LeaseRefusals,
) -> ProposeError {
    match refusal {
        ClientWriteError::ForwardToLeader(ForwardToLeader { leader_id, reason, .. }) => {
            match (leader_id, reason) {
                (Some(leader), ForwardReason::NotLeader) if *leader == replica.0 => ProposeError::TermEnded,
                (_, ForwardReason::LeaseExpired) => {
                    refusals.count();
                    ProposeError::NotLeader { leader: None }
                }
                (leader, _) => ProposeError::NotLeader { leader: leader.map(ReplicaId) },
            }
        }
        // The entry was in the log when another leader's entries replaced it, or a snapshot did, which may contain it.
        ClientWriteError::LogEntryDiscarded(_) => ProposeError::Unknown,
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
            ProposeError::TermEnded
        }
    }
}

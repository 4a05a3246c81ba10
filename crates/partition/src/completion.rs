//! The answer to an append: the producer's end that waits, the writer's end that answers, and the answer.

use fanfare_model::{Offset, PartitionId};
use tokio::sync::oneshot;

use crate::{AppendError, append_order::OrderToken};

/// The committed result of an append. Indexes are those of the batch's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first newly committed event; events not listed below follow at consecutive offsets.
    pub base: Offset,
    /// (index in the batch, offset of the first commit) of events whose identity was committed before.
    pub duplicates: Vec<(u32, Offset)>,
    /// (index in the batch, offset of the other event) of events whose identity was committed with another body. They
    /// are not appended.
    pub conflicts: Vec<(u32, Offset)>,
}

/// A queued append. Dropping it does not cancel the append.
pub struct PendingAppend {
    partition: PartitionId,
    outcome: oneshot::Receiver<Result<Appended, AppendError>>,
}

/// The writer's end of a [`PendingAppend`].
pub(crate) struct AppendCompletion {
    /// None if the append is in no order with others.
    order: Option<OrderToken>,
    outcome: oneshot::Sender<Result<Appended, AppendError>>,
}

impl PendingAppend {
    pub(crate) fn new(partition: PartitionId, order: Option<OrderToken>) -> (AppendCompletion, Self) {
        let (answer, outcome) = oneshot::channel();
        (AppendCompletion { order, outcome: answer }, Self { partition, outcome })
    }

    /// Waits until the batch is committed or refused.
    ///
    /// # Errors
    /// See [`AppendError`]; only [`AppendError::Unknown`] leaves it open whether the batch is committed.
    pub async fn committed(self) -> Result<Appended, AppendError> {
        let unknown = AppendError::Unknown { partition: self.partition };
        self.outcome.await.unwrap_or(Err(unknown))
    }

    /// The outcome, which has been answered by now.
    #[cfg(test)]
    pub(crate) fn outcome(mut self) -> Result<Appended, AppendError> {
        self.outcome.try_recv().expect("the append is answered")
    }
}

impl AppendCompletion {
    /// True if an earlier append of the same order failed.
    pub(crate) fn is_void(&self) -> bool {
        self.order.as_ref().is_some_and(OrderToken::is_void)
    }

    /// Answers the producer. A failure that a retry may cure voids the order, so that later appends of it cannot
    /// overtake the retry.
    pub(crate) fn complete(self, outcome: Result<Appended, AppendError>) {
        if outcome.as_ref().is_err_and(AppendError::is_retryable)
            && let Some(order) = self.order
        {
            order.void();
        }
        // A producer that dropped its PendingAppend needs no answer.
        drop(self.outcome.send(outcome));
    }
}

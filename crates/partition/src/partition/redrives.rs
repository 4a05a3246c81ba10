//! Redrives as others see them.

use fanfare_model::{AccountId, Offset, RedriveId, SubscriptionId};

use super::{Partition, unreachable_reply};
use crate::{
    CommandError, Redrive, RedriveProgress, StartRedrive, Withdrawals,
    command::Command,
    state::{Reply, redrives::Redrives},
};

impl Partition {
    /// Begins a redrive of everything chosen below the present end. A repeat of a start changes nothing.
    ///
    /// # Errors
    /// If this node does not lead, a redrive of the subscription runs, or there are too many.
    pub async fn start_redrive(&self, start: StartRedrive) -> Result<Redrive, CommandError> {
        match self.command(None, &Command::StartRedrive(start)).await? {
            Reply::Redrive(result) => result.map_err(CommandError::Refused),
            other => unreachable_reply(&other),
        }
    }

    /// Moves a running redrive; see [`RedriveProgress`].
    ///
    /// # Errors
    /// If `term` is over, the redrive does not run any more, or the numbers do not add up.
    pub async fn advance_redrive(&self, term: u64, progress: RedriveProgress) -> Result<(), CommandError> {
        match self.command(Some(term), &Command::AdvanceRedrive { term, progress }).await? {
            Reply::RedriveAdvanced(result) => result.map_err(CommandError::Refused),
            other => unreachable_reply(&other),
        }
    }

    /// Cancels a running redrive. One that has ended stays as it is.
    ///
    /// # Errors
    /// If this node does not lead, or the account has no such redrive.
    pub async fn cancel_redrive(&self, id: RedriveId, account: AccountId) -> Result<Redrive, CommandError> {
        match self.command(None, &Command::CancelRedrive { id, account }).await? {
            Reply::Redrive(result) => result.map_err(CommandError::Refused),
            other => unreachable_reply(&other),
        }
    }

    #[must_use]
    pub fn redrive(&self, id: RedriveId) -> Option<Redrive> {
        self.with_redrives(|redrives| redrives.get(id).cloned()).flatten()
    }

    /// Redrives that run, of all accounts.
    #[must_use]
    pub fn running_redrives(&self) -> Vec<Redrive> {
        self.with_redrives(|redrives| redrives.running().cloned().collect()).unwrap_or_default()
    }

    /// Redrives of the account that run or ended lately, by id.
    #[must_use]
    pub fn redrives(&self, account: AccountId) -> Vec<Redrive> {
        let of_account = |redrive: &&Redrive| redrive.start.account == account;
        self.with_redrives(|redrives| redrives.iter().filter(of_account).cloned().collect())
            .unwrap_or_default()
    }

    /// True if the dead letter at `offset` left the list.
    #[must_use]
    pub fn is_withdrawn(&self, offset: Offset) -> bool {
        self.with_redrives(|redrives| redrives.is_withdrawn(offset)).unwrap_or_default()
    }

    /// Dead letters of the subscription that left the list.
    #[must_use]
    pub fn withdrawals(&self, subscription: SubscriptionId) -> Withdrawals {
        self.with_redrives(|redrives| redrives.withdrawals(subscription)).unwrap_or_default()
    }

    fn with_redrives<R>(&self, look: impl FnOnce(&Redrives) -> R) -> Option<R> {
        let open = self.open_backing().ok()?;
        Some(open.group.read(|machine| look(machine.state().redrives())))
    }
}

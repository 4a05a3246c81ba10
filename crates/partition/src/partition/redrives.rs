//! Redrives as others see them.

use fanfare_model::{AccountId, Offset, RedriveId, SubscriptionId};

use super::{Partition, unreachable_reply};
use crate::{
    CommandError, Redrive, RedriveProgress, StartRedrive, Withdrawals,
    command::{Command, RedriveCommand},
    state::{Reply, redrives::Redrives},
};

/// The redrives of a partition of `dead-letters`, and the dead letters that left the list.
#[must_use]
pub struct RedriveHandle<'a>(&'a Partition);

impl Partition {
    pub fn redrives(&self) -> RedriveHandle<'_> {
        RedriveHandle(self)
    }
}

impl RedriveHandle<'_> {
    /// Begins a redrive of everything chosen below the present end. A repeat of a start changes nothing.
    ///
    /// # Errors
    /// If this node does not lead, a redrive of the subscription runs, or there are too many.
    pub async fn start(&self, start: StartRedrive) -> Result<Redrive, CommandError> {
        match self.0.command(None, &Command::Redrive(RedriveCommand::Start(start))).await? {
            Reply::Redrive(result) => result.map_err(CommandError::Refused),
            other => unreachable_reply(&other),
        }
    }

    /// Moves a running redrive; see [`RedriveProgress`].
    ///
    /// # Errors
    /// If `term` is over, the redrive does not run any more, or the numbers do not add up.
    pub async fn advance(&self, term: u64, progress: RedriveProgress) -> Result<(), CommandError> {
        match self
            .0
            .command(Some(term), &Command::Redrive(RedriveCommand::Advance { term, progress }))
            .await?
        {
            Reply::RedriveAdvanced(result) => result.map_err(CommandError::Refused),
            other => unreachable_reply(&other),
        }
    }

    /// Cancels a running redrive. One that has ended stays as it is.
    ///
    /// # Errors
    /// If this node does not lead, or the account has no such redrive.
    pub async fn cancel(&self, id: RedriveId, account: AccountId) -> Result<Redrive, CommandError> {
        match self.0.command(None, &Command::Redrive(RedriveCommand::Cancel { id, account })).await? {
            Reply::Redrive(result) => result.map_err(CommandError::Refused),
            other => unreachable_reply(&other),
        }
    }

    #[must_use]
    pub fn get(&self, id: RedriveId) -> Option<Redrive> {
        self.with_redrives(|redrives| redrives.get(id).cloned()).flatten()
    }

    /// Redrives that run, of all accounts.
    #[must_use]
    pub fn running(&self) -> Vec<Redrive> {
        self.with_redrives(|redrives| redrives.running().cloned().collect()).unwrap_or_default()
    }

    /// Redrives of the account that run or ended lately, by id.
    #[must_use]
    pub fn of_account(&self, account: AccountId) -> Vec<Redrive> {
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
        let open = self.0.open_backing().ok()?;
        Some(open.group.read(|machine| look(machine.state().redrives())))
    }
}

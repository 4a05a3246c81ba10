//! Redrives: dead letters of one subscription go to its sink again, or are purged.
//!
//! A redrive is a part of the replicated state of the partition that stores the dead letters; the leader of that partition
//! works on it. Letters are redriven in the order of the stream, one at a time of each key, page by page. Newer events of
//! a key have passed long ago: a redriven event comes late. A letter that is taken leaves the list; one that is refused
//! again, or fails alone too often, stays.

mod filter;
mod letter;
mod page;
mod runner;

use fanfare_cluster::RouteError;
use fanfare_model::{AccountId, RedriveId, SubscriptionId};
use fanfare_partition::{CommandError, Redrive, RedriveKind, StartRedrive, Withdrawals};

pub use self::filter::DeadLetterFilter;
pub(crate) use self::runner::run;
use crate::Delivery;

/// A redrive to begin.
#[derive(Clone, Debug)]
pub struct NewRedrive {
    /// Made by the caller, so that a repeat begins nothing new.
    pub id: RedriveId,
    pub subscription: SubscriptionId,
    pub kind: RedriveKind,
    pub filter: DeadLetterFilter,
}

/// Reason why a redrive was not begun, read or cancelled.
#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl Delivery {
    /// Begins a redrive of the dead letters that the subscription has now. Returns when that is replicated; the work goes
    /// on by itself, through restarts.
    ///
    /// # Errors
    /// If the partition of the dead letters has no leader here, another redrive of the subscription runs, or there are too
    /// many.
    pub async fn start_redrive(&self, account: AccountId, new: NewRedrive) -> Result<Redrive, RedriveError> {
        let NewRedrive { id, subscription, kind, filter } = new;
        let partition = self.context.dead_letters.home(account).await?;
        let filter = filter.encode().into();
        let started =
            partition.redrives().start(StartRedrive { id, account, subscription, kind, filter }).await?;
        self.context.redrive_started.notify_waiters();
        Ok(started)
    }

    /// Cancels a redrive that runs. What was delivered stays so, and no letter is lost.
    ///
    /// # Errors
    /// If the partition of the dead letters has no leader here, or the account has no such redrive.
    pub async fn cancel_redrive(&self, account: AccountId, id: RedriveId) -> Result<Redrive, RedriveError> {
        let partition = self.context.dead_letters.home(account).await?;
        Ok(partition.redrives().cancel(id, account).await?)
    }

    /// The account's redrives that run or ended lately, in the order of their ids.
    ///
    /// # Errors
    /// If the partition of the dead letters is not on this node.
    pub async fn redrives(&self, account: AccountId) -> Result<Vec<Redrive>, RedriveError> {
        Ok(self.context.dead_letters.home(account).await?.redrives().of_account(account))
    }

    /// The subscription's dead letters that left the list. Its count of dead-lettered events still has them.
    #[must_use]
    pub fn withdrawals(&self, account: AccountId, subscription: SubscriptionId) -> Withdrawals {
        let letters = self.context.dead_letters.home_now(account);
        letters.map(|letters| letters.redrives().withdrawals(subscription)).unwrap_or_default()
    }
}

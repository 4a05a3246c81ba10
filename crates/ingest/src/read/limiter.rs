//! Bound on open reads, of the node and of each account.

use fanfare_fairness::{FairLimiter, FairPermit};
use fanfare_model::AccountId;

use super::ReadRefusal;

/// Numbers of reads that may be open at once.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// All reads of the node.
    pub reads_max: usize,
    /// Reads of one account, which are also never more than are free for others.
    pub account_reads_max: usize,
}

#[derive(Clone)]
pub(super) struct ReadLimiter {
    limits: ReadLimits,
    open: FairLimiter<AccountId>,
}

/// Permit of one open read; given back when dropped.
pub(super) type ReadPermit = FairPermit<AccountId>;

impl ReadLimiter {
    pub(super) fn new(limits: ReadLimits) -> Self {
        Self { limits, open: FairLimiter::new(limits.reads_max, limits.account_reads_max) }
    }

    pub(super) fn acquire(&self, account: AccountId) -> Result<ReadPermit, ReadRefusal> {
        let ReadLimits { reads_max, account_reads_max } = self.limits;
        self.open.try_acquire(account, 1).ok_or(ReadRefusal::TooManyReads { reads_max, account_reads_max })
    }
}

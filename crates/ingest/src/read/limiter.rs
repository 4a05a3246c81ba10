//! Bound on open reads, of the node and of each account.

use std::{collections::HashMap, sync::Arc};

use fanfare_model::AccountId;
use parking_lot::Mutex;

use super::ReadRefusal;

/// Numbers of reads that may be open at once.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// All reads of the node.
    pub reads_max: usize,
    /// Reads of one account.
    pub account_reads_max: usize,
}

#[derive(Clone)]
pub(super) struct ReadLimiter {
    limits: ReadLimits,
    open: Arc<Mutex<OpenReads>>,
}

#[derive(Default)]
struct OpenReads {
    total: usize,
    by_account: HashMap<AccountId, usize>,
}

/// Permit of one open read; given back when dropped.
pub(super) struct ReadPermit {
    account: AccountId,
    open: Arc<Mutex<OpenReads>>,
}

impl ReadLimiter {
    pub(super) fn new(limits: ReadLimits) -> Self {
        Self { limits, open: Arc::default() }
    }

    pub(super) fn acquire(&self, account: AccountId) -> Result<ReadPermit, ReadRefusal> {
        let ReadLimits { reads_max, account_reads_max } = self.limits;
        let mut open = self.open.lock();
        if open.total >= reads_max {
            return Err(ReadRefusal::TooManyReads { owner: "the node", limit: reads_max });
        }
        let own = open.by_account.entry(account).or_default();
        if *own >= account_reads_max {
            return Err(ReadRefusal::TooManyReads { owner: "the account", limit: account_reads_max });
        }
        *own += 1;
        open.total += 1;
        Ok(ReadPermit { account, open: self.open.clone() })
    }
}

impl Drop for ReadPermit {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        open.total -= 1;
        if let Some(own) = open.by_account.get_mut(&self.account) {
            *own -= 1;
            if *own == 0 {
                open.by_account.remove(&self.account);
            }
        }
    }
}

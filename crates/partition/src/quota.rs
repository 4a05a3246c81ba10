//! Limits of retained bytes per account and per partition, for streams that one account could fill at the cost of others.
//!
//! The state machine counts what is retained ([`crate::state::usage`]); the leader's writer refuses an append that would
//! take the count, with all that is in flight, over a limit.

use std::collections::BTreeMap;

use fanfare_model::AccountId;

/// Retained bytes that a partition may hold: tables and bodies of its events, without the log's own overhead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// No account and no stream holds more.
    Limit { account_bytes_max: u64, stream_bytes_max: u64 },
    /// No account holds more while others' events keep the log from being trimmed: see
    /// [`crate::Partition::decide_trim`].
    Share { account_bytes_max: u64 },
}

/// Retained bytes as of one applied entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) account_bytes: u64,
    pub(crate) stream_bytes: u64,
}

/// Bytes by account, and their sum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AccountBytes {
    by_account: BTreeMap<AccountId, u64>,
    total: u64,
}

impl AccountBytes {
    pub(crate) fn usage(&self, account: AccountId) -> Usage {
        let account_bytes = self.by_account.get(&account).copied().unwrap_or(0);
        Usage { account_bytes, stream_bytes: self.total }
    }

    /// True if `bytes` more of the account stay within the quota beside these and the `applied` ones.
    pub(crate) fn fits(&self, quota: Quota, applied: Usage, account: AccountId, bytes: u64) -> bool {
        let inflight = self.usage(account);
        let account_bytes =
            applied.account_bytes.saturating_add(inflight.account_bytes).saturating_add(bytes);
        let stream_bytes = applied.stream_bytes.saturating_add(inflight.stream_bytes).saturating_add(bytes);
        match quota {
            Quota::Limit { account_bytes_max, stream_bytes_max } => {
                account_bytes <= account_bytes_max && stream_bytes <= stream_bytes_max
            }
            Quota::Share { account_bytes_max } => account_bytes <= account_bytes_max,
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (AccountId, u64)> {
        self.by_account.iter().map(|(&account, &bytes)| (account, bytes))
    }

    pub(crate) fn add(&mut self, account: AccountId, bytes: u64) {
        let held = self.by_account.entry(account).or_default();
        *held = held.saturating_add(bytes);
        self.total = self.total.saturating_add(bytes);
    }

    /// Removes what [`Self::add`] added.
    pub(crate) fn remove(&mut self, account: AccountId, bytes: u64) {
        let Some(account_bytes) = self.by_account.get_mut(&account) else { return };
        let removed = bytes.min(*account_bytes);
        *account_bytes -= removed;
        self.total -= removed;
        if *account_bytes == 0 {
            self.by_account.remove(&account);
        }
    }
}

//! The quota of dead letters: a limit for each account, so that no account's dead letters push out another's, and none
//! for any account while the stream is so full that retention would drop the oldest dead letters.
//!
//! The usage is counted from the log itself: each decision first counts the dead letters committed since the last one,
//! so that a start needs no stored numbers. Reserved bytes count in full, and for a moment twice: near its end the quota
//! errs towards being used up.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use fanfare_model::{AccountId, Offset};
use fanfare_partition::{AccountFilter, Partition, ReadError};
use parking_lot::Mutex;

/// Size of a run. The bytes of a run are released together, when its last dead letter has left the log.
const RUN_BYTES: u64 = 1 << 20;
/// Size of one read while counting.
const READ_BYTES: u64 = 1 << 20;
/// Part of the stream that stays free for the framing of dead letters.
const RESERVE_BYTES: u64 = 256 << 10;

/// The quota of one partition of the stream.
pub(super) struct Quota {
    account_bytes_max: u64,
    usage: tokio::sync::Mutex<Usage>,
    reserved: Arc<Mutex<Reserved>>,
}

/// Bytes of a dead letter that is being appended. Dropped when the append has ended.
pub(super) struct Reservation {
    account: AccountId,
    size_bytes: u64,
    reserved: Arc<Mutex<Reserved>>,
}

/// Bytes by account.
type Reserved = HashMap<AccountId, u64>;

/// Bytes of committed dead letters in `log_start..counted_to`.
#[derive(Default)]
struct Usage {
    counted_to: Offset,
    log_start: Offset,
    accounts: HashMap<AccountId, AccountUsage>,
}

#[derive(Default)]
struct AccountUsage {
    bytes: u64,
    /// Ascending.
    runs: VecDeque<Run>,
}

struct Run {
    end: Offset,
    bytes: u64,
}

impl Quota {
    pub(super) fn new(account_bytes_max: u64) -> Self {
        Self { account_bytes_max, usage: tokio::sync::Mutex::default(), reserved: Arc::default() }
    }

    /// None if the account's dead letters would exceed its quota, or all dead letters the stream's retention.
    pub(super) async fn reserve(
        &self,
        partition: &Partition,
        account: AccountId,
        size_bytes: u64,
    ) -> Option<Reservation> {
        let mut usage = self.usage.lock().await;
        usage.update(partition).await;
        let committed_bytes = usage.accounts.get(&account).map_or(0, |account| account.bytes);
        let mut reserved = self.reserved.lock();
        let reserved_bytes = reserved.get(&account).copied().unwrap_or(0);
        if committed_bytes + reserved_bytes + size_bytes > self.account_bytes_max {
            return None;
        }
        // Framing takes up to as much again as a small dead letter.
        let arriving_bytes = 2 * (reserved.values().sum::<u64>() + size_bytes);
        if partition.remaining_bytes().is_some_and(|remaining| remaining < arriving_bytes + RESERVE_BYTES) {
            return None;
        }
        reserved.insert(account, reserved_bytes + size_bytes);
        Some(Reservation { account, size_bytes, reserved: self.reserved.clone() })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut reserved = self.reserved.lock();
        if let Some(bytes) = reserved.get_mut(&self.account) {
            assert!(
                *bytes >= self.size_bytes,
                "invariant violation: more dead-letter bytes released than reserved"
            );
            *bytes -= self.size_bytes;
            if *bytes == 0 {
                reserved.remove(&self.account);
            }
        }
    }
}

impl Usage {
    /// Counts dead letters committed since the last update and releases those trimmed since then. Unreadable ranges are
    /// skipped in growing strides, which skip at most as much again: no account is charged for them.
    async fn update(&mut self, partition: &Partition) {
        let mut stride = 1;
        loop {
            let positions = *partition.positions().borrow();
            self.release_below(positions.log_start);
            if self.counted_to >= positions.high_watermark {
                return;
            }
            let chunk = match partition.read(self.counted_to, AccountFilter::All, READ_BYTES).await {
                Err(ReadError::OutOfRange { log_start, .. }) => {
                    self.release_below(log_start);
                    continue;
                }
                Err(error @ ReadError::DataLoss { .. }) => {
                    if stride == 1 {
                        tracing::warn!(%error, "failed to count dead letters for the quota; unreadable ones are left out");
                    }
                    self.counted_to = self.counted_to.plus(stride).min(positions.high_watermark);
                    stride *= 2;
                    continue;
                }
                Ok(chunk) => chunk,
            };
            stride = 1;
            for batch in &chunk.batches {
                self.count(batch.account, batch.end(), batch.size_bytes() as u64);
            }
            self.counted_to = chunk.next.max(self.counted_to.plus(1));
        }
    }

    fn count(&mut self, account: AccountId, end: Offset, bytes: u64) {
        let usage = self.accounts.entry(account).or_default();
        usage.bytes += bytes;
        match usage.runs.back_mut() {
            Some(run) if run.bytes < RUN_BYTES => {
                run.end = end;
                run.bytes += bytes;
            }
            _ => usage.runs.push_back(Run { end, bytes }),
        }
    }

    fn release_below(&mut self, log_start: Offset) {
        if log_start <= self.log_start {
            return;
        }
        self.log_start = log_start;
        self.counted_to = self.counted_to.max(log_start);
        self.accounts.retain(|_, usage| {
            while let Some(run) = usage.runs.pop_front_if(|run| run.end <= log_start) {
                usage.bytes -= run.bytes;
            }
            !usage.runs.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_until_their_run_has_left_the_log() {
        let (one, other) = (AccountId::from_bytes([1; 16]), AccountId::from_bytes([2; 16]));
        let mut usage = Usage::default();
        for offset in 1..=4 {
            usage.count(one, Offset(offset * 10), RUN_BYTES / 2);
        }
        usage.count(other, Offset(50), 7);
        let bytes = |usage: &Usage, account| usage.accounts.get(&account).map(|usage| usage.bytes);
        assert_eq!((bytes(&usage, one), bytes(&usage, other)), (Some(2 * RUN_BYTES), Some(7)));
        usage.release_below(Offset(19));
        assert_eq!(bytes(&usage, one), Some(2 * RUN_BYTES), "the last dead letter of the run is still there");
        usage.release_below(Offset(20));
        assert_eq!(bytes(&usage, one), Some(RUN_BYTES));
        usage.release_below(Offset(50));
        assert!(usage.accounts.is_empty());
    }
}

//! What each account's dead letters take, so that one account's cannot push out another's: beyond its own limit an
//! account gets no more, and nobody does when the stream is so full that the oldest would leave it for the new.
//!
//! Counted from the log itself: a look at what was committed since the last one goes before every decision, so a start
//! needs no stored numbers. Letters on their way count in full, and for a moment twice: near its end the budget errs
//! towards being used up.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use fanfare_model::{AccountId, Offset};
use fanfare_partition::{AccountFilter, Partition, ReadError};
use parking_lot::Mutex;

/// Letters are forgotten in runs of about so many bytes, when the last of a run has left the log.
const RUN_BYTES: u64 = 1 << 20;
const LOOK_BYTES: u64 = 1 << 20;
/// What is left free of the stream, for what comes with letters when they are written.
const RESERVE_BYTES: u64 = 256 << 10;

/// Of one partition of the stream.
pub(super) struct Budget {
    bytes_max: u64,
    counted: tokio::sync::Mutex<Counted>,
    on_their_way: Arc<Mutex<HashMap<AccountId, u64>>>,
}

/// A letter's place in the budget until it is committed, or is not going to be.
pub(super) struct Place {
    account: AccountId,
    size_bytes: u64,
    on_their_way: Arc<Mutex<HashMap<AccountId, u64>>>,
}

/// Committed letters below an offset.
#[derive(Default)]
struct Counted {
    upto: Offset,
    /// What is below has left the log.
    log_start: Offset,
    accounts: HashMap<AccountId, Kept>,
}

#[derive(Default)]
struct Kept {
    bytes: u64,
    /// Ascending.
    runs: VecDeque<Run>,
}

struct Run {
    end: Offset,
    bytes: u64,
}

impl Budget {
    /// `bytes_max` is each account's.
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, counted: tokio::sync::Mutex::default(), on_their_way: Arc::default() }
    }

    /// None if the account's letters would take more than its budget, or all letters as much as the stream keeps.
    pub(super) async fn place(
        &self,
        letters: &Partition,
        account: AccountId,
        size_bytes: u64,
    ) -> Option<Place> {
        let mut counted = self.counted.lock().await;
        counted.look(letters).await;
        let kept = counted.accounts.get(&account).map_or(0, |kept| kept.bytes);
        let mut on_their_way = self.on_their_way.lock();
        let own = on_their_way.get(&account).copied().unwrap_or(0);
        if kept + own + size_bytes > self.bytes_max {
            return None;
        }
        // Small ones take up to twice their size.
        let arriving = 2 * (on_their_way.values().sum::<u64>() + size_bytes);
        if letters.remaining_bytes().is_some_and(|room| room < arriving + RESERVE_BYTES) {
            return None;
        }
        on_their_way.insert(account, own + size_bytes);
        Some(Place { account, size_bytes, on_their_way: Arc::clone(&self.on_their_way) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut on_their_way = self.on_their_way.lock();
        if let Some(bytes) = on_their_way.get_mut(&self.account) {
            *bytes -= self.size_bytes;
            if *bytes == 0 {
                on_their_way.remove(&self.account);
            }
        }
    }
}

impl Counted {
    /// Counts what was committed, and forgets what was trimmed, since the last look. What cannot be read is passed over
    /// in growing strides, with as much again at most: it takes room that no account is charged for.
    async fn look(&mut self, letters: &Partition) {
        let mut stride = 1;
        loop {
            let positions = *letters.positions().borrow();
            self.forget_below(positions.log_start);
            if self.upto >= positions.high_watermark {
                return;
            }
            let chunk = match letters.read(self.upto, AccountFilter::All, LOOK_BYTES).await {
                Err(ReadError::OutOfRange { log_start, .. }) => {
                    self.forget_below(log_start);
                    continue;
                }
                Err(error @ ReadError::DataLoss { .. }) => {
                    if stride == 1 {
                        tracing::warn!(%error, "count the dead letters; those that cannot be read are left out");
                    }
                    self.upto = self.upto.plus(stride).min(positions.high_watermark);
                    stride *= 2;
                    continue;
                }
                Ok(chunk) => chunk,
            };
            stride = 1;
            for batch in &chunk.batches {
                self.count(batch.account, batch.end(), batch.size_bytes() as u64);
            }
            self.upto = chunk.next.max(self.upto.plus(1));
        }
    }

    fn count(&mut self, account: AccountId, end: Offset, bytes: u64) {
        let kept = self.accounts.entry(account).or_default();
        kept.bytes += bytes;
        match kept.runs.back_mut() {
            Some(run) if run.bytes < RUN_BYTES => {
                run.end = end;
                run.bytes += bytes;
            }
            _ => kept.runs.push_back(Run { end, bytes }),
        }
    }

    fn forget_below(&mut self, log_start: Offset) {
        if log_start <= self.log_start {
            return;
        }
        self.log_start = log_start;
        self.upto = self.upto.max(log_start);
        self.accounts.retain(|_, kept| {
            while let Some(run) = kept.runs.pop_front_if(|run| run.end <= log_start) {
                kept.bytes -= run.bytes;
            }
            !kept.runs.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_until_their_run_has_left_the_log() {
        let (one, other) = (AccountId::from_bytes([1; 16]), AccountId::from_bytes([2; 16]));
        let mut counted = Counted::default();
        for offset in 1..=4 {
            counted.count(one, Offset(offset * 10), RUN_BYTES / 2);
        }
        counted.count(other, Offset(50), 7);
        let bytes = |counted: &Counted, account| counted.accounts.get(&account).map(|kept: &Kept| kept.bytes);
        assert_eq!((bytes(&counted, one), bytes(&counted, other)), (Some(2 * RUN_BYTES), Some(7)));
        counted.forget_below(Offset(19));
        assert_eq!(bytes(&counted, one), Some(2 * RUN_BYTES), "its last letter is still there");
        counted.forget_below(Offset(20));
        assert_eq!(bytes(&counted, one), Some(RUN_BYTES));
        counted.forget_below(Offset(50));
        assert!(counted.accounts.is_empty());
    }
}

//! The stream `dead-letters`: written before an event is settled as dead-lettered, read back for people.

mod budget;

use std::time::Duration;

use bytes::Bytes;
use fanfare_model::{AccountId, EventIdHash, KeyHash, Offset, SubscriptionId};
use fanfare_partition::{AccountFilter, AppendError, Partition, ReadError, RecordBatchBuilder, Role};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use self::budget::Budget;
use crate::{
    context::Intervals,
    dead_letter::{DeadLetter, Draft, Origin},
};

const PAGE_MAX: usize = 1_000;
/// Of events and details on a page; one letter may exceed it alone.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// Read at once while listing.
const LIST_BYTES: u64 = 256 << 10;

/// Which dead letters to list.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterQuery {
    /// Of this subscription only.
    pub subscription: Option<SubscriptionId>,
    /// 0 is the most that a page has, 1000.
    pub limit: usize,
    /// Opaque, from the last page. One that is not is the beginning.
    pub after: Option<String>,
}

#[derive(Clone, Debug)]
pub struct DeadLetterPage {
    /// Oldest first, about 1 MiB or one letter at most.
    pub letters: Vec<DeadLetter>,
    pub next: Option<String>,
}

/// Where a page begins: partition of the stream and offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    partition: usize,
    offset: Offset,
}

pub(crate) struct Letters {
    partitions: Vec<Partition>,
    /// As many.
    budgets: Vec<Budget>,
}

/// Why a letter was not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// Final: the event counts as expired.
    #[error(
        "dead letters take all that limits.dead_letter_bytes_max and storage.dead_letter_retention_bytes allow"
    )]
    OverBudget,
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl Letters {
    /// `account_bytes_max` is what one account's letters may take.
    pub(crate) fn new(partitions: Vec<Partition>, account_bytes_max: u64) -> Self {
        assert!(!partitions.is_empty(), "the dead-letters stream has at least one partition");
        let budgets = partitions.iter().map(|_| Budget::new(account_bytes_max)).collect();
        Self { partitions, budgets }
    }

    pub(crate) fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// Returns when the letter is committed. A letter that was committed before is fine.
    pub(crate) async fn keep(
        &self,
        account: AccountId,
        key: KeyHash,
        draft: &Draft<'_>,
    ) -> Result<(), KeepError> {
        let mut batch = RecordBatchBuilder::new(account, 0);
        batch.push(&draft.encode(), draft.origin.id(), key);
        let home = self.home(account);
        let (partition, budget) = (&self.partitions[home], &self.budgets[home]);
        let place = budget.place(partition, account, batch.size_bytes() as u64).await;
        let _until_committed = place.ok_or(KeepError::OverBudget)?;
        let receipt = partition.append(batch.finish())?;
        // A repeat with another time or detail counts as a conflict: the first one is what is kept.
        receipt.committed().await?;
        Ok(())
    }

    /// Whether the letter was committed before, as far as can be found out.
    pub(crate) async fn holds(&self, account: AccountId, origin: &Origin) -> bool {
        let found = self.partitions[self.home(account)].find(account, origin.id()).await;
        found.is_ok_and(|letter| letter.is_some())
    }

    pub(crate) async fn list(
        &self,
        account: AccountId,
        query: DeadLetterQuery,
    ) -> Result<DeadLetterPage, ReadError> {
        let limit = match query.limit {
            0 => PAGE_MAX,
            limit => limit.min(PAGE_MAX),
        };
        let start = query.after.as_deref().and_then(Cursor::parse);
        let mut cursor = start.unwrap_or(Cursor { partition: 0, offset: Offset::ZERO });
        let mut letters: Vec<DeadLetter> = Vec::new();
        let mut bytes = 0;
        while let Some(partition) = self.partitions.get(cursor.partition) {
            let positions = *partition.positions().borrow();
            cursor.offset = cursor.offset.max(positions.log_start);
            if cursor.offset >= positions.high_watermark {
                // Of a partition that cannot be opened or applied this is not the end of what is kept.
                if let Some(damage) = partition.damage() {
                    return Err(damage);
                }
                cursor = Cursor { partition: cursor.partition + 1, offset: Offset::ZERO };
                continue;
            }
            let chunk = partition.read(cursor.offset, AccountFilter::One(account), LIST_BYTES).await?;
            for event in chunk.batches.iter().flat_map(|batch| batch.events()) {
                let Some(mut letter) = DeadLetter::decode(event.bytes) else { continue };
                let wanted =
                    query.subscription.is_none_or(|subscription| subscription == letter.subscription);
                if !wanted || letters.iter().any(|other| other.id == letter.id) {
                    continue;
                }
                bytes += letter.event.len() + letter.detail.len();
                let is_full = letters.len() == limit || bytes > PAGE_BYTES_MAX;
                if is_full && !letters.is_empty() {
                    let next = Cursor { offset: event.offset, ..cursor };
                    return Ok(DeadLetterPage { letters, next: Some(next.text()) });
                }
                // Of its own, or a page would keep all that was read for it.
                letter.event = Bytes::copy_from_slice(&letter.event);
                letters.push(letter);
            }
            // A reader that makes no progress has met the end of what is committed.
            cursor.offset = chunk.next.max(cursor.offset.plus(1));
        }
        Ok(DeadLetterPage { letters, next: None })
    }

    pub(crate) async fn get(&self, account: AccountId, id: &str) -> Result<Option<DeadLetter>, ReadError> {
        let Some(id) = u128::from_str_radix(id, 16).ok().filter(|_| id.len() == 32) else { return Ok(None) };
        for partition in &self.partitions {
            if let Some(event) = partition.find(account, EventIdHash(id)).await? {
                return Ok(DeadLetter::decode(Bytes::copy_from_slice(&event.bytes)));
            }
        }
        Ok(None)
    }

    /// All of an account's letters are in one partition, so that they have an order.
    fn home(&self, account: AccountId) -> usize {
        let hash =
            account.as_bytes().iter().fold(0usize, |hash, byte| hash.wrapping_mul(31) + usize::from(*byte));
        hash % self.partitions.len()
    }
}

impl Cursor {
    fn text(self) -> String {
        format!("{}.{}", self.partition, self.offset)
    }

    fn parse(text: &str) -> Option<Self> {
        let (partition, offset) = text.split_once('.')?;
        Some(Self { partition: partition.parse().ok()?, offset: Offset(offset.parse().ok()?) })
    }
}

/// Trims the partition where its own retention wants it; letters are settled by nobody.
pub(crate) async fn keep_trimmed(partition: Partition, intervals: Intervals, stop: CancellationToken) {
    let mut checks = interval(Duration::from_millis(intervals.retention_check_ms));
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(checks.tick()).await.is_some() {
        let role = *partition.role().borrow();
        let (Role::Leader { term }, Some(target)) = (role, partition.trim_target()) else { continue };
        if let Err(error) = partition.trim(term, target).await {
            tracing::warn!(partition = %partition.id(), %error, "trim the dead letters");
        }
    }
}

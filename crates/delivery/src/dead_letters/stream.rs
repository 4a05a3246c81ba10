//! The stream `dead-letters`: written before an event is settled as dead-lettered, read back for people.

use std::time::Duration;

use bytes::Bytes;
use fanfare_model::{AccountId, EventIdHash, KeyHash, Offset, SubscriptionId};
use fanfare_partition::{
    AccountFilter, AppendError, Partition, ReadError, RecordBatchBuilder, Role, StoredEvent,
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{DeadLetter, DeadLetterKey, DeadLetterRecord, quota::Quota};
use crate::context::Intervals;

const PAGE_MAX: usize = 1_000;
/// Limit of events and details on a page; one dead letter may exceed the limit alone.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// Size of one read while listing.
const LIST_BYTES: u64 = 256 << 10;

/// Selects dead letters for a list.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterQuery {
    /// Only dead letters of this subscription.
    pub subscription: Option<SubscriptionId>,
    /// 0 means the maximum of a page, 1000.
    pub limit: usize,
    /// Opaque, from the last page. Any other text means the beginning.
    pub after: Option<String>,
}

#[derive(Clone, Debug)]
pub struct DeadLetterPage {
    /// Oldest first, about 1 MiB or one dead letter at most.
    pub letters: Vec<DeadLetter>,
    pub next: Option<String>,
}

/// The beginning of a page: partition of the stream and offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    partition: usize,
    offset: Offset,
}

/// Writes and reads dead letters. All dead letters of an account are in one partition, so that they have an order.
pub(crate) struct DeadLetterStream {
    partitions: Vec<Partition>,
    /// By partition.
    quotas: Vec<Quota>,
}

/// The reason that a dead letter was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// Final: the event counts as expired.
    #[error("dead letters use up limits.dead_letter_bytes_max or storage.dead_letter_retention_bytes")]
    OverQuota,
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl DeadLetterStream {
    /// `account_bytes_max` limits the dead letters of each account.
    ///
    /// # Panics
    /// Without a partition.
    pub(crate) fn new(partitions: Vec<Partition>, account_bytes_max: u64) -> Self {
        assert!(!partitions.is_empty(), "the dead-letters stream has at least one partition");
        let quotas = partitions.iter().map(|_| Quota::new(account_bytes_max)).collect();
        Self { partitions, quotas }
    }

    pub(crate) fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// Returns when the dead letter is committed. A repeat of a committed one succeeds and changes nothing.
    ///
    /// # Errors
    /// If the quota is used up, or the append failed.
    pub(crate) async fn append(
        &self,
        account: AccountId,
        event_key: KeyHash,
        record: &DeadLetterRecord<'_>,
    ) -> Result<(), WriteError> {
        let mut batch = RecordBatchBuilder::new(account, 0);
        batch.push(&record.encode(), record.key.id(), event_key);
        let index = self.partition_of(account);
        let (partition, quota) = (&self.partitions[index], &self.quotas[index]);
        let reservation = quota.reserve(partition, account, batch.size_bytes() as u64).await;
        let _until_committed = reservation.ok_or(WriteError::OverQuota)?;
        let receipt = partition.append(batch.finish())?;
        // A repeat with another time or detail resolves as a conflict; the first dead letter stays.
        receipt.committed().await?;
        Ok(())
    }

    /// True if the dead letter is known to be committed. False also if the stream cannot be read.
    pub(crate) async fn contains(&self, account: AccountId, key: &DeadLetterKey) -> bool {
        let stored = self.partitions[self.partition_of(account)].find(account, key.id()).await;
        stored.is_ok_and(|stored| stored.is_some())
    }

    /// One page of the account's dead letters. A page ends before a dead letter that cannot be decoded.
    ///
    /// # Errors
    /// If the stream cannot be read, or the first dead letter of the page cannot be decoded.
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
                // An unreadable partition is an error and not the end of the list: it may store more dead letters.
                if let Some(damage) = partition.damage() {
                    return Err(damage);
                }
                cursor = Cursor { partition: cursor.partition + 1, offset: Offset::ZERO };
                continue;
            }
            let chunk = partition.read(cursor.offset, AccountFilter::One(account), LIST_BYTES).await?;
            for event in chunk.batches.iter().flat_map(|batch| batch.events()) {
                let next = Cursor { offset: event.offset, ..cursor };
                let mut letter = match decode(partition, &event) {
                    Ok(letter) => letter,
                    Err(_) if !letters.is_empty() => {
                        return Ok(DeadLetterPage { letters, next: Some(next.text()) });
                    }
                    Err(error) => return Err(error),
                };
                let is_selected =
                    query.subscription.is_none_or(|subscription| subscription == letter.subscription);
                if !is_selected || letters.iter().any(|other| other.id == letter.id) {
                    continue;
                }
                bytes += letter.event.len() + letter.detail.len();
                let is_full = letters.len() == limit || bytes > PAGE_BYTES_MAX;
                if is_full && !letters.is_empty() {
                    return Ok(DeadLetterPage { letters, next: Some(next.text()) });
                }
                // A copy: a slice would keep the whole chunk in memory for as long as the page.
                letter.event = Bytes::copy_from_slice(&letter.event);
                letters.push(letter);
            }
            // Advances by one offset at least, so that a chunk without events cannot stop the list.
            cursor.offset = chunk.next.max(cursor.offset.plus(1));
        }
        Ok(DeadLetterPage { letters, next: None })
    }

    /// None if the account has no dead letter with this id.
    ///
    /// # Errors
    /// If the stream cannot be read, or the dead letter cannot be decoded.
    pub(crate) async fn get(&self, account: AccountId, id: &str) -> Result<Option<DeadLetter>, ReadError> {
        let Some(id) = u128::from_str_radix(id, 16).ok().filter(|_| id.len() == 32) else { return Ok(None) };
        for partition in &self.partitions {
            if let Some(event) = partition.find(account, EventIdHash(id)).await? {
                let mut letter = decode(partition, &event)?;
                letter.event = Bytes::copy_from_slice(&letter.event);
                return Ok(Some(letter));
            }
        }
        Ok(None)
    }

    /// Index of the partition that stores all of the account's dead letters.
    fn partition_of(&self, account: AccountId) -> usize {
        let count = self.partitions.len() as u64;
        let index = KeyHash::of(&account.to_string()).0 % count;
        usize::try_from(index).expect("a remainder of a length is an index")
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

/// # Errors
/// If the event is no dead letter that this program can read.
fn decode(partition: &Partition, event: &StoredEvent) -> Result<DeadLetter, ReadError> {
    DeadLetter::decode(&event.bytes).map_err(|error| ReadError::DataLoss {
        partition: partition.id(),
        detail: error.to_string(),
        offsets: event.offset..event.offset.plus(1),
    })
}

/// Trims the partition by its own retention: no subscription settles dead letters.
pub(crate) async fn keep_trimmed(partition: Partition, intervals: Intervals, stop: CancellationToken) {
    let mut checks = interval(Duration::from_millis(intervals.retention_check_ms));
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(checks.tick()).await.is_some() {
        let role = *partition.role().borrow();
        let (Role::Leader { term }, Some(target)) = (role, partition.trim_target()) else { continue };
        if let Err(error) = partition.trim(term, target).await {
            tracing::warn!(partition = %partition.id(), %error, "failed to trim dead letters; the next check tries again");
        }
    }
}

//! The stream `dead-letters`: written before an event is settled as dead-lettered, read back for people.

use std::ops::Range;

use bytes::Bytes;
use fanfare_cluster::{Directory, RouteError};
use fanfare_model::{AccountId, EventIdHash, KeyHash, Offset, PartitionId, Stream, SubscriptionId};
use fanfare_partition::{
    AccountFilter, AppendError, Partition, ReadError, Reason, RecordBatchBuilder, StartRedrive, StoredEvent,
};

use super::{DeadLetter, DeadLetterKey, DeadLetterRecord, LetterPage, StoredLetter};

const PAGE_MAX: usize = 1_000;
/// Limit of events and details on a page; one dead letter may exceed the limit alone.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// Size of one read while listing.
const LIST_BYTES: u64 = 256 << 10;

/// Letters of a redrive that are in memory at once: as many may come again after a crash.
const REDRIVE_PAGE_MAX: usize = 64;

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

/// Reason why dead letters cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeadLetterError {
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The beginning of a page: partition of the stream and offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    partition: u16,
    offset: Offset,
}

/// Writes and reads dead letters. All dead letters of an account go to one partition, so that they have an order.
pub(crate) struct DeadLetterStream {
    directory: Directory,
}

impl DeadLetterStream {
    pub(crate) fn new(directory: Directory) -> Self {
        Self { directory }
    }

    /// Returns when the dead letter is committed. A repeat of a committed one succeeds and changes nothing.
    ///
    /// # Errors
    /// If the append failed. [`AppendError::OverQuota`] says that the account's dead letters, or all, are at their
    /// limit.
    pub(crate) async fn append(
        &self,
        account: AccountId,
        event_key: KeyHash,
        record: &DeadLetterRecord<'_>,
    ) -> Result<(), AppendError> {
        let mut batch = RecordBatchBuilder::new(account, 0);
        batch.push(&record.encode(), record.key.id(), event_key);
        // A repeat with another time or detail resolves as a conflict; the first dead letter stays.
        self.directory.append(self.partition_of(account), batch.finish()).await.map(drop)
    }

    /// The reason of the dead letter, if it is committed. None also of a partition on another node, or a damaged one.
    ///
    /// # Errors
    /// If the stream cannot be read at present.
    pub(crate) async fn reason_of(
        &self,
        account: AccountId,
        key: &DeadLetterKey,
    ) -> Result<Option<Reason>, DeadLetterError> {
        let partition = match self.directory.recovered(self.partition_of(account)).await {
            Ok(partition) => partition,
            Err(RouteError::NotLocal { .. } | RouteError::NotFound { .. }) => return Ok(None),
            Err(error @ RouteError::Recovering { .. }) => return Err(error.into()),
        };
        let stored = match partition.find(account, key.id()).await {
            Err(ReadError::DataLoss { .. }) => return Ok(None),
            stored => stored?,
        };
        Ok(stored.and_then(|event| decode(&partition, &event).ok()).map(|letter| letter.settled_as))
    }

    /// One page of the account's dead letters. A page ends before a dead letter that cannot be decoded.
    ///
    /// # Errors
    /// If a partition is not on this node or cannot be read, or the first dead letter of the page cannot be decoded.
    pub(crate) async fn list(
        &self,
        account: AccountId,
        query: DeadLetterQuery,
    ) -> Result<DeadLetterPage, DeadLetterError> {
        let limit = match query.limit {
            0 => PAGE_MAX,
            limit => limit.min(PAGE_MAX),
        };
        let start = query.after.as_deref().and_then(Cursor::parse);
        let mut cursor = start.unwrap_or(Cursor { partition: 0, offset: Offset::ZERO });
        let mut letters: Vec<DeadLetter> = Vec::new();
        let mut bytes = 0;
        let partitions = self.directory.partitions_of(Stream::DeadLetters);
        while let Some(id) = partitions.iter().find(|id| id.index >= cursor.partition) {
            if id.index > cursor.partition {
                cursor = Cursor { partition: id.index, offset: Offset::ZERO };
            }
            let partition = self.directory.recovered(*id).await?;
            let positions = *partition.positions().borrow();
            cursor.offset = cursor.offset.max(positions.log_start);
            if cursor.offset >= positions.high_watermark {
                // An unreadable partition is an error and not the end of the list: it may store more dead letters.
                if let Some(damage) = partition.damage() {
                    return Err(damage.into());
                }
                let Some(partition) = cursor.partition.checked_add(1) else { break };
                cursor = Cursor { partition, offset: Offset::ZERO };
                continue;
            }
            let chunk = partition.read(cursor.offset, AccountFilter::One(account), LIST_BYTES).await?;
            for event in chunk.batches.iter().flat_map(|batch| batch.events()) {
                let next = Cursor { offset: event.offset, ..cursor };
                let mut letter = match decode(&partition, &event) {
                    Ok(letter) => letter,
                    Err(_) if !letters.is_empty() => {
                        return Ok(DeadLetterPage { letters, next: Some(next.text()) });
                    }
                    Err(error) => return Err(error.into()),
                };
                let is_selected =
                    query.subscription.is_none_or(|subscription| subscription == letter.subscription);
                let is_selected = is_selected && !partition.redrives().is_withdrawn(event.offset);
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
    /// If a partition is not on this node or cannot be read, or the dead letter cannot be decoded.
    pub(crate) async fn get(
        &self,
        account: AccountId,
        id: &str,
    ) -> Result<Option<DeadLetter>, DeadLetterError> {
        let Some(id) = u128::from_str_radix(id, 16).ok().filter(|_| id.len() == 32) else { return Ok(None) };
        for partition in self.directory.partitions_of(Stream::DeadLetters) {
            let partition = self.directory.recovered(partition).await?;
            if let Some(event) = partition.find(account, EventIdHash(id)).await?
                && !partition.redrives().is_withdrawn(event.offset)
            {
                let mut letter = decode(&partition, &event)?;
                letter.event = Bytes::copy_from_slice(&letter.event);
                return Ok(Some(letter));
            }
        }
        Ok(None)
    }

    /// The account's partition, when it has applied all that was acknowledged.
    ///
    /// # Errors
    /// If the partition is not on this node.
    pub(crate) async fn home(&self, account: AccountId) -> Result<Partition, RouteError> {
        self.directory.recovered(self.partition_of(account)).await
    }

    /// As [`Self::home`], without a wait. None if the partition is not on this node.
    pub(crate) fn home_now(&self, account: AccountId) -> Option<Partition> {
        self.directory.local(self.partition_of(account)).ok()
    }

    /// Letters of a redrive within `range` that are listed and that `takes` chooses. A letter that cannot be decoded is
    /// passed over: it stays.
    ///
    /// # Errors
    /// If the partition cannot be read.
    pub(crate) async fn page(
        &self,
        partition: &Partition,
        of: &StartRedrive,
        range: Range<Offset>,
        takes: impl Fn(&DeadLetter) -> bool,
    ) -> Result<LetterPage, DeadLetterError> {
        let from = range.start.max(partition.positions().borrow().log_start).min(range.end);
        if from == range.end {
            return Ok(LetterPage { letters: Vec::new(), next: from });
        }
        let chunk = partition.read(from, AccountFilter::One(of.account), LIST_BYTES).await?;
        let mut letters: Vec<StoredLetter> = Vec::new();
        let events = chunk.batches.iter().flat_map(|batch| batch.events());
        for event in events.take_while(|event| event.offset < range.end) {
            let Ok(mut letter) = decode(partition, &event) else { continue };
            let is_chosen = letter.subscription == of.subscription
                && !partition.redrives().is_withdrawn(event.offset)
                && takes(&letter);
            if !is_chosen {
                continue;
            }
            if letters.len() == REDRIVE_PAGE_MAX {
                return Ok(LetterPage { letters, next: event.offset });
            }
            letter.event = Bytes::copy_from_slice(&letter.event);
            letters.push(StoredLetter { offset: event.offset, key: event.header.key, letter });
        }
        Ok(LetterPage { letters, next: chunk.next.max(from.plus(1)).min(range.end) })
    }

    /// The partition that takes the account's dead letters. The directory does not find it if there is none.
    fn partition_of(&self, account: AccountId) -> PartitionId {
        let partitions = self.directory.partitions_of(Stream::DeadLetters);
        let count = partitions.len().max(1) as u64;
        let index = usize::try_from(KeyHash::of(&account.to_string()).0 % count);
        let index = index.expect("a remainder of a length is an index");
        partitions.get(index).copied().unwrap_or(PartitionId { stream: Stream::DeadLetters, index: 0 })
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

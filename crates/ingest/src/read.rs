//! Reading committed events back: from a position, merged over the partitions of the account as they come.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::Arc,
};

use fanfare_catalog::{AccountView, Catalog, Tenant};
use fanfare_model::{AccountId, Event, EventIdHash, Offset, Timestamp};
use fanfare_partition::{AccountFilter, Partition, Positions, ReadError, Role, StoredEvent};
use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Read from the log at a time.
const CHUNK_BYTES: u64 = 256 << 10;
/// Events given to the reader at a time end at the first that reaches this.
const PAGE_BYTES: usize = 256 << 10;
/// Pages that the connection has not taken. With the one that is filled and the one that is sent, a read whose
/// client takes nothing holds about 1 MiB, and more only for events that are larger than a page.
const PAGES_MAX: usize = 2;
/// A read that looks for events in a log full of others' gives way after so many chunks.
const CHUNKS_PER_TURN: usize = 16;

/// Reads events for every edge of this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reads {
    catalog: Catalog,
    events: Vec<Partition>,
    places: Places,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// How many reads there may be at once.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// On the node.
    pub reads_max: usize,
    /// Of one account.
    pub account_reads_max: usize,
}

/// Where a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Earliest,
    Latest,
    Offset(Offset),
    Time(Timestamp),
}

/// What to read.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    /// All partitions of the account if none.
    pub(crate) partition: Option<u32>,
    pub(crate) from: From,
    /// Go on at the end instead of ending there.
    pub(crate) follow: bool,
    /// All types if empty.
    pub(crate) types: BTreeSet<String>,
    /// No limit if none.
    pub(crate) limit: Option<u64>,
}

/// Why a read ends or does not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("the account has no events in partition {asked}: its partitions are {known:?}")]
    NotItsPartition { asked: u32, known: Vec<u16> },
    #[error("an offset belongs to one partition: name the partition too")]
    PartitionMissing,
    #[error("offset {asked} is not written yet: the next one is {high_watermark}")]
    Ahead { asked: Offset, high_watermark: Offset },
    #[error("{of} has {limit} reads open, which is the most it may have: end one, or retry later")]
    ReadsOpen { of: &'static str, limit: usize },
    #[error("the node is shutting down: read on from the last offset on another connection")]
    Draining,
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Events of one partition, in order.
pub(crate) struct Page {
    pub(crate) partition: u16,
    pub(crate) events: Vec<StoredEvent>,
}

impl Reads {
    pub(crate) fn new(
        catalog: Catalog,
        events: Vec<Partition>,
        limits: ReadLimits,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { catalog, events, places: Places::new(limits), tasks, stop }
    }

    /// Starts a read on the node's tasks; its place is to be held until its pages are sent. Positions are resolved when
    /// this returns: whatever is committed after that is seen by a read from the latest.
    pub(crate) async fn start(
        &self,
        tenant: Tenant,
        query: Query,
    ) -> Result<(mpsc::Receiver<Result<Page, Problem>>, Place), Problem> {
        let place = self.places.take(tenant.account())?;
        let mut cursors = Vec::new();
        for partition in self.partitions_read(tenant, query.partition)? {
            cursors.push(Cursor::open(partition, tenant, query.from).await?);
        }
        let (pages, receiver) = mpsc::channel(PAGES_MAX);
        let reading = Reading { tenant, query, cursors, pages, stop: self.stop.clone() };
        self.tasks.spawn(reading.run());
        Ok((receiver, place))
    }

    /// The newest event of this identity, with its partition.
    pub(crate) async fn find(
        &self,
        tenant: Tenant,
        source: &str,
        id: &str,
    ) -> Result<Option<(u16, StoredEvent)>, Problem> {
        let mut newest: Option<(u16, StoredEvent)> = None;
        for partition in self.partitions_read(tenant, None)? {
            let found = partition.find(tenant.account(), EventIdHash::of(source, id)).await?;
            // Two identities may share a hash; the event itself says which it is.
            let found = found.filter(|found| {
                Event::parse(&found.bytes).is_ok_and(|event| event.source == source && event.id == id)
            });
            if let Some(found) = found
                && newest.as_ref().is_none_or(|(_, newest)| newest.append_time <= found.append_time)
            {
                newest = Some((partition.id().index, found));
            }
        }
        Ok(newest)
    }

    fn partitions_read(&self, tenant: Tenant, asked: Option<u32>) -> Result<Vec<Partition>, Problem> {
        let view = self.catalog.view();
        let known = view.account(tenant.account()).map(|account| shard(account)).unwrap_or_default();
        let read = match asked {
            None => known,
            Some(asked) => match known.iter().find(|index| u32::from(**index) == asked) {
                Some(index) => vec![*index],
                None => return Err(Problem::NotItsPartition { asked, known }),
            },
        };
        Ok(read.into_iter().filter_map(|index| self.events.get(usize::from(index)).cloned()).collect())
    }
}

fn shard(account: &AccountView) -> Vec<u16> {
    account.account.shard.partitions.clone()
}

/// One partition's part of a read.
struct Cursor {
    partition: Partition,
    positions: watch::Receiver<Positions>,
    next: Offset,
    /// The high watermark when the read began: where one that does not follow ends.
    end: Offset,
}

impl Cursor {
    async fn open(partition: Partition, tenant: Tenant, from: From) -> Result<Self, Problem> {
        let positions = partition.positions();
        let Positions { log_start, high_watermark, .. } = *positions.borrow();
        let next = match from {
            From::Earliest => log_start,
            From::Latest => high_watermark,
            From::Time(time) => partition.offset_at(time).await?,
            From::Offset(asked) if asked < log_start => {
                return Err(ReadError::OutOfRange { offset: asked, log_start }.into());
            }
            From::Offset(asked) if asked > high_watermark => {
                return Err(Problem::Ahead { asked, high_watermark });
            }
            From::Offset(asked) => asked,
        };
        if next == high_watermark {
            // A partition whose log is damaged looks empty: only a read of it tells the two apart.
            partition.read(next, AccountFilter::One(tenant.account()), 0).await?;
        }
        Ok(Self { partition, positions, next, end: high_watermark })
    }

    fn has_more(&self, follow: bool) -> bool {
        match follow {
            true => self.next < self.positions.borrow().high_watermark,
            false => self.next < self.end,
        }
    }

    async fn more(&mut self) {
        let (next, mut role) = (self.next, self.partition.role());
        let news = tokio::select! {
            news = self.positions.wait_for(|positions| positions.high_watermark > next) => news.is_ok(),
            news = role.wait_for(|role| *role == Role::Failed) => news.is_ok(),
        };
        if !news {
            // The partition is gone with the node; the stop token ends this read.
            std::future::pending::<()>().await;
        }
    }
}

/// Places for reads, of the node and of each account.
#[derive(Clone)]
struct Places {
    limits: ReadLimits,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_account: HashMap<AccountId, usize>,
}

/// A read's place; free again when dropped.
pub(crate) struct Place {
    account: AccountId,
    taken: Arc<Mutex<Taken>>,
}

impl Places {
    fn new(limits: ReadLimits) -> Self {
        Self { limits, taken: Arc::default() }
    }

    fn take(&self, account: AccountId) -> Result<Place, Problem> {
        let mut taken = self.taken.lock();
        let ReadLimits { reads_max, account_reads_max } = self.limits;
        if taken.all >= reads_max {
            return Err(Problem::ReadsOpen { of: "the node", limit: reads_max });
        }
        let own = taken.by_account.entry(account).or_default();
        if *own >= account_reads_max {
            return Err(Problem::ReadsOpen { of: "the account", limit: account_reads_max });
        }
        *own += 1;
        taken.all += 1;
        Ok(Place { account, taken: self.taken.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        taken.all -= 1;
        if let Some(own) = taken.by_account.get_mut(&self.account) {
            *own -= 1;
            if *own == 0 {
                taken.by_account.remove(&self.account);
            }
        }
    }
}

/// A read under way: one task, which owns its cursors.
struct Reading {
    tenant: Tenant,
    query: Query,
    cursors: Vec<Cursor>,
    pages: mpsc::Sender<Result<Page, Problem>>,
    stop: CancellationToken,
}

/// The reader is gone, or has all that it asked for.
struct Done;

impl Reading {
    async fn run(mut self) {
        let (pages, stop) = (self.pages.clone(), self.stop.clone());
        tokio::select! {
            biased;
            () = stop.cancelled() => drop(pages.try_send(Err(Problem::Draining))),
            () = pages.closed() => {}
            result = self.read() => {
                if let Err(problem) = result {
                    drop(pages.send(Err(problem)).await);
                }
            }
        }
    }

    async fn read(&mut self) -> Result<(), Problem> {
        loop {
            let mut idle = true;
            for index in 0..self.cursors.len() {
                for _ in 0..CHUNKS_PER_TURN {
                    if !self.cursors[index].has_more(self.query.follow) {
                        break;
                    }
                    idle = false;
                    if self.chunk(index).await?.is_err() {
                        return Ok(());
                    }
                }
            }
            if idle && let Some(damage) = self.cursors.iter().find_map(|cursor| cursor.partition.damage()) {
                return Err(damage.into());
            }
            match (idle, self.query.follow) {
                (false, _) => tokio::task::yield_now().await,
                (true, true) => self.news().await,
                (true, false) => return Ok(()),
            }
        }
    }

    /// Reads one chunk of one partition and hands on what of it was asked for.
    async fn chunk(&mut self, index: usize) -> Result<Result<(), Done>, Problem> {
        let account = AccountFilter::One(self.tenant.account());
        let cursor = &mut self.cursors[index];
        let end = if self.query.follow { Offset(u64::MAX) } else { cursor.end };
        let chunk = cursor.partition.read(cursor.next, account, CHUNK_BYTES).await?;
        cursor.next = chunk.next;
        let partition = cursor.partition.id().index;
        let mut events = Vec::new();
        let mut bytes = 0;
        for batch in &chunk.batches {
            for event in batch.events().filter(|event| event.offset < end) {
                if !self.query.wants(&event) {
                    continue;
                }
                bytes += event.bytes.len();
                events.push(event);
                let last = self.query.count_down();
                if last || bytes >= PAGE_BYTES {
                    bytes = 0;
                    let page = Page { partition, events: mem::take(&mut events) };
                    if self.pages.send(Ok(page)).await.is_err() || last {
                        return Ok(Err(Done));
                    }
                }
            }
        }
        if !events.is_empty() && self.pages.send(Ok(Page { partition, events })).await.is_err() {
            return Ok(Err(Done));
        }
        Ok(Ok(()))
    }

    /// Waits until a partition has more, or will never have more.
    async fn news(&mut self) {
        let mut waits: FuturesUnordered<_> = self.cursors.iter_mut().map(Cursor::more).collect();
        waits.next().await;
    }
}

impl Query {
    fn wants(&self, event: &StoredEvent) -> bool {
        self.types.is_empty()
            || Event::parse(&event.bytes).is_ok_and(|event| self.types.contains(event.event_type))
    }

    /// Counts one event; whether it was the last.
    fn count_down(&mut self) -> bool {
        match &mut self.limit {
            None => false,
            Some(left) => {
                *left = left.saturating_sub(1);
                *left == 0
            }
        }
    }
}

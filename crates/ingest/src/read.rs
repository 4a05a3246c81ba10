//! Reading committed events back: from a position, merged over the partitions of the account in the order of arrival.

mod cursor;
mod limiter;
mod merge;
mod query;

use fanfare_catalog::Tenant;
use fanfare_cluster::RouteError;
use fanfare_model::{Event, EventIdHash, PartitionId};
use fanfare_partition::{Partition, StoredEvent};
use futures_util::{TryFutureExt, future::try_join_all};
use tokio::sync::mpsc;

use self::{
    cursor::Cursor,
    limiter::{ReadLimiter, ReadPermit},
    merge::Merge,
};
pub use self::{
    limiter::ReadLimits,
    query::{ReadFrom, ReadQuery, ReadRefusal},
};
use crate::ingest::IngestParts;

/// Pages that the connection has not taken. With the page being filled and the page being sent, a read whose client
/// takes nothing holds about 1 MiB, and more only for events that are larger than a page.
const PAGES_MAX: usize = 2;

/// Reads events for every protocol of this node. Cheap to clone.
#[derive(Clone)]
pub struct EventReader {
    parts: IngestParts,
    limiter: ReadLimiter,
}

/// Events of one partition, in order.
pub struct EventPage {
    pub partition: u16,
    pub events: Vec<StoredEvent>,
}

/// Pages of one open read. Counts against the limits of its account until it is dropped.
pub struct EventPages {
    pages: mpsc::Receiver<Result<EventPage, ReadRefusal>>,
    _permit: ReadPermit,
}

impl EventReader {
    #[must_use]
    pub fn new(parts: IngestParts, limits: ReadLimits) -> Self {
        Self { parts, limiter: ReadLimiter::new(limits) }
    }

    /// Starts a read on a task of the node. Positions are resolved when this returns: whatever is committed after that
    /// is seen by a read from the latest.
    ///
    /// # Errors
    /// If the query is not valid for the account, too many reads are open, or a partition cannot be read.
    pub async fn open(&self, tenant: Tenant, query: ReadQuery) -> Result<EventPages, ReadRefusal> {
        let permit = self.limiter.acquire(tenant.account())?;
        let mut cursors = Vec::new();
        for partition in self.partitions_of(tenant, query.partition).await? {
            cursors.push(Cursor::open(partition, tenant, query.from).await?);
        }
        let (sender, pages) = mpsc::channel(PAGES_MAX);
        let merge = Merge { tenant, query, cursors, pages: sender, stop: self.parts.stop.clone() };
        self.parts.tasks.spawn(merge.run());
        Ok(EventPages { pages, _permit: permit })
    }

    /// The newest event of this identity, with its partition.
    ///
    /// # Errors
    /// If a partition of the account cannot be read.
    pub async fn find(
        &self,
        tenant: Tenant,
        source: &str,
        id: &str,
    ) -> Result<Option<(u16, StoredEvent)>, ReadRefusal> {
        let mut newest: Option<(u16, StoredEvent)> = None;
        for partition in self.partitions_of(tenant, None).await? {
            let event = partition.find(tenant.account(), EventIdHash::of(source, id)).await?;
            // Two identities may share a hash: the event itself decides.
            let event = event.filter(|stored| {
                Event::parse(&stored.bytes).is_ok_and(|event| event.source == source && event.id == id)
            });
            if let Some(event) = event
                && newest.as_ref().is_none_or(|(_, newest)| newest.append_time <= event.append_time)
            {
                newest = Some((partition.id().index, event));
            }
        }
        Ok(newest)
    }

    /// The account's partitions, or the one named, when all that was acknowledged is applied there.
    async fn partitions_of(&self, tenant: Tenant, named: Option<u32>) -> Result<Vec<Partition>, ReadRefusal> {
        let view = self.parts.catalog.view();
        let own = view.account(tenant.account()).map(|view| view.account.shard.partitions.clone());
        let own = own.unwrap_or_default();
        let indexes = match named {
            None => own,
            Some(named) => match own.iter().find(|index| u32::from(**index) == named) {
                Some(index) => vec![*index],
                None => return Err(ReadRefusal::PartitionUnknown { named, own }),
            },
        };
        let recovered = indexes.into_iter().map(|index| {
            let partition = PartitionId::events(index);
            let recovered = self.parts.directory.recovered(partition);
            recovered.map_err(move |error| match error {
                RouteError::Recovering { .. } => ReadRefusal::Recovering { partition },
                RouteError::NotFound { .. } | RouteError::NotLocal { .. } => {
                    ReadRefusal::NotHere { partition }
                }
            })
        });
        self.parts
            .stop
            .run_until_cancelled(try_join_all(recovered))
            .await
            .unwrap_or(Err(ReadRefusal::Draining))
    }
}

impl EventPages {
    /// The next page; none at the end of the read. An error is the last item.
    pub async fn next(&mut self) -> Option<Result<EventPage, ReadRefusal>> {
        self.pages.recv().await
    }
}

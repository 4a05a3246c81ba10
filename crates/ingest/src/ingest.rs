//! The core of publishing, whatever the edge: from raw events to what became of each.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fanfare_catalog::{
    AccountView, Catalog, Tenant,
    json_schema::{CompiledSchema, SchemaCache},
};
use fanfare_model::Offset;
use fanfare_partition::Partition;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::Admission,
    lanes::Lanes,
    refusal::Refusal,
    round::{Gathering, InFlight, Settled},
    validation::{Checked, Validation, Version},
};

/// How long a publish waits for its commit before its outcome is called unknown.
const COMMIT_WAIT_MAX: Duration = Duration::from_secs(30);
/// Data validated before other tasks of the thread get their turn.
const VALIDATED_BYTES_PER_TURN: usize = 128 << 10;

/// What the publishing edges may hold.
#[derive(Clone, Copy, Debug)]
pub struct IngestLimits {
    /// One event.
    pub event_bytes_max: usize,
    /// The events of one request.
    pub request_bytes_max: usize,
    /// All requests of the node that are read and not yet answered.
    pub inflight_bytes_max: u32,
    /// One stream's unanswered events and bytes.
    pub stream_window_events: u32,
    pub stream_window_bytes: u32,
    /// Documents of the schemas that are kept compiled.
    pub schema_cache_bytes: usize,
}

/// Where an event was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    pub partition: u16,
    pub offset: Offset,
    /// Its identity had been committed before; the position is the first one's.
    pub duplicate: bool,
}

pub type PublishOutcome = Result<Committed, Refusal>;

/// Takes events in for every edge of this node. Cheap to clone.
#[derive(Clone)]
pub struct Ingest {
    shared: Arc<Shared>,
}

struct Shared {
    catalog: Catalog,
    /// By index in the stream `events`.
    events: Vec<Partition>,
    limits: IngestLimits,
    admission: Admission,
    schemas: SchemaCache,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Ingest {
    /// `stop` ends open streams; what they had been given is still answered. Their tasks are `tasks`'s.
    #[must_use]
    pub fn new(
        catalog: Catalog,
        events: Vec<Partition>,
        limits: IngestLimits,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let admission = Admission::new(limits.inflight_bytes_max);
        let schemas = SchemaCache::new(limits.schema_cache_bytes);
        Self { shared: Arc::new(Shared { catalog, events, limits, admission, schemas, tasks, stop }) }
    }

    /// Publishes events, each the bytes of an `io.cloudevents.v1.CloudEvent`, and answers when each is committed or
    /// refused, in the order given. Dropping the future leaves the outcome unknown; repeat with the same ids.
    pub async fn publish(&self, tenant: Tenant, events: Vec<Bytes>) -> Vec<PublishOutcome> {
        self.publish_all(tenant, events.iter().map(|event| &event[..])).await
    }

    pub(crate) async fn publish_all<'event>(
        &self,
        tenant: Tenant,
        events: impl ExactSizeIterator<Item = &'event [u8]> + Clone,
    ) -> Vec<PublishOutcome> {
        let count = events.len();
        let all = |refusal: &Refusal| vec![Err(refusal.clone()); count];
        let size_bytes = events.clone().map(<[u8]>::len).sum();
        let _share = match self.admission().admit(size_bytes) {
            Ok(share) => share,
            Err(refusal) => return all(&refusal),
        };
        let view = match self.account(tenant) {
            Ok(view) => view,
            Err(refusal) => return all(&refusal),
        };
        let (mut gathering, mut lanes) = (Gathering::expecting(count, size_bytes), Lanes::default());
        self.gather(&view, events, &mut lanes, &mut gathering).await;
        let settled = self.commit(gathering.append(self.partitions(), &mut lanes)).await;
        (0..settled.len()).map(|index| settled.outcome(index)).collect()
    }

    /// Validates events and gathers the good ones; those of partitions that `lanes` hold are refused as behind.
    pub(crate) async fn gather<'event>(
        &self,
        view: &AccountView,
        events: impl Iterator<Item = &'event [u8]>,
        lanes: &mut Lanes,
        gathering: &mut Gathering,
    ) {
        let mut validation = Validation::new(view, self.limits().event_bytes_max);
        let mut last_schema = None;
        let mut validated_bytes = 0;
        for event in events {
            let checked = match validation.check(event) {
                Ok(checked) => checked,
                Err(refusal) => {
                    gathering.refuse(refusal);
                    continue;
                }
            };
            let partition = view.account.shard.route(checked.key);
            if let Some(version) = checked.schema {
                if let Err(refusal) = self.validate(&checked, version, &mut last_schema).await {
                    lanes.hold(refusal.is_retryable().then_some(partition));
                    gathering.refuse(refusal);
                    continue;
                }
                validated_bytes += event.len();
                if validated_bytes > VALIDATED_BYTES_PER_TURN {
                    validated_bytes = 0;
                    tokio::task::yield_now().await;
                }
            }
            match lanes.is_held(partition) {
                true => gathering.refuse(Refusal::Behind),
                false => gathering.place(view, partition, event, &checked),
            }
        }
    }

    /// Waits for the partitions, but not for ever.
    pub(crate) async fn commit(&self, in_flight: InFlight) -> Settled {
        in_flight.settled(COMMIT_WAIT_MAX).await
    }

    /// The tenant's part of the newest catalog.
    pub(crate) fn account(&self, tenant: Tenant) -> Result<Arc<AccountView>, Refusal> {
        self.shared.catalog.view().account(tenant.account()).cloned().ok_or(Refusal::Draining)
    }

    async fn validate<'view>(
        &self,
        checked: &Checked<'_, 'view>,
        version: Version<'view>,
        last: &mut Option<(&'view Arc<str>, Arc<CompiledSchema>)>,
    ) -> Result<(), Refusal> {
        let document = version.document();
        let compiled = match last {
            Some((last, compiled)) if Arc::ptr_eq(last, document) => compiled,
            _ => &mut last.insert((document, self.compiled(version).await?)).1,
        };
        compiled.validate(checked.data).map_err(|problem| Refusal::Data {
            schema_id: version.schema.id.clone(),
            version: version.number,
            problem,
        })
    }

    /// Compiles on a blocking thread what is not compiled yet.
    async fn compiled(&self, version: Version<'_>) -> Result<Arc<CompiledSchema>, Refusal> {
        let document = version.document();
        if let Some(compiled) = self.shared.schemas.cached(document) {
            return Ok(compiled);
        }
        let (shared, document) = (self.shared.clone(), document.clone());
        let compiled = self.shared.tasks.spawn_blocking(move || shared.schemas.compiled(&document)).await;
        // Only a runtime that is being shut down drops a task that has not begun.
        compiled.map_err(|_| Refusal::Draining)?.map_err(|problem| Refusal::Schema {
            schema_id: version.schema.id.clone(),
            version: version.number,
            problem,
        })
    }

    pub(crate) fn limits(&self) -> &IngestLimits {
        &self.shared.limits
    }

    pub(crate) fn admission(&self) -> &Admission {
        &self.shared.admission
    }

    pub(crate) fn partitions(&self) -> &[Partition] {
        &self.shared.events
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.shared.tasks
    }

    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.shared.stop
    }
}

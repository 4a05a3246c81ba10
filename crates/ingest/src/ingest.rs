//! Publishing, whatever the protocol: from raw events to the outcome of each.

use std::{sync::Arc, time::Duration};

use fanfare_catalog::{
    AccountView, Catalog, Tenant,
    json_schema::{CompiledSchema, SchemaCache},
};
use fanfare_cluster::Directory;
use fanfare_environment::Environment;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::Admission,
    batch::{BatchSize, InflightBatch, PublishBatch},
    order::StreamOrder,
    outcome::{BatchOutcome, PublishOutcome},
    refusal::Refusal,
    validation::{Checked, SchemaRef, Validation},
};

/// Longest wait of a publish for its commit; after that its outcome is unknown.
const COMMIT_WAIT_MAX: Duration = Duration::from_secs(30);
/// Data validated before other tasks of the thread get their turn.
const VALIDATED_BYTES_PER_TURN: usize = 128 << 10;

/// Limits of publishing on one node.
#[derive(Clone, Copy, Debug)]
pub struct IngestLimits {
    /// Bytes of one event.
    pub event_bytes_max: usize,
    /// Bytes of the events of one request.
    pub request_bytes_max: usize,
    /// Bytes of all requests of the node that are read and not yet answered.
    pub inflight_bytes_max: u32,
    /// Unanswered events of one stream.
    pub stream_window_events: u32,
    /// Unanswered bytes of one stream.
    pub stream_window_bytes: u32,
    /// Documents of the schemas that are kept compiled.
    pub schema_cache_bytes: usize,
}

/// Parts of the node that publishing and reading stand on.
#[derive(Clone)]
pub struct IngestParts {
    pub catalog: Catalog,
    pub directory: Directory,
    pub environment: Environment,
    /// Owner of the tasks of open streams.
    pub tasks: TaskTracker,
    /// Ends open streams when cancelled; batches appended before are still answered.
    pub stop: CancellationToken,
}

/// Publishes for every protocol of this node. Cheap to clone.
#[derive(Clone)]
pub struct Ingest {
    shared: Arc<Shared>,
}

struct Shared {
    parts: IngestParts,
    limits: IngestLimits,
    admission: Admission,
    schemas: SchemaCache,
}

impl Ingest {
    #[must_use]
    pub fn new(parts: IngestParts, limits: IngestLimits) -> Self {
        let admission = Admission::new(limits.inflight_bytes_max);
        let schemas = SchemaCache::new(limits.schema_cache_bytes);
        Self { shared: Arc::new(Shared { parts, limits, admission, schemas }) }
    }

    /// Publishes events, each the bytes of an `io.cloudevents.v1.CloudEvent`, and answers when each is committed or
    /// refused, in the order of `events`. Dropping the future leaves the outcome unknown; repeat with the same ids.
    pub async fn publish<'event>(
        &self,
        tenant: Tenant,
        events: impl ExactSizeIterator<Item = &'event [u8]> + Clone,
    ) -> Vec<PublishOutcome> {
        let expected = BatchSize { events: events.len(), bytes: events.clone().map(<[u8]>::len).sum() };
        let refuse_all = |refusal: &Refusal| vec![Err(refusal.clone()); expected.events];
        let _permit = match self.admit(expected.bytes) {
            Ok(permit) => permit,
            Err(refusal) => return refuse_all(&refusal),
        };
        let mut batch = match self.account(tenant) {
            Ok(view) => PublishBatch::new(view, expected),
            Err(refusal) => return refuse_all(&refusal),
        };
        let mut order = StreamOrder::default();
        self.add(&mut batch, events, &mut order).await;
        let outcome = self.outcome(batch.append(self.directory(), &mut order)).await;
        assert_eq!(outcome.len(), expected.events, "invariant violation: every event has one outcome");
        (0..outcome.len()).map(|index| outcome.event(index)).collect()
    }

    /// Waits until each event of the batch is committed or refused, or its outcome is called unknown.
    pub async fn outcome(&self, batch: InflightBatch) -> BatchOutcome {
        batch.outcome(COMMIT_WAIT_MAX).await
    }

    /// Memory for `size_bytes` of events between reading a request and answering it; given back when dropped.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`] if the node holds as much as it may.
    pub fn admit(&self, size_bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        self.shared.admission.admit(size_bytes)
    }

    #[must_use]
    pub fn limits(&self) -> &IngestLimits {
        &self.shared.limits
    }

    /// Owner of the tasks of open streams.
    #[must_use]
    pub fn tasks(&self) -> &TaskTracker {
        &self.shared.parts.tasks
    }

    /// Ends open streams when cancelled.
    #[must_use]
    pub fn stop(&self) -> &CancellationToken {
        &self.shared.parts.stop
    }

    /// Validates events and adds each to the batch, as routed or refused; events of partitions that `order` holds are
    /// refused as behind.
    pub(crate) async fn add<'event>(
        &self,
        batch: &mut PublishBatch,
        events: impl Iterator<Item = &'event [u8]>,
        order: &mut StreamOrder,
    ) {
        let view = batch.view().clone();
        let mut validation = Validation::new(&view, self.limits().event_bytes_max);
        let mut last_schema = None;
        let mut validated_bytes = 0;
        for event in events {
            let checked = match validation.check(event) {
                Ok(checked) => checked,
                Err(refusal) => {
                    batch.refuse(refusal);
                    continue;
                }
            };
            let partition = view.account.shard.route(checked.key);
            if let Some(schema) = checked.schema {
                if let Err(refusal) = self.validate_data(&checked, schema, &mut last_schema).await {
                    order.hold(refusal.is_retryable().then_some(partition));
                    batch.refuse(refusal);
                    continue;
                }
                validated_bytes += event.len();
                if validated_bytes > VALIDATED_BYTES_PER_TURN {
                    validated_bytes = 0;
                    tokio::task::yield_now().await;
                }
            }
            match order.is_held(partition) {
                true => batch.refuse(Refusal::Behind),
                false => batch.add(partition, event, &checked),
            }
        }
    }

    /// The tenant's part of the newest catalog.
    pub(crate) fn account(&self, tenant: Tenant) -> Result<Arc<AccountView>, Refusal> {
        self.shared.parts.catalog.view().account(tenant.account()).cloned().ok_or(Refusal::Draining)
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.shared.parts.directory
    }

    /// `last` is the schema of the event before: neighbours mostly share it.
    async fn validate_data<'view>(
        &self,
        checked: &Checked<'_, 'view>,
        schema: SchemaRef<'view>,
        last: &mut Option<(&'view Arc<str>, Arc<CompiledSchema>)>,
    ) -> Result<(), Refusal> {
        let document = schema.document();
        let compiled = match last {
            Some((last, compiled)) if Arc::ptr_eq(last, document) => compiled,
            _ => &mut last.insert((document, self.compiled(schema).await?)).1,
        };
        compiled.validate(checked.data).map_err(|problem| Refusal::Data {
            schema_id: schema.schema.id.clone(),
            version: schema.version,
            problem,
        })
    }

    /// Takes a compiled schema from the cache, or compiles it off the runtime's threads.
    async fn compiled(&self, schema: SchemaRef<'_>) -> Result<Arc<CompiledSchema>, Refusal> {
        let document = schema.document();
        if let Some(compiled) = self.shared.schemas.cached(document) {
            return Ok(compiled);
        }
        let (shared, document) = (self.shared.clone(), document.clone());
        let compiled =
            self.shared.parts.environment.run_blocking(move || shared.schemas.compiled(&document)).await;
        compiled.map_err(|problem| Refusal::Schema {
            schema_id: schema.schema.id.clone(),
            version: schema.version,
            problem,
        })
    }
}

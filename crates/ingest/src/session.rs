//! One producer's stream of events, without its framing.

use fanfare_catalog::Tenant;

use crate::{
    batch::{BatchSize, InflightBatch, PublishBatch},
    ingest::Ingest,
    order::StreamOrder,
    refusal::Refusal,
};

/// Publishes batches one after the other so that the events of each partition are committed in order.
///
/// An event refused with [`Refusal::is_retryable`] holds back every later event of its partition, in this batch and in
/// later ones, with [`Refusal::Behind`], until [`Self::resume`].
pub struct PublishSession {
    ingest: Ingest,
    tenant: Tenant,
    order: StreamOrder,
}

impl PublishSession {
    #[must_use]
    pub fn new(ingest: Ingest, tenant: Tenant) -> Self {
        Self { ingest, tenant, order: StreamOrder::default() }
    }

    /// Opens every partition that is held back: the producer resends from its first refused event.
    pub fn resume(&mut self) {
        self.order.resume();
    }

    /// An empty batch.
    ///
    /// # Errors
    /// [`Refusal::Draining`] if the account is gone.
    pub fn start_batch(&self, expected: BatchSize) -> Result<PublishBatch, Refusal> {
        Ok(PublishBatch::new(self.ingest.account(self.tenant)?, expected))
    }

    /// Validates and adds events, each the bytes of an `io.cloudevents.v1.CloudEvent`. Their memory is admitted by the
    /// caller, see [`Ingest::admit`].
    pub async fn add<'event>(
        &mut self,
        batch: &mut PublishBatch,
        events: impl Iterator<Item = &'event [u8]>,
    ) {
        self.ingest.add(batch, events, &mut self.order).await;
    }

    /// Adds `count` events that are not looked at: the first is refused with `refusal`, which a retry cures, the others
    /// as behind it. Holds back every partition of the account, because the events' partitions are not known.
    pub fn refuse(&mut self, batch: &mut PublishBatch, count: usize, refusal: Refusal) {
        debug_assert!(refusal.is_retryable(), "only a refusal that a retry cures holds partitions back");
        self.order.hold(batch.view().account.shard.partitions.iter().copied());
        let behind = (1..count).map(|_| Refusal::Behind);
        let refusals = (count > 0).then_some(refusal).into_iter().chain(behind);
        refusals.for_each(|refusal| batch.refuse(refusal));
    }

    /// Queues the batch behind the session's earlier ones. Does not wait for its commit, see [`Ingest::outcome`].
    pub fn append(&mut self, batch: PublishBatch) -> InflightBatch {
        batch.append(self.ingest.directory(), &mut self.order)
    }
}

//! The sinks that deliveries use: one of each on this node, with its permits.

use std::{collections::HashMap, sync::Arc};

use fanfare_model::{Sink as SinkSpec, SinkId};
use fanfare_sinks::{Factory, Sink};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::judgement::SharedBreaker;

/// A sink as configured at one revision.
pub(crate) struct OpenSink {
    pub(crate) revision: u64,
    /// What is wrong with the configuration, if it cannot be opened: everything is held.
    pub(crate) sink: Result<Arc<dyn Sink>, String>,
    /// Requests at once, shared by all subscriptions and partitions, and by all revisions of the sink.
    pub(crate) permits: Arc<Semaphore>,
    /// Shared by all subscriptions and partitions. A new revision begins with a closed one.
    pub(crate) breaker: Arc<SharedBreaker>,
}

pub(crate) struct SinkPool {
    factory: Factory,
    concurrency: usize,
    sinks: Mutex<HashMap<SinkId, Arc<OpenSink>>>,
}

impl SinkPool {
    pub(crate) fn new(factory: Factory, concurrency: usize) -> Self {
        Self { factory, concurrency, sinks: Mutex::default() }
    }

    pub(crate) fn get(&self, spec: &SinkSpec) -> Arc<OpenSink> {
        let mut sinks = self.sinks.lock();
        if let Some(known) = sinks.get(&spec.id)
            && known.revision == spec.revision
        {
            return known.clone();
        }
        let permits = sinks
            .get(&spec.id)
            .map_or_else(|| Arc::new(Semaphore::new(self.concurrency)), |known| known.permits.clone());
        let sink = self.factory.build(&spec.config).map_err(|error| error.to_string());
        let opened = Arc::new(OpenSink { revision: spec.revision, sink, permits, breaker: Arc::default() });
        sinks.insert(spec.id, opened.clone());
        opened
    }

    /// The sink exists no more.
    pub(crate) fn forget(&self, id: SinkId) {
        self.sinks.lock().remove(&id);
    }
}

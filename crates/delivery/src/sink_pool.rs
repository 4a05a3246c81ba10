//! The sinks that deliveries use: one instance of each on this node, with its permits.

use std::{collections::HashMap, sync::Arc};

use fanfare_model::{Sink as SinkConfiguration, SinkId};
use fanfare_sinks::{Factory, Sink};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::judgement::SharedBreaker;

/// A sink as configured at one revision.
pub(crate) struct OpenSink {
    pub(crate) revision: u64,
    /// The problem of a configuration of which no sink can be made: its subscriptions wait.
    pub(crate) sink: Result<Arc<dyn Sink>, String>,
    /// One permit per concurrent request, shared by all subscriptions, partitions and revisions of the sink.
    pub(crate) permits: Arc<Semaphore>,
    /// Shared by all subscriptions and partitions. A new revision begins with a closed one.
    pub(crate) breaker: Arc<SharedBreaker>,
}

/// Opens each revision of a sink once.
pub(crate) struct SinkPool {
    factory: Factory,
    concurrency: usize,
    sinks: Mutex<HashMap<SinkId, Arc<OpenSink>>>,
}

impl SinkPool {
    pub(crate) fn new(factory: Factory, concurrency: usize) -> Self {
        Self { factory, concurrency, sinks: Mutex::default() }
    }

    /// The sink as configured by `config`, opened unless it is open at this revision.
    pub(crate) fn get(&self, config: &SinkConfiguration) -> Arc<OpenSink> {
        let mut sinks = self.sinks.lock();
        if let Some(open) = sinks.get(&config.id)
            && open.revision == config.revision
        {
            return open.clone();
        }
        let permits = sinks
            .get(&config.id)
            .map_or_else(|| Arc::new(Semaphore::new(self.concurrency)), |open| open.permits.clone());
        let sink = self.factory.build(config.account, &config.config).map_err(|error| error.to_string());
        let breaker = SharedBreaker::new(self.concurrency);
        let opened = Arc::new(OpenSink { revision: config.revision, sink, permits, breaker });
        sinks.insert(config.id, opened.clone());
        opened
    }

    /// Closes a sink that was deleted.
    pub(crate) fn remove(&self, id: SinkId) {
        self.sinks.lock().remove(&id);
    }
}

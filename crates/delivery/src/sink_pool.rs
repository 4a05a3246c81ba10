//! The sinks that deliveries use: one instance of each on this node, with its permits.

use std::{collections::HashMap, sync::Arc};

use fanfare_model::{DeliverySettings, Sink as SinkConfiguration, SinkConfig, SinkId};
use fanfare_sinks::{Factory, Sink};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{DeliveryOptions, RetryPolicy, judgement::SharedBreaker};

/// A sink as configured at one revision.
pub(crate) struct OpenSink {
    pub(crate) revision: u64,
    /// The problem of a configuration of which no sink can be made: its subscriptions wait.
    pub(crate) sink: Result<Arc<dyn Sink>, String>,
    /// One permit per concurrent request, shared by all subscriptions and partitions of the sink, and by its revisions
    /// until one has another limit: requests under the earlier limit then end beside it.
    pub(crate) permits: Arc<Semaphore>,
    /// Shared by all subscriptions and partitions. Closed when the configuration changes; delivery settings leave it as
    /// it is.
    pub(crate) breaker: Arc<SharedBreaker>,
    /// The node's, with the settings of the sink.
    pub(crate) retry: RetryPolicy,
    concurrency_max: usize,
    config: SinkConfig,
}

/// Opens each revision of a sink once.
pub(crate) struct SinkPool {
    factory: Factory,
    options: Arc<DeliveryOptions>,
    sinks: Mutex<HashMap<SinkId, Arc<OpenSink>>>,
}

impl SinkPool {
    pub(crate) fn new(factory: Factory, options: Arc<DeliveryOptions>) -> Self {
        Self { factory, options, sinks: Mutex::default() }
    }

    /// The sink as configured by `config`, opened unless it is open at this revision or a later one.
    pub(crate) fn get(&self, config: &SinkConfiguration) -> Arc<OpenSink> {
        let mut sinks = self.sinks.lock();
        let earlier = sinks.get(&config.id);
        if let Some(open) = earlier
            && open.revision >= config.revision
        {
            return open.clone();
        }
        let opened = Arc::new(self.open(config, earlier.map(|open| &**open)));
        sinks.insert(config.id, opened.clone());
        opened
    }

    /// Closes a sink that was deleted.
    pub(crate) fn remove(&self, id: SinkId) {
        self.sinks.lock().remove(&id);
    }

    fn open(&self, config: &SinkConfiguration, earlier: Option<&OpenSink>) -> OpenSink {
        let settings = &config.delivery;
        let concurrency_max = settings.concurrency_max.map_or(usize::MAX, |max| max as usize);
        let concurrency_max = concurrency_max.min(self.options.sink_concurrency);
        let permits = match earlier {
            Some(earlier) if earlier.concurrency_max == concurrency_max => earlier.permits.clone(),
            Some(_) | None => Arc::new(Semaphore::new(concurrency_max)),
        };
        let (sink, breaker) = match earlier {
            Some(earlier) if earlier.config == config.config => {
                (earlier.sink.clone(), earlier.breaker.clone())
            }
            Some(_) | None => {
                let sink = self.factory.build(config.account, &config.config);
                (sink.map_err(|error| error.to_string()), SharedBreaker::new(concurrency_max))
            }
        };
        breaker.lock().set_limits(config.revision, concurrency_max, settings.requests_per_second_max);
        let retry = with_settings(&self.options.retry, settings);
        let (revision, config) = (config.revision, config.config.clone());
        OpenSink { revision, sink, permits, breaker, retry, concurrency_max, config }
    }
}

/// The node's policy, with what the sink sets itself.
fn with_settings(of_node: &RetryPolicy, settings: &DeliverySettings) -> RetryPolicy {
    let max_ms = settings.retry_max_ms.unwrap_or(of_node.max_ms);
    RetryPolicy {
        // A maximum below the node's first delay shortens that one, too.
        initial_ms: settings.retry_initial_ms.unwrap_or(of_node.initial_ms).min(max_ms),
        max_ms,
        attempts_max: settings.attempts_max.or(of_node.attempts_max),
        ..of_node.clone()
    }
}

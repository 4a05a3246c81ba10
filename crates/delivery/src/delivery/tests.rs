//! The whole path over real partitions and a real catalog, with files and sinks in memory.
//!
//! Whatever settles, the account of every subscription is checked: see [`World::settled`].

mod atomic;
mod catalog;
mod changes;
mod dead_letters;
mod directory;
mod filters;
mod order;
mod outage;
mod quota;
mod redrive;
mod restart;
mod retention;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use fanfare_catalog::{
    CatalogOptions, EventTypeStatus, NewEventType, NewSink, NewSubscription, SinkChange, Tenant, ViewStorage,
};
use fanfare_cluster::{AppendForwarder, Location, Locations, NoForwarder};
use fanfare_log::{MemoryFileSystem, Store, StoreOptions, memory::Keep};
use fanfare_model::{
    DeliverySettings, Event, KeyHash, Offset, ReplicaId, Secret, Sink, SinkConfig, StartAt, SubscribedType,
    Subscription, Timestamp, WebhookConfig, WebhookMethod,
};
use fanfare_partition::{
    Budgets, MemoryLimits, PartitionOptions, PartitionReplica, Quota, RecordBatchBuilder, Role,
};
use fanfare_raft::Host;
use fanfare_sinks::{
    Delivery as Delivered, EgressPolicy, Failure, Outcome as Answer,
    memory::{MemorySink, Network},
};
use tokio::time::{interval, timeout};

use super::*;
use crate::{RetryPolicy, State, leader::LeaderContext};

/// Longer than anything here takes on a busy machine; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(30);
const PARTITIONS: u16 = 2;
const WINDOW: usize = 16;

struct TestClock(AtomicU64);

impl fanfare_environment::Clock for TestClock {
    fn unix_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// What survives a crash.
struct Machine {
    fs: MemoryFileSystem,
    dir: tempfile::TempDir,
    network: Network,
    clock: Arc<TestClock>,
    forwarder: Arc<dyn AppendForwarder>,
    setup: Setup,
}

#[derive(Clone)]
struct Setup {
    delivery: DeliveryOptions,
    partition: PartitionOptions,
    intervals: Intervals,
    dead_letter_quota: Quota,
    cache_bytes: u64,
}

/// A node of one account.
struct World {
    machine: Machine,
    catalog: Catalog,
    events: Vec<Partition>,
    dead_letters: Partition,
    locations: watch::Sender<Arc<Locations>>,
    store: Store,
    delivery: Delivery,
    key: String,
}

impl Default for Setup {
    fn default() -> Self {
        let retry = RetryPolicy {
            initial_ms: 2,
            max_ms: 20,
            factor: 2.0,
            attempts_max: Some(4),
            rejections_min: 4,
            rejected_for_min_ms: 200,
            probe_initial_ms: 5,
            probe_max_ms: 50,
        };
        Self {
            delivery: DeliveryOptions {
                window_events: WINDOW,
                window_bytes: 1 << 20,
                advance_interval_ms: 20,
                sink_concurrency: 8,
                retry,
                parked_keys_max: 8,
                fanout_chunk_bytes: 4 << 10,
            },
            partition: PartitionOptions {
                retention_ms: 60_000,
                retention_bytes: 1 << 30,
                segment_bytes: 1 << 20,
                entry_bytes_max: 64 << 10,
                dedup_window_ms: 100,
                checkpoint_interval_ms: 5,
                quota: None,
            },
            intervals: Intervals {
                retention_check_ms: 20,
                trim_interval_ms: 50,
                reconcile_timeout_ms: 20_000,
            },
            dead_letter_quota: Quota::Limit { account_bytes_max: 1 << 30, stream_bytes_max: 1 << 30 },
            cache_bytes: 4 << 20,
        }
    }
}

impl Setup {
    fn limit_dead_letters(&mut self, account_bytes_max: u64, stream_bytes_max: u64) {
        self.dead_letter_quota = Quota::Limit { account_bytes_max, stream_bytes_max };
    }

    /// Little is enough for the log to have something to trim.
    fn of_small_segments() -> Self {
        let mut setup = Self::default();
        setup.partition.segment_bytes = 4 << 10;
        setup.partition.entry_bytes_max = 1 << 10;
        setup
    }
}

impl World {
    async fn new() -> Self {
        Self::with(Setup::default()).await
    }

    async fn with(setup: Setup) -> Self {
        Self::with_forwarder(setup, Arc::new(NoForwarder)).await
    }

    async fn with_forwarder(setup: Setup, forwarder: Arc<dyn AppendForwarder>) -> Self {
        let machine = Machine {
            fs: MemoryFileSystem::default(),
            dir: tempfile::tempdir().unwrap(),
            network: Network::default(),
            clock: Arc::new(TestClock(AtomicU64::new(1_000_000))),
            forwarder,
            setup,
        };
        Self::open(machine, None).await
    }

    async fn open(machine: Machine, key: Option<String>) -> Self {
        let Setup { delivery: options, partition, intervals, dead_letter_quota, cache_bytes } =
            machine.setup.clone();
        let store = StoreOptions {
            segment_bytes: partition.segment_bytes,
            pool_segments_max: 2,
            cache_bytes,
            queue_bytes_max: 16 << 20,
            index_draft_bytes_max: 64 << 20,
            page_cache_bytes: 0,
        };
        let fatal = Box::new(|fatal: &fanfare_log::Fatal| panic!("{fatal}"));
        let environment = Environment::system().with_clock(machine.clock.clone());
        let files = Arc::new(machine.fs.clone());
        let store = Store::open(&Environment::system(), files, Path::new("/data"), store, fatal).unwrap();
        let view = ViewStorage::Directory(machine.dir.path().to_owned());
        let catalog_options = CatalogOptions { partitions: PARTITIONS, ..CatalogOptions::default() };
        let host = Host::without_peers(store.clone(), environment.clone());
        let catalog = Catalog::open(&host, view, catalog_options).await.unwrap();
        let key = match key {
            Some(key) => key,
            None => {
                let account = catalog.create_account("test").await.unwrap();
                catalog.create_key(account.id, "").await.unwrap().text.expose().to_owned()
            }
        };
        let limits = MemoryLimits {
            dedup_bytes_max: 8 << 20,
            queue_bytes_max: 64 << 20,
            read_cache_bytes_max: 16 << 20,
        };
        let budgets = Budgets::new(limits, 1);
        let open = async |id, options: &PartitionOptions| {
            let tasks = TaskTracker::new();
            let alone = PartitionReplica::alone(id, ReplicaId(1), &host);
            let opened = Partition::open(alone, &host, options.clone(), &budgets, tasks).await.unwrap();
            let mut role = opened.role();
            let leads = role.wait_for(|role| matches!(role, Role::Leader { .. }));
            timeout(DEADLINE, leads).await.expect("it leads in time").unwrap();
            opened
        };
        let mut events = Vec::new();
        for index in 0..PARTITIONS {
            events.push(open(PartitionId::events(index), &partition).await);
        }
        let letters =
            PartitionOptions { retention_bytes: u64::MAX, quota: Some(dead_letter_quota), ..partition };
        let dead_letters = open(PartitionId::dead_letters(0), &letters).await;
        let here = events.iter().chain([&dead_letters]);
        let here = here.map(|partition| (partition.id(), Location::Local(partition.clone())));
        let locations = watch::Sender::new(Arc::new(here.collect::<Locations>()));
        let parts = DeliveryParts {
            catalog: catalog.clone(),
            directory: Directory::new(locations.subscribe(), machine.forwarder.clone()),
            sinks: Factory::in_memory(
                EgressPolicy { allow_http: true, allow_loopback: true, ..EgressPolicy::default() },
                Environment::system(),
                machine.network.clone(),
            ),
            environment,
        };
        let delivery = Delivery::start_with_intervals(parts, options, intervals);
        Self { machine, catalog, events, dead_letters, locations, store, delivery, key }
    }

    /// Power off and on again: only what was synced is left, and nothing of this process.
    async fn crash(self) -> Self {
        let Self { machine, catalog, events, dead_letters, store, delivery, key, .. } = self;
        delivery.cancel.cancel();
        let fs = machine.fs.crashed(|_| Keep::Nothing);
        catalog.shutdown().await;
        drop((delivery, events, dead_letters, store));
        Self::open(Machine { fs, ..machine }, Some(key)).await
    }

    /// An orderly stop and start.
    async fn restart(self) -> Self {
        let Self { machine, catalog, events, dead_letters, store, delivery, key, .. } = self;
        delivery.shutdown(Duration::from_secs(5)).await;
        for partition in events.iter().chain([&dead_letters]) {
            partition.shutdown().await;
        }
        catalog.shutdown().await;
        let fs = machine.fs.crashed(|_| Keep::Nothing);
        drop((delivery, events, dead_letters, store));
        Self::open(Machine { fs, ..machine }, Some(key)).await
    }

    fn tenant(&self) -> Tenant {
        self.catalog.authenticate(&self.key).expect("the key was made here")
    }

    fn sink(&self, name: &str) -> Arc<MemorySink> {
        self.machine.network.sink(&destination(name))
    }

    /// The partition of the subscription's events.
    fn home(&self, subscription: &Subscription) -> &Partition {
        let view = self.catalog.view();
        let home = view.account(subscription.account).unwrap().account.shard.partitions[0];
        &self.events[usize::from(home)]
    }

    async fn create_type(&self, name: &str, schema: Option<&str>) {
        let new = NewEventType {
            name: name.to_owned(),
            description: String::new(),
            schema: schema.map(str::to_owned),
            status: EventTypeStatus::Available,
        };
        self.catalog.create_event_type(self.tenant(), new).await.unwrap();
    }

    async fn create_sink(&self, name: &str) -> Arc<Sink> {
        self.catalog.create_sink(self.tenant(), new_sink(webhook(name))).await.unwrap()
    }

    /// A sink and a subscription of `types` to it, from now on, in effect.
    async fn subscribe(&self, sink: &str, types: &[&str]) -> Arc<Subscription> {
        for name in types {
            let view = self.catalog.view();
            let known = view.account(self.tenant().account()).unwrap().event_types.contains_key(*name);
            if !known {
                self.create_type(name, None).await;
            }
        }
        let sink = self.create_sink(sink).await;
        self.subscribe_to(&sink, types, StartAt::Next).await
    }

    async fn subscribe_to(&self, sink: &Sink, types: &[&str], start: StartAt) -> Arc<Subscription> {
        let new = subscription(sink, types);
        let created = self.catalog.create_subscription(self.tenant(), new, start).await.unwrap();
        self.delivery.reconciled(created.account, created.id).await.unwrap();
        created
    }

    /// Publishes `numbers` as events of `event_type`, one batch, keys round robin of `keys`.
    async fn publish(&self, event_type: &str, keys: &[&str], numbers: std::ops::Range<usize>) {
        let events = numbers.map(|number| event(event_type, keys[number % keys.len()], number, "{}"));
        self.append(events.collect()).await;
    }

    async fn append(&self, events: Vec<Vec<u8>>) {
        let account = self.tenant().account();
        let shard = self.catalog.view().account(account).unwrap().account.shard.clone();
        let mut batches: BTreeMap<u16, RecordBatchBuilder> = BTreeMap::new();
        for bytes in &events {
            let event = Event::parse(bytes).unwrap();
            let key = event.key_hash();
            let batch = batches.entry(shard.route(key));
            batch.or_insert_with(|| RecordBatchBuilder::new(account, shard.epoch)).push(
                bytes,
                event.id_hash(),
                key,
            );
        }
        for (partition, batch) in batches {
            let receipt = self.events[usize::from(partition)].append(batch.finish()).unwrap();
            assert_eq!(receipt.committed().await.unwrap().duplicates, []);
        }
    }

    fn stats(&self, subscription: &Subscription) -> SubscriptionStats {
        let stats =
            self.delivery.stats(subscription.account, subscription.id).expect("all partitions are here");
        check_account(&stats);
        stats
    }

    /// After `before` events, publishes deliverable ones of type `order`, numbered from 10,000 on, until the subscription has given up
    /// `dead_letters` others: each delivery proves that the sink takes events. Returns the number of published ones.
    async fn deliver_until_given_up(
        &self,
        subscription: &Subscription,
        before: u64,
        dead_letters: u64,
    ) -> u64 {
        let waited = async {
            for published in 1_u64.. {
                let number = usize::try_from(10_000 + published).unwrap();
                self.publish("order", &["healthy"], number..number + 1).await;
                let stats = self
                    .stats_when(subscription, |stats| {
                        stats.matched == before + published && stats.delivered >= published
                    })
                    .await;
                if stats.dead_lettered == dead_letters {
                    return published;
                }
            }
            unreachable!("the deadline comes first")
        };
        timeout(DEADLINE, waited)
            .await
            .unwrap_or_else(|_| panic!("waited in vain: {:#?}", self.stats(subscription)))
    }

    /// Waits for a condition of the subscription's stats.
    async fn stats_when(
        &self,
        subscription: &Subscription,
        mut enough: impl FnMut(&SubscriptionStats) -> bool,
    ) -> SubscriptionStats {
        let mut ticks = interval(Duration::from_millis(2));
        let waited = async {
            loop {
                ticks.tick().await;
                let stats = self.stats(subscription);
                if enough(&stats) {
                    return stats;
                }
            }
        };
        timeout(DEADLINE, waited)
            .await
            .unwrap_or_else(|_| panic!("waited in vain: {:#?}", self.stats(subscription)))
    }

    /// Waits until `matched` events are matched, all are settled, and the replicated account says the same.
    async fn settled(&self, subscription: &Subscription, matched: u64) -> SubscriptionStats {
        let stats =
            self.stats_when(subscription, |stats| stats.matched == matched && stats.pending == 0).await;
        let mut ticks = interval(Duration::from_millis(2));
        let replicated = async {
            loop {
                ticks.tick().await;
                let counters = self.events.iter().filter_map(|partition| {
                    let record = partition.progress(subscription.id).and_then(|(_, record)| record);
                    Some((partition.counters(subscription.id)?, record))
                });
                let (sum, records) = counters.fold((0, 0), |(sum, records), (counters, record)| {
                    assert_eq!(counters.pending() == 0, record.is_none());
                    let settled: u64 = counters.settled.values().sum();
                    assert_eq!(counters.matched, settled + counters.pending());
                    (sum + settled, records + usize::from(record.is_some()))
                });
                if (sum, records) == (matched, 0) {
                    return;
                }
            }
        };
        timeout(DEADLINE, replicated).await.expect("what is settled is replicated");
        stats
    }

    /// Watches of the leaders that run now; see [`began_anew`].
    fn leaders(&self) -> Vec<watch::Receiver<Option<Arc<LeaderContext>>>> {
        let slots = self.delivery.slots.borrow().clone();
        let leaders = slots.values().map(|slot| slot.leader.subscribe());
        leaders
            .map(|mut leader| {
                assert!(leader.borrow_and_update().is_some(), "a leader runs");
                leader
            })
            .collect()
    }

    /// Damages everything but the beginning of the oldest segment of a partition whose log is in a directory so called.
    fn damage(&self, partition: &str) {
        let fs = &self.machine.fs;
        let is_segment = |path: &std::path::PathBuf| {
            path.to_string_lossy().contains(partition) && path.extension().is_some_and(|ext| ext == "seg")
        };
        let oldest = fs.paths().into_iter().find(is_segment).expect("the log has a segment");
        let end = fs.content(&oldest).unwrap().len() as u64;
        for at in (1_000..end).step_by(100) {
            fs.flip(&oldest, at, 1);
        }
    }

    async fn delivered(&self, sink: &str, count: usize) -> Vec<Delivered> {
        let sink = self.sink(sink);
        let delivered = sink.delivered_when(|delivered| delivered.len() >= count);
        timeout(DEADLINE, delivered).await.unwrap_or_else(|_| panic!("{} of {count}", sink.delivered().len()))
    }
}

/// True if a leader ended or another one began since [`World::leaders`]. A leader that begins anew starts from what is
/// replicated, and rightly repeats up to a window of each subscription: no test without a crash expects that.
fn began_anew(leaders: &[watch::Receiver<Option<Arc<LeaderContext>>>]) -> bool {
    // A slot that is gone has no leader.
    leaders.iter().any(|leader| leader.has_changed().unwrap_or(true))
}

fn check_account(stats: &SubscriptionStats) {
    let settled = stats.delivered + stats.dead_lettered + stats.expired + stats.cancelled;
    assert_eq!(stats.matched, settled + stats.pending, "{stats:?}");
}

fn destination(name: &str) -> String {
    format!("http://127.0.0.1/{name}")
}

fn webhook(name: &str) -> SinkConfig {
    SinkConfig::Webhook(WebhookConfig {
        destination: destination(name),
        method: WebhookMethod::Post,
        batch_events: false,
        batch_events_max: 1,
        timeout_ms: 5_000,
        signing_secret: Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()),
        previous_secret: None,
        twilio_auth_token: None,
    })
}

fn new_sink(config: SinkConfig) -> NewSink {
    NewSink { description: String::new(), config, delivery: DeliverySettings::default() }
}

fn subscription(sink: &Sink, types: &[&str]) -> NewSubscription {
    let types =
        types.iter().map(|name| SubscribedType { event_type: (*name).to_owned(), schema_version: None });
    NewSubscription { description: String::new(), sink: sink.id, types: types.collect() }
}

fn rejected() -> Answer {
    Answer::Rejected { why: Failure::new(Failure::HTTP_STATUS, "bad request").with_status(400) }
}

fn busy(message: &str) -> Answer {
    Answer::Retry { after: None, why: Failure::new(Failure::HTTP_STATUS, message).with_status(503) }
}

/// A CloudEvent with JSON text as its data; its id is `number`.
fn event(event_type: &str, key: &str, number: usize, data: &str) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| {
        assert!(bytes.len() < 128, "tests are short");
        let mut field = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        field.extend_from_slice(bytes);
        field
    };
    let text = |text: &str| field(3, text.as_bytes());
    let attribute =
        |name: &str, value: &str| field(5, &[field(1, name.as_bytes()), field(2, &text(value))].concat());
    [
        field(1, number.to_string().as_bytes()),
        field(2, b"/test"),
        field(3, b"1.0"),
        field(4, event_type.as_bytes()),
        attribute("partitionkey", key),
        field(7, data.as_bytes()),
    ]
    .concat()
}

fn number(delivered: &Delivered) -> usize {
    Event::parse(&delivered.bytes).unwrap().id.parse().unwrap()
}

fn numbers(delivered: &[Delivered]) -> Vec<usize> {
    delivered.iter().map(number).collect()
}

fn sorted(delivered: &[Delivered]) -> Vec<usize> {
    let mut numbers = numbers(delivered);
    numbers.sort_unstable();
    numbers
}

/// First deliveries of each key are in the order of publication.
fn check_order(delivered: &[Delivered]) {
    let mut newest: BTreeMap<KeyHash, usize> = BTreeMap::new();
    let mut seen = std::collections::BTreeSet::new();
    for delivery in delivered {
        let number = number(delivery);
        if seen.insert(number) {
            let before = newest.insert(delivery.key, number);
            assert!(before.is_none_or(|before| before < number), "{before:?} before {number}");
        }
    }
}

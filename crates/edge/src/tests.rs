//! The API as a client sees it: over TCP, with a real catalog, partitions and deliveries on files in memory.

mod control;
mod publish;
mod read;
mod stream;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fanfare_catalog::{Catalog, CatalogOptions, EventTypeStatus, NewEventType, Tenant, ViewStorage};
use fanfare_cluster::Directory;
use fanfare_control::Control;
use fanfare_delivery::{Delivery, DeliveryOptions, DeliveryParts, RetryPolicy};
use fanfare_environment::Environment;
use fanfare_ingest::{EventReader, Ingest, IngestLimits, IngestParts, ReadLimits};
use fanfare_log::{MemoryFileSystem, Store, StoreOptions};
use fanfare_model::{PartitionId, ReplicaId, Timestamp};
use fanfare_partition::{Budgets, MemoryLimits, Partition, PartitionOptions, PartitionReplica, Role};
use fanfare_proto::{
    cloudevents::v1::{
        CloudEvent,
        cloud_event::{CloudEventAttributeValue, Data, cloud_event_attribute_value::Attr},
    },
    v1::{publisher_service_client::PublisherServiceClient, reader_service_client::ReaderServiceClient},
};
use fanfare_raft::Host;
use fanfare_sinks::{EgressPolicy, Factory, memory::Network};
use tempfile::TempDir;
use tokio::{net::TcpListener, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Code, Request, Status,
    service::interceptor::InterceptedService,
    transport::{Channel, Server},
};
use tonic_types::StatusExt;

use crate::Services;

/// Longer than anything here takes on a busy machine; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(60);
/// Accounts are given shards among three partitions, of which the node has two: the third account's has no leader.
const PARTITIONS_KNOWN: u16 = 3;
const PARTITIONS_HERE: u16 = 2;

const LIMITS: IngestLimits = IngestLimits {
    event_bytes_max: 10_000,
    request_bytes_max: 50_000,
    inflight_bytes_max: 1 << 20,
    stream_window_events: 1000,
    stream_window_bytes: 1 << 20,
    schema_cache_bytes: 1 << 20,
};

const READ_LIMITS: ReadLimits = ReadLimits { reads_max: 5, account_reads_max: 3 };

/// The tests' time: each reading moves it by a step.
struct TestClock {
    now_ms: AtomicU64,
    step_ms: u64,
}

impl TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.now_ms.fetch_add(self.step_ms, Ordering::Relaxed))
    }
}

impl fanfare_environment::Clock for TestClock {
    fn unix_ms(&self) -> u64 {
        self.now().0
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.now_ms.load(Ordering::Relaxed))
    }
}

/// Properties in which the nodes of tests differ.
struct NodeOptions {
    fs: MemoryFileSystem,
    limits: IngestLimits,
    catalog: CatalogOptions,
    partitions_here: u16,
    clock_step_ms: u64,
}

impl Default for NodeOptions {
    /// Accounts are given shards among three partitions, of which the node has two. Time stands still.
    fn default() -> Self {
        Self {
            fs: MemoryFileSystem::default(),
            limits: LIMITS,
            catalog: CatalogOptions { partitions: PARTITIONS_KNOWN, ..CatalogOptions::default() },
            partitions_here: PARTITIONS_HERE,
            clock_step_ms: 0,
        }
    }
}

/// A node's public side, served, with sinks that record.
pub(crate) struct Node {
    fs: MemoryFileSystem,
    catalog: Catalog,
    events: Vec<Partition>,
    pub(crate) ingest: Ingest,
    network: Network,
    clock: Arc<TestClock>,
    channel: Channel,
    tasks: TaskTracker,
    stop: CancellationToken,
    _dir: TempDir,
}

/// One account and how it calls.
struct Caller {
    tenant: Tenant,
    partition: u16,
    key: String,
    publisher: PublisherServiceClient<InterceptedService<Channel, Bearer>>,
    reader: ReaderServiceClient<InterceptedService<Channel, Bearer>>,
}

/// Sends an API key.
#[derive(Clone)]
struct Bearer(String);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.0).parse().unwrap());
        Ok(request)
    }
}

impl Node {
    pub(crate) async fn new() -> Self {
        Self::start(NodeOptions::default()).await
    }

    async fn with(limits: IngestLimits) -> Self {
        Self::start(NodeOptions { limits, ..NodeOptions::default() }).await
    }

    async fn start(options: NodeOptions) -> Self {
        let NodeOptions { fs, limits, catalog, partitions_here, clock_step_ms } = options;
        let dir = TempDir::new().unwrap();
        let clock = Arc::new(TestClock { now_ms: AtomicU64::new(1_700_000_000_000), step_ms: clock_step_ms });
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let store = open_store(fs.clone());
        let host = Host::without_peers(store, Environment::system().with_clock(clock.clone()));
        let catalog = open_catalog(&host, dir.path(), catalog).await;
        let mut events = Vec::new();
        for index in 0..partitions_here {
            let id = PartitionId::events(index);
            events.push(open_partition(id, &host, tasks.clone()).await);
        }
        let letters = open_partition(PartitionId::dead_letters(0), &host, tasks.clone()).await;
        let network = Network::default();
        let environment = Environment::system();
        let sinks = Factory::in_memory(EgressPolicy::default(), environment.clone(), network.clone());
        let directory = Directory::of_local(events.iter().cloned().chain([letters]));
        let delivery = Delivery::start(
            DeliveryParts {
                catalog: catalog.clone(),
                directory: directory.clone(),
                sinks: sinks.clone(),
                environment: environment.clone().with_clock(clock.clone()),
            },
            delivery_options(),
        );
        let parts = IngestParts {
            catalog: catalog.clone(),
            directory,
            environment: environment.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let ingest = Ingest::new(parts.clone(), limits);
        let services = Services {
            ingest: ingest.clone(),
            reader: EventReader::new(parts, READ_LIMITS),
            control: Control::new(catalog.clone(), delivery, sinks, environment),
        };
        let channel = serve(services, &tasks).await;
        Self { fs, catalog, events, ingest, network, clock, channel, tasks, stop, _dir: dir }
    }

    /// A new account with the event types `paid`, and `old`, which is discontinued.
    async fn caller(&self, name: &str) -> Caller {
        let account = self.catalog.create_account(name).await.unwrap();
        let key = self.catalog.create_key(account.id, "").await.unwrap().text.expose().to_owned();
        let caller = Caller {
            tenant: self.catalog.authenticate(&key).unwrap(),
            partition: account.shard.partitions[0],
            publisher: self.publisher(&key),
            reader: ReaderServiceClient::with_interceptor(self.channel.clone(), Bearer(key.clone())),
            key,
        };
        self.event_type(&caller, "paid", None, EventTypeStatus::Available).await;
        self.event_type(&caller, "old", None, EventTypeStatus::Discontinued).await;
        caller
    }

    fn publisher(&self, key: &str) -> PublisherServiceClient<InterceptedService<Channel, Bearer>> {
        PublisherServiceClient::with_interceptor(self.channel.clone(), Bearer(key.to_owned()))
    }

    async fn event_type(&self, caller: &Caller, name: &str, schema: Option<&str>, status: EventTypeStatus) {
        let schema = schema.map(str::to_owned);
        let new = NewEventType { name: name.to_owned(), description: String::new(), schema, status };
        self.catalog.create_event_type(caller.tenant, new).await.unwrap();
    }

    fn pass(&self, millis: u64) {
        self.clock.now_ms.fetch_add(millis, Ordering::Relaxed);
    }
}

async fn serve(services: Services, tasks: &TaskTracker) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = services.into_routes().await.unwrap();
    let server = Server::builder().add_routes(routes).serve_with_incoming(TcpListenerStream::new(listener));
    tasks.spawn(server);
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

fn open_store(fs: MemoryFileSystem) -> Store {
    let options = StoreOptions {
        segment_bytes: 1 << 20,
        pool_segments_max: 1,
        cache_bytes: 8 << 20,
        queue_bytes_max: 8 << 20,
        index_draft_bytes_max: 64 << 20,
        page_cache_bytes: 0,
    };
    let fatal = Box::new(|fatal: &fanfare_log::Fatal| panic!("{fatal}"));
    Store::open(&Environment::system(), Arc::new(fs), Path::new("/data"), options, fatal).unwrap()
}

async fn open_catalog(host: &Host, dir: &Path, options: CatalogOptions) -> Catalog {
    let view = ViewStorage::Directory(dir.to_owned());
    let opened = Catalog::open(host, view, options);
    timeout(DEADLINE, opened).await.expect("it opens in time").expect("it opens")
}

async fn open_partition(id: PartitionId, host: &Host, tasks: TaskTracker) -> Partition {
    let options = PartitionOptions {
        retention_ms: u64::MAX / 2,
        retention_bytes: 1 << 30,
        segment_bytes: 1 << 20,
        entry_bytes_max: 1 << 20,
        dedup_window_ms: 600_000,
        checkpoint_interval_ms: 1000,
        quota: None,
    };
    let limits =
        MemoryLimits { dedup_bytes_max: 8 << 20, queue_bytes_max: 64 << 20, read_cache_bytes_max: 16 << 20 };
    let alone = PartitionReplica::alone(id, ReplicaId(1), host);
    let partition = Partition::open(alone, host, options, &Budgets::new(limits, 1), tasks).await.unwrap();
    let mut role = partition.role();
    let leads = role.wait_for(|role| matches!(role, Role::Leader { .. } | Role::Failed));
    timeout(DEADLINE, leads).await.expect("it leads in time").expect("the group runs");
    partition
}

fn delivery_options() -> DeliveryOptions {
    let retry = RetryPolicy {
        initial_ms: 1,
        max_ms: 5,
        factor: 2.0,
        attempts_max: Some(2),
        rejections_min: 2,
        rejected_for_min_ms: 10,
        probe_initial_ms: 5,
        probe_max_ms: 50,
    };
    DeliveryOptions {
        window_events: 100,
        window_bytes: 1 << 20,
        advance_interval_ms: 5,
        sink_concurrency: 8,
        retry,
        parked_keys_max: 100,
        fanout_chunk_bytes: 64 << 10,
    }
}

fn event(id: &str) -> CloudEvent {
    CloudEvent {
        id: id.to_owned(),
        source: "/tests".to_owned(),
        spec_version: "1.0".to_owned(),
        r#type: "paid".to_owned(),
        ..CloudEvent::default()
    }
}

fn with(mut event: CloudEvent, attribute: &str, value: Attr) -> CloudEvent {
    event.attributes.insert(attribute.to_owned(), CloudEventAttributeValue { attr: Some(value) });
    event
}

fn text(value: &str) -> Attr {
    Attr::CeString(value.to_owned())
}

fn json(mut event: CloudEvent, data: &str) -> CloudEvent {
    event.data = Some(Data::TextData(data.to_owned()));
    event
}

/// Code, reason, and whether it says when to retry.
fn told(status: &Status) -> (Code, String, bool) {
    let info = status.get_details_error_info().expect("every refusal has an ErrorInfo");
    assert_eq!(info.domain, "fanfare.dev");
    (status.code(), info.reason, status.get_details_retry_info().is_some())
}

/// The fields at fault.
fn fields(status: &Status) -> Vec<String> {
    let details = status.get_details_bad_request();
    details
        .into_iter()
        .flat_map(|details| details.field_violations)
        .map(|violation| violation.field)
        .collect()
}

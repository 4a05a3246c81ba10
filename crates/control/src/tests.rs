//! The services as a client sees them: over TCP, with a real catalog, partitions and deliveries in memory.

mod event_types;
mod schemas;
mod sinks;
mod subscriptions;
mod tenants;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fanfare_catalog::{Catalog, CatalogOptions, Tenant, ViewStorage};
use fanfare_delivery::{Delivery, DeliveryOptions, DeliveryParts, RetryPolicy};
use fanfare_environment::Environment;
use fanfare_log::{MemoryFileSystem, Store, StoreOptions};
use fanfare_model::{AccountId, EventIdHash, KeyHash, PartitionId, Timestamp};
use fanfare_partition::{Clock, Partition, PartitionOptions, RecordBatchBuilder, Role};
use fanfare_proto::v1::{
    self, dead_letter_service_client::DeadLetterServiceClient,
    dead_letter_service_server::DeadLetterServiceServer, event_type_service_client::EventTypeServiceClient,
    event_type_service_server::EventTypeServiceServer, schema_service_client::SchemaServiceClient,
    schema_service_server::SchemaServiceServer, sink_service_client::SinkServiceClient,
    sink_service_server::SinkServiceServer, subscription_service_client::SubscriptionServiceClient,
    subscription_service_server::SubscriptionServiceServer,
};
use fanfare_raft::Host;
use fanfare_sinks::{EgressPolicy, Factory, memory::Network};
use tempfile::TempDir;
use tokio::{net::TcpListener, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::TaskTracker;
use tonic::{
    Code, Request, Response, Status,
    service::interceptor::{InterceptedService, Interceptor},
    transport::{Channel, Server},
};
use tonic_types::StatusExt;

use crate::Control;

/// Longer than anything here takes on a busy machine; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(60);

/// The tests' time: it moves by a second whenever it is read.
struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1000, Ordering::Relaxed))
    }
}

impl fanfare_environment::Clock for TestClock {
    fn unix_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// A node's control side, served, with one partition and sinks that record.
struct Node {
    catalog: Catalog,
    events: Partition,
    network: Network,
    channel: Channel,
    _dir: TempDir,
}

/// One account and how it calls.
struct Caller {
    tenant: Tenant,
    event_types: EventTypeServiceClient<Authenticated>,
    schemas: SchemaServiceClient<Authenticated>,
    sinks: SinkServiceClient<Authenticated>,
    subscriptions: SubscriptionServiceClient<Authenticated>,
    dead_letters: DeadLetterServiceClient<Authenticated>,
}

type Authenticated = InterceptedService<Channel, Bearer>;

/// Sends an API key.
#[derive(Clone)]
struct Bearer(String);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("key", self.0.parse().unwrap());
        Ok(request)
    }
}

/// Stands for the ingest edge's authentication, which this crate does not know.
#[derive(Clone)]
struct Authentication(Catalog);

impl Interceptor for Authentication {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let key = request.metadata().get("key").map(|key| key.to_str().unwrap().to_owned());
        if let Some(tenant) = key.and_then(|key| self.0.authenticate(&key)) {
            request.extensions_mut().insert(tenant);
        }
        Ok(request)
    }
}

impl Node {
    async fn new() -> Self {
        Self::with(CatalogOptions { partitions: 1, schema_bytes_max: 2000, ..CatalogOptions::default() })
            .await
    }

    async fn with(options: CatalogOptions) -> Self {
        Self::on(MemoryFileSystem::default(), options).await
    }

    async fn on(fs: MemoryFileSystem, options: CatalogOptions) -> Self {
        let dir = TempDir::new().unwrap();
        let clock = Arc::new(TestClock(AtomicU64::new(1_700_000_000_000)));
        let tasks = TaskTracker::new();
        let store = open_store(fs);
        let environment = Environment::system().with_clock(clock.clone());
        let view = ViewStorage::Directory(dir.path().to_owned());
        let host = Host::without_peers(store, environment);
        let opened = Catalog::open(&host, view, options);
        let catalog = timeout(DEADLINE, opened).await.expect("it opens in time").expect("it opens");
        let events = open_partition(PartitionId::events(0), &host, clock.clone(), tasks.clone()).await;
        let letters = open_partition(PartitionId::dead_letters(0), &host, clock.clone(), tasks.clone()).await;
        let network = Network::default();
        let sinks = Factory::in_memory(EgressPolicy::default(), Environment::system(), network.clone());
        let parts = DeliveryParts {
            catalog: catalog.clone(),
            events: vec![events.clone()],
            dead_letters: vec![letters],
            sinks: sinks.clone(),
            clock,
            seed: 1,
        };
        let delivery = Delivery::start(parts, delivery_options());
        let control = Control::new(catalog.clone(), delivery, sinks, tasks.clone());
        let channel = serve(&control, &catalog, &tasks).await;
        Self { catalog, events, network, channel, _dir: dir }
    }

    async fn caller(&self, name: &str) -> Caller {
        let account = self.catalog.create_account(name).await.unwrap();
        let key = self.catalog.create_key(account.id, "").await.unwrap().text.expose().to_owned();
        let (channel, bearer) = (|| self.channel.clone(), Bearer(key.clone()));
        Caller {
            tenant: self.catalog.authenticate(&key).unwrap(),
            event_types: EventTypeServiceClient::with_interceptor(channel(), bearer.clone()),
            schemas: SchemaServiceClient::with_interceptor(channel(), bearer.clone()),
            sinks: SinkServiceClient::with_interceptor(channel(), bearer.clone()),
            subscriptions: SubscriptionServiceClient::with_interceptor(channel(), bearer.clone()),
            dead_letters: DeadLetterServiceClient::with_interceptor(channel(), bearer),
        }
    }

    /// Commits an event of `event_type` for the caller.
    async fn publish(&self, caller: &Caller, event_type: &str, id: &str) {
        use fanfare_proto::cloudevents::v1::CloudEvent;
        let event = CloudEvent {
            id: id.to_owned(),
            source: "/tests".to_owned(),
            spec_version: "1.0".to_owned(),
            r#type: event_type.to_owned(),
            ..CloudEvent::default()
        };
        let bytes = prost::Message::encode_to_vec(&event);
        let parsed = fanfare_model::Event::parse(&bytes).unwrap();
        let shard = self.catalog.view().account(caller.tenant.account()).unwrap().account.shard.clone();
        let mut batch = RecordBatchBuilder::new(caller.tenant.account(), shard.epoch);
        batch.push(&bytes, parsed.id_hash(), parsed.key_hash());
        let receipt = self.events.append(batch.finish()).unwrap();
        timeout(DEADLINE, receipt.committed()).await.expect("it is committed in time").unwrap();
    }
}

impl Caller {
    async fn event_type(&self, name: &str) -> v1::EventType {
        let event_type = Some(v1::EventType { name: name.to_owned(), ..v1::EventType::default() });
        let request = v1::CreateEventTypeRequest { event_type };
        let created = answer(self.event_types.clone().create_event_type(request)).await;
        created.unwrap().event_type.unwrap()
    }

    async fn sink(&self, sink: v1::Sink) -> Result<v1::Sink, Status> {
        let request = v1::CreateSinkRequest { sink: Some(sink) };
        answer(self.sinks.clone().create_sink(request)).await.map(|created| created.sink.unwrap())
    }
}

async fn serve(control: &Control, catalog: &Catalog, tasks: &TaskTracker) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (control, authentication) = (|| control.clone(), || Authentication(catalog.clone()));
    let server = Server::builder()
        .add_service(EventTypeServiceServer::with_interceptor(control(), authentication()))
        .add_service(SchemaServiceServer::with_interceptor(control(), authentication()))
        .add_service(SinkServiceServer::with_interceptor(control(), authentication()))
        .add_service(SubscriptionServiceServer::with_interceptor(control(), authentication()))
        .add_service(DeadLetterServiceServer::with_interceptor(control(), authentication()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tasks.spawn(server);
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

fn open_store(fs: MemoryFileSystem) -> Store {
    let options = StoreOptions {
        segment_bytes: 1 << 20,
        pool_segments_max: 1,
        cache_bytes: 8 << 20,
        queue_bytes_max: 8 << 20,
        page_cache_bytes: 0,
    };
    let fatal = Box::new(|fatal: &fanfare_log::Fatal| panic!("{fatal}"));
    Store::open(&fanfare_environment::Environment::system(), Arc::new(fs), Path::new("/data"), options, fatal)
        .unwrap()
}

async fn open_partition(
    id: PartitionId,
    host: &Host,
    clock: Arc<TestClock>,
    tasks: TaskTracker,
) -> Partition {
    let options = PartitionOptions {
        retention_ms: u64::MAX / 2,
        retention_bytes: 1 << 30,
        segment_bytes: 1 << 20,
        entry_bytes_max: 1 << 20,
        queue_bytes_max: 16 << 20,
        dedup_window_ms: 600_000,
        dedup_bytes_max: 1 << 20,
        checkpoint_interval_ms: 1000,
    };
    let partition = Partition::open(id, host, options, clock, tasks).await.unwrap();
    let mut role = partition.role();
    let leads = role.wait_for(|role| matches!(role, Role::Leader { .. } | Role::Failed));
    timeout(DEADLINE, leads).await.expect("it leads in time").expect("the group runs");
    partition
}

/// A disk on which these partitions hold something that cannot be read.
async fn damaged(partitions: &[PartitionId]) -> MemoryFileSystem {
    let fs = MemoryFileSystem::default();
    let (store, tasks) = (open_store(fs.clone()), TaskTracker::new());
    let host = Host::without_peers(store.clone(), Environment::system());
    for id in partitions {
        let clock = Arc::new(TestClock(AtomicU64::new(1_700_000_000_000)));
        let partition = open_partition(*id, &host, clock, tasks.clone()).await;
        let mut batch = RecordBatchBuilder::new(AccountId::from_bytes([1; 16]), 1);
        batch.push(&[7; 20_000], EventIdHash(1), KeyHash(1));
        let receipt = partition.append(batch.finish()).unwrap();
        timeout(DEADLINE, receipt.committed()).await.expect("it is committed in time").unwrap();
        partition.shutdown().await;
    }
    store.close();
    for id in partitions {
        let log = format!("{}-{}", id.stream.name(), id.index);
        let is_segment = |path: &PathBuf| {
            path.starts_with(format!("/data/logs/{log}")) && path.extension() == Some("seg".as_ref())
        };
        fs.flip(&fs.paths().into_iter().find(is_segment).expect("the log has a segment"), 10_000, 1);
    }
    fs
}

fn delivery_options() -> DeliveryOptions {
    let retry = RetryPolicy {
        initial_ms: 1,
        max_ms: 5,
        factor: 2.0,
        attempts_max: 2,
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
        dead_letter_bytes_max: 1 << 30,
        fanout_chunk_bytes: 64 << 10,
    }
}

fn webhook(destination: &str) -> v1::Sink {
    let webhook = v1::WebhookSink { destination: destination.to_owned(), ..v1::WebhookSink::default() };
    v1::Sink { kind: Some(v1::sink::Kind::Webhook(webhook)), ..v1::Sink::default() }
}

/// The answer to a call, in time.
async fn answer<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    timeout(DEADLINE, call).await.expect("it answers in time").map(Response::into_inner)
}

/// Code and reason.
fn told(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info().expect("every refusal has an ErrorInfo");
    assert_eq!(info.domain, "fanfare");
    (status.code(), info.reason)
}

/// The one field at fault.
fn field(status: &Status) -> String {
    let details = status.get_details_bad_request().expect("it names a field").field_violations;
    assert_eq!(details.len(), 1, "{details:?}");
    details[0].field.clone()
}

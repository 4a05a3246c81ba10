//! The control services as a client sees them.

mod event_types;
mod redrives;
mod schemas;
mod sinks;
mod subscriptions;
mod tenants;

use std::path::PathBuf;

use fanfare_model::{AccountId, EventIdHash, KeyHash};
use fanfare_partition::RecordBatchBuilder;
use fanfare_proto::v1::{
    self, dead_letter_service_client::DeadLetterServiceClient,
    event_type_service_client::EventTypeServiceClient, schema_service_client::SchemaServiceClient,
    sink_service_client::SinkServiceClient, subscription_service_client::SubscriptionServiceClient,
};
use tonic::Response;

use super::*;

/// A node with one partition, whose time moves by a second with each reading.
struct Node {
    catalog: Catalog,
    events: Partition,
    network: Network,
    channel: Channel,
    _node: super::Node,
}

/// One account and how it calls.
struct Caller {
    tenant: Tenant,
    key: String,
    event_types: EventTypeServiceClient<Authenticated>,
    schemas: SchemaServiceClient<Authenticated>,
    sinks: SinkServiceClient<Authenticated>,
    subscriptions: SubscriptionServiceClient<Authenticated>,
    dead_letters: DeadLetterServiceClient<Authenticated>,
}

type Authenticated = InterceptedService<Channel, Bearer>;

impl Node {
    async fn new() -> Self {
        Self::with(CatalogOptions { partitions: 1, schema_bytes_max: 2000, ..CatalogOptions::default() })
            .await
    }

    async fn with(options: CatalogOptions) -> Self {
        Self::on(MemoryFileSystem::default(), options).await
    }

    async fn on(fs: MemoryFileSystem, catalog: CatalogOptions) -> Self {
        let options =
            NodeOptions { fs, catalog, partitions_here: 1, clock_step_ms: 1000, ..NodeOptions::default() };
        let node = super::Node::start(options).await;
        Self {
            catalog: node.catalog.clone(),
            events: node.events[0].clone(),
            network: node.network.clone(),
            channel: node.channel.clone(),
            _node: node,
        }
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
            key,
        }
    }

    /// Commits an event of `event_type` for the caller.
    async fn publish(&self, caller: &Caller, event_type: &str, id: &str) {
        let event = CloudEvent { r#type: event_type.to_owned(), ..event(id) };
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
        let request = v1::CreateEventTypeRequest { event_type, ..Default::default() };
        let created = answer(self.event_types.clone().create_event_type(request)).await;
        created.unwrap().event_type.unwrap()
    }

    async fn sink(&self, sink: v1::Sink) -> Result<v1::Sink, Status> {
        let request = v1::CreateSinkRequest { sink: Some(sink), ..Default::default() };
        answer(self.sinks.clone().create_sink(request)).await.map(|created| created.sink.unwrap())
    }
}

/// A disk on which these partitions hold something that cannot be read.
async fn damaged(partitions: &[PartitionId]) -> MemoryFileSystem {
    let fs = MemoryFileSystem::default();
    let (store, tasks) = (open_store(fs.clone()), TaskTracker::new());
    let host = Host::without_peers(store.clone(), Environment::system());
    for id in partitions {
        let partition = open_partition(*id, &host, tasks.clone()).await;
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
    assert_eq!(info.domain, "fanfare.dev");
    (status.code(), info.reason)
}

/// The one field at fault.
fn field(status: &Status) -> String {
    let details = status.get_details_bad_request().expect("it names a field").field_violations;
    assert_eq!(details.len(), 1, "{details:?}");
    details[0].field.clone()
}

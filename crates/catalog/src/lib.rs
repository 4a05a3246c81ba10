//! Desired state: accounts, event types, schemas, sinks, subscriptions and keys, as one replicated state.
//!
//! Callers read an immutable [`View`] and change it through [`Catalog`]: each change is one command in the group's
//! log, checked when it is applied. Nothing here acts on what it describes; the delivering and publishing parts
//! watch the view.
//!
//! The state lives in memory. The log and its checkpoint are what it is made from; a store on disk follows it so
//! that a start has less to replay, and can be deleted at any time.

mod catalog;
mod view;

mod account;
mod cluster;
mod event_type;
mod key;
mod request;
mod subscription;

pub mod json_schema;

mod command;
mod error;
mod hex;
mod machine;
mod names;
mod state;
mod view_store;

pub use account::{Account, ApiKey, Shard};
pub use catalog::{Catalog, CatalogOptions};
pub use cluster::{AccountLimits, Broker, ClusterView, PlacedReplica};
pub use error::{ChangeError, ObjectKind, OpenError};
pub use event_type::{CreatedSchemaVersion, EventType, EventTypeStatus, NewEventType, Schema, SchemaVersion};
pub use key::{NewKey, Tenant};
pub use request::{RequestId, RequestRecord, RequestedObject};
pub use subscription::{NewSink, NewSubscription, SinkChange};
pub use view::{AccountView, View};
#[cfg(test)]
pub(crate) use view_store::RebuildReason;
pub(crate) use view_store::ViewStart;
pub use view_store::{MemoryView, ViewStorage, ViewStoreError};

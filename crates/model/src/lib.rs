//! The vocabulary every other crate speaks: identifiers, positions in a partition, and the event.
//!
//! Owns no IO, no clock and no async. Two numbers of different meaning never share a type here.

mod broker;
mod event;
mod hash;
mod partition;
mod position;
mod sid;
mod sink;
mod subscription;

pub use broker::{BrokerId, ReplicaId};
pub use event::{AttributeValue, Data, Event, EventError};
pub use hash::{EventIdHash, KeyHash, body_checksum};
pub use partition::{PartitionId, Stream};
pub use position::{Offset, Timestamp};
pub use sid::{AccountId, KeyId, RedriveId, SidError, SinkId, SubscriptionId};
pub use sink::{
    DeliverySettings, KinesisConfig, PreviousSecret, Secret, Sink, SinkConfig, WebhookConfig, WebhookMethod,
};
pub use subscription::{StartAt, SubscribedType, Subscription};

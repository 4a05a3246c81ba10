//! Control of what should exist, whatever the protocol: plain functions from a tenant and a request to a result.
//!
//! One file per noun. Each function checks the fields that the catalog does not, and answers typed errors; protocols
//! convert requests, results and [`ControlError`] to their own. Every object is reached through the [`Tenant`] that
//! authentication made. Secrets leave the node in the answer that made them, and in
//! that to a repeat of the same request.

mod control;

mod dead_letters;
mod deliveries;
mod event_types;
mod redrives;
mod schemas;
mod sinks;
mod subscriptions;

mod error;
mod etag;
mod list;

pub use fanfare_catalog::{
    ChangeError, EventType, EventTypeStatus, ObjectKind, RequestId, Schema, SchemaVersion, Tenant,
    json_schema::{SchemaProblem, dataschema_uri},
};
pub use fanfare_delivery::{
    DeadLetter, DeadLetterFilter, ReadError, Redrive, RedriveKind, RedriveState, RouteError,
    State as DeliveryState, SubscriptionStats, Withdrawals,
};
pub use fanfare_sinks::ConfigError;

pub use self::{
    control::Control,
    error::{ControlError, FieldViolation, Unreadable},
    etag::Resource,
    event_types::EventTypeSettings,
    list::{ListRequest, Listed},
    redrives::{RedriveControl, RedriveRequest},
    schemas::{NewSchema, VersionedSchema},
    sinks::{KinesisSettings, SinkKind, SinkSettings, WebhookSettings},
    subscriptions::{Selector, SelectorVersion, SubscriptionSettings, SubscriptionStatus},
};

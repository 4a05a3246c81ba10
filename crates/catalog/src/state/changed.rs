//! The object of an accepted command, of the kind that its proposer expects.

use std::sync::Arc;

use fanfare_model::{Sink, Subscription};

use super::{Changed, Object};
use crate::{Account, Broker, ChangeError, CreatedSchemaVersion, EventType, Schema};

impl Changed {
    pub(crate) fn account(self) -> Result<Arc<Account>, ChangeError> {
        match self.object {
            Object::Account(account) => Ok(account),
            other => Err(other.unexpected()),
        }
    }

    pub(crate) fn broker(self) -> Result<Broker, ChangeError> {
        match self.object {
            Object::Broker(broker) => Ok(broker),
            other => Err(other.unexpected()),
        }
    }

    pub(crate) fn event_type(self) -> Result<Arc<EventType>, ChangeError> {
        match self.object {
            Object::EventType(event_type) => Ok(event_type),
            other => Err(other.unexpected()),
        }
    }

    pub(crate) fn schema(self) -> Result<Arc<Schema>, ChangeError> {
        match self.object {
            Object::Schema(schema) => Ok(schema),
            other => Err(other.unexpected()),
        }
    }

    pub(crate) fn schema_version(self) -> Result<CreatedSchemaVersion, ChangeError> {
        match self.object {
            Object::SchemaVersion { schema, number } => Ok(CreatedSchemaVersion { schema, number }),
            other => Err(other.unexpected()),
        }
    }

    pub(crate) fn sink(self) -> Result<Arc<Sink>, ChangeError> {
        match self.object {
            Object::Sink(sink) => Ok(sink),
            other => Err(other.unexpected()),
        }
    }

    pub(crate) fn subscription(self) -> Result<Arc<Subscription>, ChangeError> {
        match self.object {
            Object::Subscription(subscription) => Ok(subscription),
            other => Err(other.unexpected()),
        }
    }
}

impl Object {
    /// The change is applied, so the proposer has to read what it did.
    fn unexpected(&self) -> ChangeError {
        tracing::error!(object = ?self, "a command was answered with an object of another kind");
        ChangeError::Unknown
    }
}

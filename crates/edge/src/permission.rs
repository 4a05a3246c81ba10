//! Permissions: one for each method of the public API, in one table. A method without a row is denied.

/// Right to call a group of methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    PublishEvents,
    ReadEvents,
    /// Event types, schemas, sinks and subscriptions; never their secrets.
    ReadCatalog,
    /// Also redrives and purges of dead letters.
    ChangeCatalog,
    /// Outcomes and dead letters.
    ReadDeliveries,
}

/// Callers of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// No credential is needed.
    Anybody,
    Requires(Permission),
}

use Access::{Anybody, Requires};
use Permission::{ChangeCatalog, PublishEvents, ReadCatalog, ReadDeliveries, ReadEvents};

/// Access to each method, by its path.
const METHODS: &[(&str, Access)] = &[
    ("/fanfare.v1.PublisherService/Publish", Requires(PublishEvents)),
    ("/fanfare.v1.PublisherService/PublishBatch", Requires(PublishEvents)),
    ("/fanfare.v1.PublisherService/PublishStream", Requires(PublishEvents)),
    ("/fanfare.v1.ReaderService/ReadEvents", Requires(ReadEvents)),
    ("/fanfare.v1.ReaderService/GetEvent", Requires(ReadEvents)),
    ("/fanfare.v1.EventTypeService/CreateEventType", Requires(ChangeCatalog)),
    ("/fanfare.v1.EventTypeService/GetEventType", Requires(ReadCatalog)),
    ("/fanfare.v1.EventTypeService/ListEventTypes", Requires(ReadCatalog)),
    ("/fanfare.v1.EventTypeService/UpdateEventType", Requires(ChangeCatalog)),
    ("/fanfare.v1.EventTypeService/DeleteEventType", Requires(ChangeCatalog)),
    ("/fanfare.v1.SchemaService/CreateSchema", Requires(ChangeCatalog)),
    ("/fanfare.v1.SchemaService/CreateSchemaVersion", Requires(ChangeCatalog)),
    ("/fanfare.v1.SchemaService/GetSchema", Requires(ReadCatalog)),
    ("/fanfare.v1.SchemaService/GetSchemaVersion", Requires(ReadCatalog)),
    ("/fanfare.v1.SchemaService/ListSchemas", Requires(ReadCatalog)),
    ("/fanfare.v1.SchemaService/ListSchemaVersions", Requires(ReadCatalog)),
    ("/fanfare.v1.SchemaService/UpdateSchema", Requires(ChangeCatalog)),
    ("/fanfare.v1.SchemaService/DeleteSchema", Requires(ChangeCatalog)),
    ("/fanfare.v1.SinkService/CreateSink", Requires(ChangeCatalog)),
    ("/fanfare.v1.SinkService/GetSink", Requires(ReadCatalog)),
    ("/fanfare.v1.SinkService/ListSinks", Requires(ReadCatalog)),
    ("/fanfare.v1.SinkService/UpdateSink", Requires(ChangeCatalog)),
    ("/fanfare.v1.SinkService/DeleteSink", Requires(ChangeCatalog)),
    ("/fanfare.v1.SinkService/RotateSinkSecret", Requires(ChangeCatalog)),
    ("/fanfare.v1.SubscriptionService/CreateSubscription", Requires(ChangeCatalog)),
    ("/fanfare.v1.SubscriptionService/GetSubscription", Requires(ReadCatalog)),
    ("/fanfare.v1.SubscriptionService/ListSubscriptions", Requires(ReadCatalog)),
    ("/fanfare.v1.SubscriptionService/UpdateSubscription", Requires(ChangeCatalog)),
    ("/fanfare.v1.SubscriptionService/DeleteSubscription", Requires(ChangeCatalog)),
    ("/fanfare.v1.SubscriptionService/PauseSubscription", Requires(ChangeCatalog)),
    ("/fanfare.v1.SubscriptionService/ResumeSubscription", Requires(ChangeCatalog)),
    ("/fanfare.v1.SubscriptionService/GetSubscriptionStats", Requires(ReadDeliveries)),
    ("/fanfare.v1.DeadLetterService/ListDeadLetters", Requires(ReadDeliveries)),
    ("/fanfare.v1.DeadLetterService/GetDeadLetter", Requires(ReadDeliveries)),
    ("/fanfare.v1.DeadLetterService/RedriveDeadLetters", Requires(ChangeCatalog)),
    ("/fanfare.v1.DeadLetterService/PurgeDeadLetters", Requires(ChangeCatalog)),
    ("/fanfare.v1.DeadLetterService/GetRedrive", Requires(ReadDeliveries)),
    ("/fanfare.v1.DeadLetterService/ListRedrives", Requires(ReadDeliveries)),
    ("/fanfare.v1.DeadLetterService/CancelRedrive", Requires(ChangeCatalog)),
    ("/grpc.health.v1.Health/Check", Anybody),
    ("/grpc.health.v1.Health/Watch", Anybody),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Anybody),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Anybody),
];

/// Access to the method at `path`; none if the table does not list it.
pub(crate) fn of_method(path: &str) -> Option<Access> {
    METHODS.iter().find(|(method, _)| *method == path).map(|(_, access)| *access)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// Path of every method that the node serves, as its services describe themselves.
    fn served() -> BTreeSet<String> {
        let descriptors = [
            fanfare_proto::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let mut paths = BTreeSet::new();
        for descriptors in descriptors {
            for file in FileDescriptorSet::decode(descriptors).unwrap().file {
                for service in &file.service {
                    for method in &service.method {
                        paths.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                    }
                }
            }
        }
        paths
    }

    #[test]
    fn every_method_of_every_service_has_one_row() {
        let served = served();
        assert!(served.contains("/fanfare.v1.PublisherService/Publish"), "{served:?}");
        let rows: Vec<String> = METHODS.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(rows.len(), rows.iter().collect::<BTreeSet<_>>().len(), "a method has two rows");
        assert_eq!(BTreeSet::from_iter(rows), served);
    }

    #[test]
    fn nothing_of_a_tenant_is_for_anybody() {
        for (path, access) in METHODS {
            assert_eq!(*access == Anybody, path.starts_with("/grpc."), "{path}");
        }
        assert_eq!(of_method("/fanfare.v1.PublisherService/Unknown"), None);
        assert_eq!(of_method("/fanfare.v1.PublisherService/publish"), None, "paths are case-sensitive");
    }
}

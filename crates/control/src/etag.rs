//! Etags: a hash of a resource as it stands, so that a caller changes only what it read. Opaque: an etag tells neither
//! secrets nor how much else changes.

use std::fmt::Write;

use fanfare_catalog::{EventType, ObjectKind, Schema};
use fanfare_model::{Sink, Subscription};
use sha2::{Digest, Sha256};

/// Bytes of the hash that an etag shows.
const HASH_BYTES: usize = 16;

/// A resource that callers change.
pub trait Resource {
    const KIND: ObjectKind;

    /// The name or id in the API.
    fn name(&self) -> String;

    /// The catalog's revision at the last change.
    fn revision(&self) -> u64;

    /// The content, without the catalog's revisions: those tell of every account's changes.
    fn content(&self) -> Vec<u8>;

    /// Changes with every update.
    fn etag(&self) -> String {
        let hash = Sha256::digest(self.content());
        let mut etag = String::with_capacity(2 * HASH_BYTES);
        for byte in &hash[..HASH_BYTES] {
            write!(etag, "{byte:02x}").expect("writing to a string cannot fail");
        }
        etag
    }
}

impl Resource for EventType {
    const KIND: ObjectKind = ObjectKind::EventType;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn content(&self) -> Vec<u8> {
        encoded(&Self { revision: 0, ..self.clone() })
    }
}

impl Resource for Schema {
    const KIND: ObjectKind = ObjectKind::Schema;

    fn name(&self) -> String {
        self.id.clone()
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    /// Versions never change, so their number stands for them.
    fn content(&self) -> Vec<u8> {
        encoded(&(&self.id, &self.description, self.created, self.latest_version()))
    }
}

impl Resource for Sink {
    const KIND: ObjectKind = ObjectKind::Sink;

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn content(&self) -> Vec<u8> {
        encoded(&Self { revision: 0, ..self.clone() })
    }
}

impl Resource for Subscription {
    const KIND: ObjectKind = ObjectKind::Subscription;

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn content(&self) -> Vec<u8> {
        encoded(&Self { revision: 0, epoch: 0, ..self.clone() })
    }
}

fn encoded(content: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(content).expect("a resource has only text keys and no failing serializer")
}

#[cfg(test)]
mod tests {
    use fanfare_catalog::EventTypeStatus;
    use fanfare_model::Timestamp;

    use super::*;

    #[test]
    fn an_etag_tells_of_the_resource_alone() {
        let one = EventType {
            name: "order.paid".to_owned(),
            description: String::new(),
            schema: None,
            status: EventTypeStatus::Available,
            created: Timestamp(1),
            updated: Timestamp(1),
            revision: 7,
        };
        assert_eq!(one.etag().len(), 32);
        assert_eq!(EventType { revision: 8, ..one.clone() }.etag(), one.etag());
        assert_ne!(EventType { updated: Timestamp(2), ..one.clone() }.etag(), one.etag());
        assert_ne!(EventType { name: "order.sent".to_owned(), ..one.clone() }.etag(), one.etag());
    }
}

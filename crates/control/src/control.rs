//! What the services share: the parts of the node they speak for, and who is asking.

use std::{fmt::Display, str::FromStr, sync::Arc};

use fanfare_catalog::{
    AccountView, Catalog, Tenant,
    json_schema::{self, SchemaProblem},
};
use fanfare_delivery::Delivery;
use fanfare_sinks::Factory;
use tokio_util::task::TaskTracker;
use tonic::{Request, Status};

use crate::status::{invalid, schema_status, stopping, unauthenticated};

/// Implements every control service; wrap each in the authentication of the ingest edge. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    pub(crate) catalog: Catalog,
    pub(crate) delivery: Delivery,
    pub(crate) sinks: Factory,
    tasks: TaskTracker,
}

impl Control {
    /// `tasks` owns what runs on blocking threads.
    #[must_use]
    pub fn new(catalog: Catalog, delivery: Delivery, sinks: Factory, tasks: TaskTracker) -> Self {
        Self { catalog, delivery, sinks, tasks }
    }

    /// The caller's part of the newest catalog.
    pub(crate) fn account(&self, tenant: Tenant) -> Result<Arc<AccountView>, Status> {
        // A tenant exists as long as its key; a key that is gone is no longer one.
        self.catalog.view().account(tenant.account()).cloned().ok_or_else(unauthenticated)
    }

    /// Refuses a document that is no usable schema. Compiling takes a while, so it is not done on this thread.
    pub(crate) async fn check_document(&self, document: &str) -> Result<(), Status> {
        if document.is_empty() {
            return Err(invalid("document", "is required"));
        }
        if document.len() > json_schema::DOCUMENT_BYTES_MAX {
            let (size_bytes, limit_bytes) = (document.len(), json_schema::DOCUMENT_BYTES_MAX);
            return Err(schema_status(&SchemaProblem::TooLarge { size_bytes, limit_bytes }));
        }
        let document = document.to_owned();
        let compiled = self.tasks.spawn_blocking(move || json_schema::compile(&document).map(drop)).await;
        compiled.map_err(|_| stopping())?.map_err(|problem| schema_status(&problem))
    }
}

/// The caller of an authenticated request; nobody is let in if the service was wired without authentication.
pub(crate) fn tenant<T>(request: &Request<T>) -> Result<Tenant, Status> {
    request.extensions().get::<Tenant>().copied().ok_or_else(unauthenticated)
}

/// An identifier from a request.
pub(crate) fn parse_id<I: FromStr<Err: Display>>(field: &'static str, text: &str) -> Result<I, Status> {
    if text.is_empty() {
        return Err(invalid(field, "is required"));
    }
    text.parse().map_err(|error| invalid(field, format!("is not an id: {error}")))
}

/// The revision that an etag stands for; none if it is empty. A text that is no etag matches nothing.
pub(crate) fn revision(etag: &str) -> Option<u64> {
    (!etag.is_empty()).then(|| etag.parse().unwrap_or(u64::MAX))
}

//! Schemas: named JSON Schemas with immutable versions.

use std::{ops::Bound, sync::Arc};

use fanfare_catalog::{
    ChangeError, ObjectKind, Schema, SchemaVersion, Tenant,
    json_schema::{self, SchemaProblem},
};

use crate::{
    control::{Control, UpdateRounds, check_name},
    error::{ControlError, FieldViolation},
    list::{ListRequest, Listed},
};

/// A schema to make, with the document of its first version.
#[derive(Clone, Debug)]
pub struct NewSchema {
    pub id: String,
    pub description: String,
    pub document: String,
}

/// One version of a schema; exists.
#[derive(Clone, Debug)]
pub struct VersionedSchema {
    pub schema: Arc<Schema>,
    /// Counted from 1.
    pub number: u32,
    pub version: SchemaVersion,
}

impl Control {
    /// # Errors
    /// If the document is not a usable schema, or the catalog refuses the change.
    pub async fn create_schema(&self, tenant: Tenant, new: NewSchema) -> Result<Arc<Schema>, ControlError> {
        self.check_document(&new.document).await?;
        Ok(self.catalog.create_schema(tenant, &new.id, &new.description, &new.document).await?)
    }

    /// # Errors
    /// If the document is not a usable schema, there is no such schema, or the catalog refuses the change.
    pub async fn create_schema_version(
        &self,
        tenant: Tenant,
        id: &str,
        document: &str,
    ) -> Result<VersionedSchema, ControlError> {
        self.check_document(document).await?;
        let created = self.catalog.create_schema_version(tenant, id, document).await?;
        VersionedSchema::of(created.schema, created.number)
    }

    /// # Errors
    /// If the account has no such schema.
    pub fn schema(&self, tenant: Tenant, id: &str) -> Result<Arc<Schema>, ControlError> {
        check_name("id", id)?;
        let schema = self.account(tenant)?.schemas.get(id).cloned();
        Ok(schema.ok_or_else(|| ChangeError::NotFound { kind: ObjectKind::Schema, name: id.to_owned() })?)
    }

    /// The latest version if `number` is none.
    ///
    /// # Errors
    /// If the account has no such schema, or that no such version.
    pub fn schema_version(
        &self,
        tenant: Tenant,
        id: &str,
        number: Option<u32>,
    ) -> Result<VersionedSchema, ControlError> {
        let schema = self.schema(tenant, id)?;
        let number = number.unwrap_or_else(|| schema.latest_version());
        VersionedSchema::of(schema, number)
    }

    /// # Errors
    /// If the account is gone.
    pub fn list_schemas(
        &self,
        tenant: Tenant,
        request: &ListRequest<String>,
    ) -> Result<Listed<Arc<Schema>, String>, ControlError> {
        let account = self.account(tenant)?;
        let schemas = account.schemas.range::<String, _>((request.start(), Bound::Unbounded));
        Ok(request.page(schemas.map(|(id, schema)| (id.clone(), schema.clone()))))
    }

    /// # Errors
    /// If the account has no such schema.
    pub fn list_schema_versions(
        &self,
        tenant: Tenant,
        id: &str,
        request: &ListRequest<u32>,
    ) -> Result<Listed<VersionedSchema, u32>, ControlError> {
        let schema = self.schema(tenant, id)?;
        let first = request.after.map_or(1, |after| after.saturating_add(1));
        let numbers = first..=schema.latest_version();
        let versions =
            numbers.filter_map(|number| Some((number, VersionedSchema::of(schema.clone(), number).ok()?)));
        Ok(request.page(versions))
    }

    /// Changes a schema's description to what `change` makes of the stored schema. `etag` is that of the state that
    /// was read; an empty one merges the change into the newest.
    ///
    /// # Errors
    /// If there is no such schema, or the catalog refuses the change.
    pub async fn update_schema(
        &self,
        tenant: Tenant,
        id: &str,
        etag: &str,
        change: impl Fn(&Schema) -> String + Send,
    ) -> Result<Arc<Schema>, ControlError> {
        check_name("schema.id", id)?;
        let mut rounds = UpdateRounds::new(etag);
        loop {
            let stored = self.schema(tenant, id)?;
            let expected = Some(rounds.expected(&*stored)?);
            match self.catalog.update_schema(tenant, id, &change(&stored), expected).await {
                Err(error) if rounds.goes_on_after(&error) => {}
                answer => return Ok(answer?),
            }
        }
    }

    /// # Errors
    /// If there is no such schema, it is not as `etag` says, an event type uses it, or the catalog refuses the change.
    pub async fn delete_schema(&self, tenant: Tenant, id: &str, etag: &str) -> Result<(), ControlError> {
        let stored = self.schema(tenant, id)?;
        Ok(self.catalog_at(tenant, etag, &*stored)?.delete_schema(tenant, id).await?)
    }

    /// Refuses a document that is not a usable schema. Compiling takes long, so it runs off the runtime's threads.
    async fn check_document(&self, document: &str) -> Result<(), ControlError> {
        if document.is_empty() {
            return Err(FieldViolation::required("document").into());
        }
        if document.len() > json_schema::DOCUMENT_BYTES_MAX {
            let (size_bytes, limit_bytes) = (document.len(), json_schema::DOCUMENT_BYTES_MAX);
            return Err(SchemaProblem::TooLarge { size_bytes, limit_bytes }.into());
        }
        let document = document.to_owned();
        Ok(self.environment.run_blocking(move || json_schema::compile(&document).map(drop)).await?)
    }
}

impl VersionedSchema {
    fn of(schema: Arc<Schema>, number: u32) -> Result<Self, ControlError> {
        match schema.version(number).cloned() {
            Some(version) => Ok(Self { schema, number, version }),
            None => {
                let latest = schema.latest_version();
                let name = format!("{} version {number} (the latest is {latest})", schema.id);
                Err(ChangeError::NotFound { kind: ObjectKind::Schema, name }.into())
            }
        }
    }
}

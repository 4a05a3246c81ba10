//! Schemas: versions are only ever added.

use std::sync::Arc;

use fanfare_model::AccountId;

use super::{Draft, Object, check_limit, check_revision};
use crate::{AccountLimits, AccountView, ChangeError, ObjectKind, Schema, SchemaVersion, names};

const KIND: ObjectKind = ObjectKind::Schema;

/// Versions that one schema may have.
const VERSIONS_MAX: u64 = 100;

impl Draft<'_> {
    pub(super) fn new_schema(&self, id: String, description: String, document: String) -> Schema {
        let version = SchemaVersion { document: document.into(), created: self.now };
        Schema { id, description, versions: vec![version], created: self.now, revision: self.revision() }
    }

    pub(super) fn create_schema(
        &mut self,
        account: AccountId,
        schema: Schema,
    ) -> Result<Object, ChangeError> {
        let view = self.account(account)?;
        names::check_schema_id("schema.id", &schema.id)?;
        names::check_description("schema.description", &schema.description)?;
        check_new(view, self.view.cluster.limits, &schema)?;
        self.put_schema(account, schema)
    }

    pub(super) fn create_schema_version(
        &mut self,
        account: AccountId,
        id: String,
        document: String,
    ) -> Result<Object, ChangeError> {
        let mut schema = find(self.account(account)?, &id)?.clone();
        check_limit(ObjectKind::SchemaVersion, schema.versions.len(), VERSIONS_MAX)?;
        check_documents(self.account(account)?, self.view.cluster.limits, document.len())?;
        schema.versions.push(SchemaVersion { document: document.into(), created: self.now });
        schema.revision = self.revision();
        let number = schema.latest_version();
        match self.put_schema(account, schema)? {
            Object::Schema(schema) => Ok(Object::SchemaVersion { schema, number }),
            other => Ok(other),
        }
    }

    pub(super) fn update_schema(
        &mut self,
        account: AccountId,
        id: String,
        description: String,
        expected_revision: Option<u64>,
    ) -> Result<Object, ChangeError> {
        let old = find(self.account(account)?, &id)?;
        check_revision(KIND, &id, expected_revision, old.revision)?;
        names::check_description("schema.description", &description)?;
        let schema = Schema { description, revision: self.revision(), ..old.clone() };
        self.put_schema(account, schema)
    }

    pub(super) fn delete_schema(&mut self, account: AccountId, id: String) -> Result<Object, ChangeError> {
        let view = self.account(account)?;
        check_revision(KIND, &id, self.expected_revision, find(view, &id)?.revision)?;
        let user = view.event_types.values().find(|user| user.schema.as_deref() == Some(id.as_str()));
        if let Some(user) = user {
            return Err(ChangeError::InUse { kind: KIND, name: id, by: format!("event type {}", user.name) });
        }
        self.edit(account)?.schemas.remove(&id);
        Ok(Object::Nothing)
    }

    fn put_schema(&mut self, account: AccountId, schema: Schema) -> Result<Object, ChangeError> {
        let schema = Arc::new(schema);
        self.edit(account)?.schemas.insert(schema.id.clone(), schema.clone());
        Ok(Object::Schema(schema))
    }
}

fn find<'a>(view: &'a AccountView, id: &str) -> Result<&'a Schema, ChangeError> {
    let found = view.schemas.get(id).map(AsRef::as_ref);
    found.ok_or_else(|| ChangeError::NotFound { kind: KIND, name: id.to_owned() })
}

/// Refuses a schema that exists already, or for which the account has no room.
fn check_new(view: &AccountView, limits: AccountLimits, schema: &Schema) -> Result<(), ChangeError> {
    if view.schemas.contains_key(&schema.id) {
        return Err(ChangeError::Exists { kind: KIND, name: schema.id.clone() });
    }
    check_limit(KIND, view.schemas.len(), limits.schemas_max)?;
    check_documents(view, limits, schema.versions[0].document.len())
}

/// Refuses documents of `added_bytes` beyond what the account may have with those it has.
fn check_documents(view: &AccountView, limits: AccountLimits, added_bytes: usize) -> Result<(), ChangeError> {
    let limit = limits.schema_documents_bytes_max;
    let versions = view.schemas.values().flat_map(|schema| &schema.versions);
    let kept_bytes: usize = versions.map(|version| version.document.len()).sum();
    match (kept_bytes + added_bytes) as u64 > limit {
        true => Err(ChangeError::Limit { kind: ObjectKind::SchemaDocument, limit }),
        false => Ok(()),
    }
}

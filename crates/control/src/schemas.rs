//! `fanfare.v1.SchemaService`.

use std::ops::Bound;

use fanfare_catalog::{ChangeError, ObjectKind, Schema, Tenant, json_schema::dataschema_uri};
use fanfare_proto::v1;
use tonic::{Request, Response, Status};

use crate::{
    control::{Control, revision, tenant},
    page::Page,
    status::{change_status, invalid},
    time::to_api,
};

#[tonic::async_trait]
impl v1::schema_service_server::SchemaService for Control {
    async fn create_schema(
        &self,
        request: Request<v1::CreateSchemaRequest>,
    ) -> Result<Response<v1::CreateSchemaResponse>, Status> {
        let tenant = tenant(&request)?;
        let v1::CreateSchemaRequest { schema, document } = request.into_inner();
        let given = required(schema)?;
        self.check_document(&document).await?;
        let created = self.catalog.create_schema(tenant, &given.id, &given.description, &document).await;
        let schema = Some(shown(&*created.map_err(|error| change_status(&error))?));
        Ok(Response::new(v1::CreateSchemaResponse { schema }))
    }

    async fn create_schema_version(
        &self,
        request: Request<v1::CreateSchemaVersionRequest>,
    ) -> Result<Response<v1::CreateSchemaVersionResponse>, Status> {
        let tenant = tenant(&request)?;
        let v1::CreateSchemaVersionRequest { schema_id, document } = request.into_inner();
        self.check_document(&document).await?;
        let created = self.catalog.create_schema_version(tenant, &schema_id, &document).await;
        let schema = created.map_err(|error| change_status(&error))?;
        let version = shown_version(&schema, schema.latest_version(), Document::Shown);
        Ok(Response::new(v1::CreateSchemaVersionResponse { version }))
    }

    async fn get_schema(
        &self,
        request: Request<v1::GetSchemaRequest>,
    ) -> Result<Response<v1::GetSchemaResponse>, Status> {
        let schema = self.schema(tenant(&request)?, &request.get_ref().id)?;
        Ok(Response::new(v1::GetSchemaResponse { schema: Some(shown(&schema)) }))
    }

    async fn get_schema_version(
        &self,
        request: Request<v1::GetSchemaVersionRequest>,
    ) -> Result<Response<v1::GetSchemaVersionResponse>, Status> {
        let tenant = tenant(&request)?;
        let v1::GetSchemaVersionRequest { schema_id, version } = request.into_inner();
        let schema = self.schema(tenant, &schema_id)?;
        let number = if version == 0 { schema.latest_version() } else { version };
        match shown_version(&schema, number, Document::Shown) {
            Some(version) => Ok(Response::new(v1::GetSchemaVersionResponse { version: Some(version) })),
            None => {
                let name =
                    format!("{schema_id} version {number} (the latest is {})", schema.latest_version());
                Err(change_status(&ChangeError::NotFound { kind: ObjectKind::Schema, name }))
            }
        }
    }

    async fn list_schemas(
        &self,
        request: Request<v1::ListSchemasRequest>,
    ) -> Result<Response<v1::ListSchemasResponse>, Status> {
        let account = self.account(tenant(&request)?)?;
        let v1::ListSchemasRequest { page_size, page_token } = request.into_inner();
        let page = Page::<String>::parse("schemas", page_size, &page_token)?;
        let from = page.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let rest = account.schemas.range::<String, _>((from, Bound::Unbounded));
        let (schemas, next_page_token) = page.take(rest.map(|(id, schema)| (id.clone(), shown(schema))));
        Ok(Response::new(v1::ListSchemasResponse { schemas, next_page_token }))
    }

    async fn list_schema_versions(
        &self,
        request: Request<v1::ListSchemaVersionsRequest>,
    ) -> Result<Response<v1::ListSchemaVersionsResponse>, Status> {
        let tenant = tenant(&request)?;
        let v1::ListSchemaVersionsRequest { schema_id, page_size, page_token } = request.into_inner();
        let page = Page::<u32>::parse(format!("schema_versions/{schema_id}"), page_size, &page_token)?;
        let schema = self.schema(tenant, &schema_id)?;
        let first = page.after.map_or(1, |after| after.saturating_add(1));
        let rest = (first..=schema.latest_version())
            .filter_map(|number| Some((number, shown_version(&schema, number, Document::LeftOut)?)));
        let (versions, next_page_token) = page.take(rest);
        Ok(Response::new(v1::ListSchemaVersionsResponse { versions, next_page_token }))
    }

    async fn update_schema(
        &self,
        request: Request<v1::UpdateSchemaRequest>,
    ) -> Result<Response<v1::UpdateSchemaResponse>, Status> {
        let tenant = tenant(&request)?;
        let given = required(request.into_inner().schema)?;
        let expected = revision(&given.etag);
        let updated = self.catalog.update_schema(tenant, &given.id, &given.description, expected).await;
        let schema = Some(shown(&*updated.map_err(|error| change_status(&error))?));
        Ok(Response::new(v1::UpdateSchemaResponse { schema }))
    }

    async fn delete_schema(
        &self,
        request: Request<v1::DeleteSchemaRequest>,
    ) -> Result<Response<v1::DeleteSchemaResponse>, Status> {
        let tenant = tenant(&request)?;
        let deleted = self.catalog.delete_schema(tenant, &request.into_inner().id).await;
        deleted.map_err(|error| change_status(&error))?;
        Ok(Response::new(v1::DeleteSchemaResponse {}))
    }
}

impl Control {
    fn schema(&self, tenant: Tenant, id: &str) -> Result<std::sync::Arc<Schema>, Status> {
        let found = self.account(tenant)?.schemas.get(id).cloned();
        found.ok_or_else(|| {
            change_status(&ChangeError::NotFound { kind: ObjectKind::Schema, name: id.to_owned() })
        })
    }
}

fn required(given: Option<v1::Schema>) -> Result<v1::Schema, Status> {
    given.ok_or_else(|| invalid("schema", "is required"))
}

fn shown(schema: &Schema) -> v1::Schema {
    v1::Schema {
        id: schema.id.clone(),
        description: schema.description.clone(),
        latest_version: schema.latest_version(),
        create_time: Some(to_api(schema.created)),
        etag: schema.revision.to_string(),
    }
}

enum Document {
    Shown,
    LeftOut,
}

fn shown_version(schema: &Schema, number: u32, document: Document) -> Option<v1::SchemaVersion> {
    let version = schema.version(number)?;
    Some(v1::SchemaVersion {
        schema_id: schema.id.clone(),
        version: number,
        document: match document {
            Document::Shown => version.document.to_string(),
            Document::LeftOut => String::new(),
        },
        create_time: Some(to_api(version.created)),
        dataschema: dataschema_uri(&schema.id, number),
    })
}

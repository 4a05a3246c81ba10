//! `fanfare.v1.SchemaService`.

use fanfare_control::{NewSchema, Resource, Schema, Tenant, VersionedSchema, dataschema_uri};
use fanfare_proto::v1;
use tonic::{Request, Response, Status};

use super::{ControlServices, open, required, update_mask::UpdateMask};
use crate::{grpc::time::to_api, page::PagedList, problem::Problem};

/// Paths that an update may name.
const FIELDS: [&str; 1] = ["description"];

#[tonic::async_trait]
impl v1::schema_service_server::SchemaService for ControlServices {
    async fn create_schema(
        &self,
        request: Request<v1::CreateSchemaRequest>,
    ) -> Result<Response<v1::CreateSchemaResponse>, Status> {
        let (tenant, request) = open(request)?;
        let control = self.once(tenant, &request);
        let v1::CreateSchemaRequest { schema, document, .. } = request;
        let v1::Schema { id, description, .. } = required("schema", schema)?;
        let created = control.create_schema(tenant, NewSchema { id, description, document }).await;
        let schema = Some(to_message(tenant, &*created.map_err(Problem::from)?));
        Ok(Response::new(v1::CreateSchemaResponse { schema }))
    }

    async fn create_schema_version(
        &self,
        request: Request<v1::CreateSchemaVersionRequest>,
    ) -> Result<Response<v1::CreateSchemaVersionResponse>, Status> {
        let (tenant, request) = open(request)?;
        let control = self.once(tenant, &request);
        let v1::CreateSchemaVersionRequest { schema_id, document, .. } = request;
        let created = control.create_schema_version(tenant, &schema_id, &document).await;
        let version = Some(with_document(&created.map_err(Problem::from)?));
        Ok(Response::new(v1::CreateSchemaVersionResponse { version }))
    }

    async fn get_schema(
        &self,
        request: Request<v1::GetSchemaRequest>,
    ) -> Result<Response<v1::GetSchemaResponse>, Status> {
        let (tenant, request) = open(request)?;
        let schema = self.control.schema(tenant, &request.id).map_err(Problem::from)?;
        Ok(Response::new(v1::GetSchemaResponse { schema: Some(to_message(tenant, &schema)) }))
    }

    async fn get_schema_version(
        &self,
        request: Request<v1::GetSchemaVersionRequest>,
    ) -> Result<Response<v1::GetSchemaVersionResponse>, Status> {
        let (tenant, v1::GetSchemaVersionRequest { schema_id, version }) = open(request)?;
        let number = (version > 0).then_some(version);
        let version = self.control.schema_version(tenant, &schema_id, number).map_err(Problem::from)?;
        Ok(Response::new(v1::GetSchemaVersionResponse { version: Some(with_document(&version)) }))
    }

    async fn list_schemas(
        &self,
        request: Request<v1::ListSchemasRequest>,
    ) -> Result<Response<v1::ListSchemasResponse>, Status> {
        let (tenant, v1::ListSchemasRequest { page_size, page_token }) = open(request)?;
        let list = PagedList::new("schemas");
        let page = list.request(page_size, &page_token)?;
        let listed = self.control.list_schemas(tenant, &page).map_err(Problem::from)?;
        Ok(Response::new(v1::ListSchemasResponse {
            schemas: listed.items.iter().map(|schema| to_message(tenant, schema)).collect(),
            next_page_token: list.token(listed.next),
        }))
    }

    async fn list_schema_versions(
        &self,
        request: Request<v1::ListSchemaVersionsRequest>,
    ) -> Result<Response<v1::ListSchemaVersionsResponse>, Status> {
        let (tenant, request) = open(request)?;
        let v1::ListSchemaVersionsRequest { schema_id, page_size, page_token } = request;
        let list = PagedList::filtered("schema_versions", &schema_id);
        let page = list.request(page_size, &page_token)?;
        let listed = self.control.list_schema_versions(tenant, &schema_id, &page).map_err(Problem::from)?;
        Ok(Response::new(v1::ListSchemaVersionsResponse {
            versions: listed.items.iter().map(without_document).collect(),
            next_page_token: list.token(listed.next),
        }))
    }

    async fn update_schema(
        &self,
        request: Request<v1::UpdateSchemaRequest>,
    ) -> Result<Response<v1::UpdateSchemaResponse>, Status> {
        let (tenant, request) = open(request)?;
        let mask = UpdateMask::read(request.update_mask, &FIELDS)?;
        let v1::Schema { id, description, etag, .. } = required("schema", request.schema)?;
        let change = |stored: &Schema| {
            let mut changed = stored.description.clone();
            mask.assign("description", &mut changed, description.clone());
            changed
        };
        let updated = self.control.update_schema(tenant, &id, &etag, change).await;
        let schema = Some(to_message(tenant, &*updated.map_err(Problem::from)?));
        Ok(Response::new(v1::UpdateSchemaResponse { schema }))
    }

    async fn delete_schema(
        &self,
        request: Request<v1::DeleteSchemaRequest>,
    ) -> Result<Response<v1::DeleteSchemaResponse>, Status> {
        let (tenant, request) = open(request)?;
        let v1::DeleteSchemaRequest { id, etag } = request;
        self.control.delete_schema(tenant, &id, &etag).await.map_err(Problem::from)?;
        Ok(Response::new(v1::DeleteSchemaResponse {}))
    }
}

fn to_message(tenant: Tenant, schema: &Schema) -> v1::Schema {
    v1::Schema {
        id: schema.id.clone(),
        description: schema.description.clone(),
        latest_version: schema.latest_version(),
        create_time: Some(to_api(schema.created)),
        etag: schema.etag(),
        account_id: tenant.account().to_string(),
    }
}

fn with_document(version: &VersionedSchema) -> v1::SchemaVersion {
    v1::SchemaVersion { document: version.version.document.to_string(), ..without_document(version) }
}

/// A version as lists have it: documents may be large.
fn without_document(version: &VersionedSchema) -> v1::SchemaVersion {
    let VersionedSchema { schema, number, version } = version;
    v1::SchemaVersion {
        schema_id: schema.id.clone(),
        version: *number,
        document: String::new(),
        create_time: Some(to_api(version.created)),
        dataschema: dataschema_uri(&schema.id, *number),
    }
}

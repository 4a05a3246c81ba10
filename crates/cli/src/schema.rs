//! `fanfare schema`: JSON Schemas and their versions.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use fanfare_client::{Client, time};
use fanfare_proto::v1;

use crate::{
    failure::Failure,
    output::{OutputFields, OutputRecord},
    page::Limit,
    publish::read_file,
    session::Session,
    terminal::say,
};

#[derive(Debug, Subcommand)]
pub enum SchemaCommand {
    /// Create a schema with its version 1
    Create(CreateSchemaArguments),
    /// Show a schema, or the document of one version
    Get(GetSchemaArguments),
    /// List the schemas by id
    List(Limit),
    /// Delete a schema that no event type names, with all versions
    Delete { id: String },
    /// Versions of a schema
    #[command(subcommand)]
    Version(VersionCommand),
}

#[derive(Debug, Subcommand)]
pub enum VersionCommand {
    /// Add the next version
    Add(AddArguments),
    /// List a schema's versions, oldest first
    List {
        id: String,
        #[command(flatten)]
        limit: Limit,
    },
}

#[derive(Args, Debug)]
pub struct CreateSchemaArguments {
    /// Such as Acme.OrderPaid
    id: String,
    /// The JSON Schema document
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    #[arg(long, default_value = "", value_name = "TEXT")]
    description: String,
}

#[derive(Args, Debug)]
pub struct AddArguments {
    /// The schema
    id: String,
    /// The JSON Schema document
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

#[derive(Args, Debug)]
pub struct GetSchemaArguments {
    id: String,
    /// Print this version's document; 0 is the newest
    #[arg(long, value_name = "NUMBER")]
    version: Option<u32>,
}

impl OutputRecord for v1::Schema {
    const COLUMNS: &'static [&'static str] = &["ID", "LATEST", "CREATED", "DESCRIPTION"];

    fn row(&self) -> Vec<String> {
        let created = time::text(self.create_time.as_ref());
        vec![self.id.clone(), self.latest_version.to_string(), created, self.description.clone()]
    }

    fn fields(&self) -> OutputFields {
        OutputFields::new()
            .with("id", &self.id)
            .with("description", &self.description)
            .with("latestVersion", &self.latest_version)
            .with("createTime", &time::text(self.create_time.as_ref()))
            .with("etag", &self.etag)
            .with("accountId", &self.account_id)
    }
}

impl OutputRecord for v1::SchemaVersion {
    const COLUMNS: &'static [&'static str] = &["SCHEMA", "VERSION", "CREATED", "DATASCHEMA"];

    fn row(&self) -> Vec<String> {
        let created = time::text(self.create_time.as_ref());
        vec![self.schema_id.clone(), self.version.to_string(), created, self.dataschema.clone()]
    }

    fn fields(&self) -> OutputFields {
        OutputFields::new()
            .with("schemaId", &self.schema_id)
            .with("version", &self.version)
            .with("document", &self.document)
            .with("createTime", &time::text(self.create_time.as_ref()))
            .with("dataschema", &self.dataschema)
    }
}

pub(crate) async fn run(command: SchemaCommand, session: &Session) -> Result<(), Failure> {
    match command {
        SchemaCommand::Create(arguments) => create(arguments, session).await,
        SchemaCommand::Get(GetSchemaArguments { id, version: Some(version) }) => {
            get_version(id, version, session).await
        }
        SchemaCommand::Get(GetSchemaArguments { id, version: None }) => get(id, session).await,
        SchemaCommand::List(limit) => list(&limit, session).await,
        SchemaCommand::Delete { id } => delete(id, session).await,
        SchemaCommand::Version(VersionCommand::Add(arguments)) => add_version(arguments, session).await,
        SchemaCommand::Version(VersionCommand::List { id, limit }) => {
            list_versions(&id, &limit, session).await
        }
    }
}

async fn create(arguments: CreateSchemaArguments, session: &Session) -> Result<(), Failure> {
    let document = read_file(&arguments.file).await?;
    let attempted = format!("create schema {}", arguments.id);
    let schema = v1::Schema { id: arguments.id, description: arguments.description, ..v1::Schema::default() };
    let request =
        v1::CreateSchemaRequest { schema: Some(schema), document, request_id: Client::request_id() };
    let created = session
        .call_again(&attempted, async |client| {
            client.schemas().create_schema(client.request(request.clone())).await
        })
        .await?;
    session.output.record(&created.schema.ok_or_else(|| Failure::incomplete(&attempted))?)
}

async fn add_version(arguments: AddArguments, session: &Session) -> Result<(), Failure> {
    let document = read_file(&arguments.file).await?;
    let attempted = format!("add a version to schema {}", arguments.id);
    let request = v1::CreateSchemaVersionRequest {
        schema_id: arguments.id,
        document,
        request_id: Client::request_id(),
    };
    let created = session
        .call_again(&attempted, async |client| {
            client.schemas().create_schema_version(client.request(request.clone())).await
        })
        .await?;
    session.output.record(&created.version.ok_or_else(|| Failure::incomplete(&attempted))?)
}

async fn get(id: String, session: &Session) -> Result<(), Failure> {
    let attempted = format!("get schema {id}");
    let request = v1::GetSchemaRequest { id };
    let found = session
        .call(&attempted, async |client| client.schemas().get_schema(client.request(request)).await)
        .await?;
    session.output.record(&found.schema.ok_or_else(|| Failure::incomplete(&attempted))?)
}

async fn get_version(id: String, version: u32, session: &Session) -> Result<(), Failure> {
    let attempted = format!("get version {version} of schema {id}");
    let request = v1::GetSchemaVersionRequest { schema_id: id, version };
    let found = session
        .call(&attempted, async |client| client.schemas().get_schema_version(client.request(request)).await)
        .await?;
    let version = found.version.ok_or_else(|| Failure::incomplete(&attempted))?;
    if session.output.is_json() {
        return session.output.record(&version);
    }
    say(&format!("version {} · dataschema {}", version.version, version.dataschema));
    session.output.text(&version.document)
}

async fn list(limit: &Limit, session: &Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let listed = limit.collect(async |page_size, page_token| {
        let request = client.request(v1::ListSchemasRequest { page_size, page_token });
        let page = client.schemas().list_schemas(request).await?.into_inner();
        Ok((page.schemas, page.next_page_token))
    });
    let schemas = listed.await.map_err(|status| Failure::from_status("list schemas", &status))?;
    session.output.list(&schemas)
}

async fn list_versions(id: &str, limit: &Limit, session: &Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let listed = limit.collect(async |page_size, page_token| {
        let schema_id = id.to_owned();
        let request = client.request(v1::ListSchemaVersionsRequest { schema_id, page_size, page_token });
        let page = client.schemas().list_schema_versions(request).await?.into_inner();
        Ok((page.versions, page.next_page_token))
    });
    let attempted = format!("list the versions of schema {id}");
    session.output.list(&listed.await.map_err(|status| Failure::from_status(&attempted, &status))?)
}

async fn delete(id: String, session: &Session) -> Result<(), Failure> {
    let attempted = format!("delete schema {id}");
    let request = v1::DeleteSchemaRequest { id: id.clone(), etag: String::new() };
    session
        .call(&attempted, async |client| client.schemas().delete_schema(client.request(request)).await)
        .await?;
    say(&format!("deleted schema {id}"));
    Ok(())
}

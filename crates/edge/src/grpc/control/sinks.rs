//! `fanfare.v1.SinkService`.

use fanfare_control::{SinkKind, SinkSettings, SinkUpdate, WebhookSettings};
use fanfare_model::{KinesisConfig, Secret, Sink, SinkConfig, WebhookMethod};
use fanfare_proto::v1;
use tonic::{Request, Response, Status};

use super::{ControlServices, open, present, required, revision};
use crate::{grpc::time::to_api, page::PagedList, problem::Problem};

#[tonic::async_trait]
impl v1::sink_service_server::SinkService for ControlServices {
    async fn create_sink(
        &self,
        request: Request<v1::CreateSinkRequest>,
    ) -> Result<Response<v1::CreateSinkResponse>, Status> {
        let (tenant, request) = open(request)?;
        let settings = settings(required("sink", request.sink)?);
        let created = self.control.create_sink(tenant, settings).await.map_err(Problem::from)?;
        Ok(Response::new(v1::CreateSinkResponse { sink: Some(with_signing_secret(&created)) }))
    }

    async fn get_sink(
        &self,
        request: Request<v1::GetSinkRequest>,
    ) -> Result<Response<v1::GetSinkResponse>, Status> {
        let (tenant, request) = open(request)?;
        let sink = self.control.sink(tenant, &request.id).map_err(Problem::from)?;
        Ok(Response::new(v1::GetSinkResponse { sink: Some(to_message(&sink)) }))
    }

    async fn list_sinks(
        &self,
        request: Request<v1::ListSinksRequest>,
    ) -> Result<Response<v1::ListSinksResponse>, Status> {
        let (tenant, v1::ListSinksRequest { page_size, page_token }) = open(request)?;
        let list = PagedList::new("sinks");
        let page = list.request(page_size, &page_token)?;
        let listed = self.control.list_sinks(tenant, &page).map_err(Problem::from)?;
        Ok(Response::new(v1::ListSinksResponse {
            sinks: listed.items.iter().map(|sink| to_message(sink)).collect(),
            next_page_token: list.token(listed.next),
        }))
    }

    async fn update_sink(
        &self,
        request: Request<v1::UpdateSinkRequest>,
    ) -> Result<Response<v1::UpdateSinkResponse>, Status> {
        let (tenant, request) = open(request)?;
        let mut sink = required("sink", request.sink)?;
        let (id, expected_revision) = (std::mem::take(&mut sink.id), revision(&sink.etag));
        let update = SinkUpdate { id, settings: settings(sink), expected_revision };
        let updated = self.control.update_sink(tenant, update).await.map_err(Problem::from)?;
        Ok(Response::new(v1::UpdateSinkResponse { sink: Some(to_message(&updated)) }))
    }

    async fn delete_sink(
        &self,
        request: Request<v1::DeleteSinkRequest>,
    ) -> Result<Response<v1::DeleteSinkResponse>, Status> {
        let (tenant, request) = open(request)?;
        self.control.delete_sink(tenant, &request.id).await.map_err(Problem::from)?;
        Ok(Response::new(v1::DeleteSinkResponse {}))
    }
}

/// Protobuf's zero and empty values are absent settings.
fn settings(sink: v1::Sink) -> SinkSettings {
    let kind = sink.kind.map(|kind| match kind {
        v1::sink::Kind::Webhook(webhook) => SinkKind::Webhook(WebhookSettings {
            destination: webhook.destination,
            method: present(webhook.method),
            batch_events: webhook.batch_events,
            batch_events_max: Some(webhook.batch_events_max).filter(|events| *events > 0),
            timeout_ms: Some(webhook.timeout_ms).filter(|timeout_ms| *timeout_ms > 0),
            signing_secret: present(webhook.signing_secret).map(Secret::new),
            twilio_auth_token: present(webhook.twilio_auth_token).map(Secret::new),
        }),
        v1::sink::Kind::Kinesis(kinesis) => SinkKind::Kinesis(KinesisConfig {
            arn: kinesis.arn,
            role_arn: present(kinesis.role_arn),
            external_id: present(kinesis.external_id),
            endpoint_override: present(kinesis.endpoint_override),
        }),
    });
    SinkSettings { description: sink.description, kind }
}

/// The one message that holds the signing secret: the answer to the creation.
fn with_signing_secret(sink: &Sink) -> v1::Sink {
    let mut message = to_message(sink);
    if let (Some(v1::sink::Kind::Webhook(webhook)), SinkConfig::Webhook(stored)) =
        (&mut message.kind, &sink.config)
    {
        stored.signing_secret.expose().clone_into(&mut webhook.signing_secret);
    }
    message
}

fn to_message(sink: &Sink) -> v1::Sink {
    let kind = match &sink.config {
        SinkConfig::Webhook(webhook) => v1::sink::Kind::Webhook(v1::WebhookSink {
            destination: webhook.destination.clone(),
            method: match webhook.method {
                WebhookMethod::Post => "POST".to_owned(),
                WebhookMethod::Put => "PUT".to_owned(),
            },
            batch_events: webhook.batch_events,
            signing_secret: String::new(),
            twilio_auth_token: String::new(),
            timeout_ms: webhook.timeout_ms,
            batch_events_max: webhook.batch_events_max,
        }),
        SinkConfig::Kinesis(kinesis) => v1::sink::Kind::Kinesis(v1::KinesisSink {
            arn: kinesis.arn.clone(),
            role_arn: kinesis.role_arn.clone().unwrap_or_default(),
            external_id: kinesis.external_id.clone().unwrap_or_default(),
            endpoint_override: kinesis.endpoint_override.clone().unwrap_or_default(),
        }),
    };
    v1::Sink {
        id: sink.id.to_string(),
        description: sink.description.clone(),
        kind: Some(kind),
        create_time: Some(to_api(sink.created)),
        update_time: Some(to_api(sink.updated)),
        etag: sink.revision.to_string(),
    }
}

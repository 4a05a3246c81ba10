//! `fanfare.v1.SinkService`.

use std::ops::Bound;

use fanfare_catalog::{ChangeError, ObjectKind, SinkChange};
use fanfare_model::{KinesisConfig, Secret, Sink, SinkConfig, SinkId, WebhookConfig, WebhookMethod};
use fanfare_proto::v1;
use tonic::{Request, Response, Status};

use crate::{
    control::{Control, parse_id, revision, tenant},
    page::Page,
    status::{change_status, invalid, sink_status},
    time::to_api,
};

const TIMEOUT_DEFAULT_MS: u32 = 15_000;
const TIMEOUT_MAX_MS: u32 = 30_000;
const BATCH_EVENTS_DEFAULT: u32 = 100;

#[tonic::async_trait]
impl v1::sink_service_server::SinkService for Control {
    async fn create_sink(
        &self,
        request: Request<v1::CreateSinkRequest>,
    ) -> Result<Response<v1::CreateSinkResponse>, Status> {
        let tenant = tenant(&request)?;
        let given = required(request.into_inner().sink)?;
        let mut config = config(given.kind)?;
        if let SinkConfig::Webhook(webhook) = &mut config
            && webhook.signing_secret.expose().is_empty()
        {
            webhook.signing_secret = self.sinks.signing_secret();
        }
        self.sinks.check(&config).map_err(|error| sink_status(&error))?;
        let created = self.catalog.create_sink(tenant, &given.description, config).await;
        let created = created.map_err(|error| change_status(&error))?;
        Ok(Response::new(v1::CreateSinkResponse { sink: Some(shown_with_secret(&created)) }))
    }

    async fn get_sink(
        &self,
        request: Request<v1::GetSinkRequest>,
    ) -> Result<Response<v1::GetSinkResponse>, Status> {
        let account = self.account(tenant(&request)?)?;
        let id = parse_id::<SinkId>("id", &request.get_ref().id)?;
        match account.sinks.get(&id) {
            Some(sink) => Ok(Response::new(v1::GetSinkResponse { sink: Some(shown(sink)) })),
            None => Err(unknown(id)),
        }
    }

    async fn list_sinks(
        &self,
        request: Request<v1::ListSinksRequest>,
    ) -> Result<Response<v1::ListSinksResponse>, Status> {
        let account = self.account(tenant(&request)?)?;
        let v1::ListSinksRequest { page_size, page_token } = request.into_inner();
        let page = Page::<SinkId>::parse("sinks", page_size, &page_token)?;
        let from = page.after.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = account.sinks.range((from, Bound::Unbounded));
        let (sinks, next_page_token) = page.take(rest.map(|(id, sink)| (*id, shown(sink))));
        Ok(Response::new(v1::ListSinksResponse { sinks, next_page_token }))
    }

    async fn update_sink(
        &self,
        request: Request<v1::UpdateSinkRequest>,
    ) -> Result<Response<v1::UpdateSinkResponse>, Status> {
        let tenant = tenant(&request)?;
        let given = required(request.into_inner().sink)?;
        let id = parse_id::<SinkId>("sink.id", &given.id)?;
        let config = config(given.kind)?;
        let account = self.account(tenant)?;
        let stored = account.sinks.get(&id).ok_or_else(|| unknown(id))?;
        self.sinks.check(&completed(&config, &stored.config)).map_err(|error| sink_status(&error))?;
        let change =
            SinkChange { description: given.description, config, expected_revision: revision(&given.etag) };
        let updated = self.catalog.update_sink(tenant, id, change).await;
        let updated = updated.map_err(|error| change_status(&error))?;
        Ok(Response::new(v1::UpdateSinkResponse { sink: Some(shown(&updated)) }))
    }

    async fn delete_sink(
        &self,
        request: Request<v1::DeleteSinkRequest>,
    ) -> Result<Response<v1::DeleteSinkResponse>, Status> {
        let tenant = tenant(&request)?;
        let id = parse_id("id", &request.get_ref().id)?;
        self.catalog.delete_sink(tenant, id).await.map_err(|error| change_status(&error))?;
        Ok(Response::new(v1::DeleteSinkResponse {}))
    }
}

fn required(given: Option<v1::Sink>) -> Result<v1::Sink, Status> {
    given.ok_or_else(|| invalid("sink", "is required"))
}

fn unknown(id: SinkId) -> Status {
    change_status(&ChangeError::NotFound { kind: ObjectKind::Sink, name: id.to_string() })
}

fn config(kind: Option<v1::sink::Kind>) -> Result<SinkConfig, Status> {
    match kind {
        Some(v1::sink::Kind::Webhook(webhook)) => Ok(SinkConfig::Webhook(webhook_config(webhook)?)),
        Some(v1::sink::Kind::Kinesis(kinesis)) => Ok(SinkConfig::Kinesis(KinesisConfig {
            arn: kinesis.arn,
            role_arn: given(kinesis.role_arn),
            external_id: given(kinesis.external_id),
            endpoint_override: given(kinesis.endpoint_override),
        })),
        None => Err(invalid("sink.kind", "is required: give sink.webhook or sink.kinesis")),
    }
}

fn webhook_config(webhook: v1::WebhookSink) -> Result<WebhookConfig, Status> {
    let method = match webhook.method.as_str() {
        "" | "POST" => WebhookMethod::Post,
        "PUT" => WebhookMethod::Put,
        _ => return Err(invalid("sink.webhook.method", "is neither POST nor PUT")),
    };
    if webhook.timeout_ms > TIMEOUT_MAX_MS {
        let problem = format!("is {}; at most {TIMEOUT_MAX_MS} are allowed", webhook.timeout_ms);
        return Err(invalid("sink.webhook.timeout_ms", problem));
    }
    Ok(WebhookConfig {
        destination: webhook.destination,
        method,
        batch_events: webhook.batch_events,
        batch_events_max: or_default(webhook.batch_events_max, BATCH_EVENTS_DEFAULT),
        timeout_ms: or_default(webhook.timeout_ms, TIMEOUT_DEFAULT_MS),
        signing_secret: Secret::new(webhook.signing_secret),
        twilio_auth_token: given(webhook.twilio_auth_token).map(Secret::new),
    })
}

fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn or_default(number: u32, default: u32) -> u32 {
    if number == 0 { default } else { number }
}

/// The configuration as the catalog will store it: secrets that are left out are the stored ones.
fn completed(config: &SinkConfig, stored: &SinkConfig) -> SinkConfig {
    let mut completed = config.clone();
    if let (SinkConfig::Webhook(webhook), SinkConfig::Webhook(stored)) = (&mut completed, stored) {
        if webhook.signing_secret.expose().is_empty() {
            webhook.signing_secret = stored.signing_secret.clone();
        }
        if webhook.twilio_auth_token.is_none() {
            webhook.twilio_auth_token = stored.twilio_auth_token.clone();
        }
    }
    completed
}

fn shown_with_secret(sink: &Sink) -> v1::Sink {
    let mut shown = shown(sink);
    if let (Some(v1::sink::Kind::Webhook(webhook)), SinkConfig::Webhook(stored)) =
        (&mut shown.kind, &sink.config)
    {
        stored.signing_secret.expose().clone_into(&mut webhook.signing_secret);
    }
    shown
}

fn shown(sink: &Sink) -> v1::Sink {
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

//! `fanfare.v1.SinkService`.

use fanfare_control::{KinesisSettings, Resource, SinkKind, SinkSettings, WebhookSettings};
use fanfare_model::{DeliverySettings, Secret, Sink, SinkConfig, WebhookMethod};
use fanfare_proto::v1;
use tonic::{Request, Response, Status};

use super::{ControlServices, destination, open, present, required, update_mask::UpdateMask};
use crate::{
    grpc::time::{duration_from_api, duration_ms, duration_to_api, to_api},
    page::PagedList,
    problem::Problem,
};

/// Paths that an update may name.
const FIELDS: [&str; 21] = [
    "description",
    "webhook",
    "webhook.destination",
    "webhook.method",
    "webhook.batch_events",
    "webhook.batch_events_max",
    "webhook.timeout_ms",
    "webhook.signing_secret",
    "webhook.twilio_auth_token",
    "kinesis",
    "kinesis.arn",
    "kinesis.role_arn",
    "kinesis.external_id",
    "kinesis.endpoint_override",
    "kinesis.timeout_ms",
    "delivery",
    "delivery.concurrency_max",
    "delivery.requests_per_second_max",
    "delivery.retry_initial",
    "delivery.retry_max",
    "delivery.attempts_max",
];

#[tonic::async_trait]
impl v1::sink_service_server::SinkService for ControlServices {
    async fn create_sink(
        &self,
        request: Request<v1::CreateSinkRequest>,
    ) -> Result<Response<v1::CreateSinkResponse>, Status> {
        let (tenant, request) = open(request)?;
        let control = self.once(tenant, &request);
        let given = required("sink", request.sink)?;
        check_destination(&given, None)?;
        let created = control.create_sink(tenant, settings(given)?).await.map_err(Problem::from)?;
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
        let mask = UpdateMask::read(request.update_mask, &FIELDS)?;
        let given = required("sink", request.sink)?;
        if is_masked(&given) {
            let stored = self.control.sink(tenant, &given.id).map_err(Problem::from)?;
            check_destination(&given, Some(&to_message(&stored)))?;
        }
        // Refused before a stored sink is looked at: its own durations are sound.
        settings(given.clone())?;
        let change = |stored: &Sink| {
            settings(merged(&mask, with_secrets(stored), given.clone())).expect("durations were read before")
        };
        let updated = self.control.update_sink(tenant, &given.id, &given.etag, change).await;
        Ok(Response::new(v1::UpdateSinkResponse {
            sink: Some(to_message(&*updated.map_err(Problem::from)?)),
        }))
    }

    async fn delete_sink(
        &self,
        request: Request<v1::DeleteSinkRequest>,
    ) -> Result<Response<v1::DeleteSinkResponse>, Status> {
        let (tenant, request) = open(request)?;
        let v1::DeleteSinkRequest { id, etag } = request;
        self.control.delete_sink(tenant, &id, &etag).await.map_err(Problem::from)?;
        Ok(Response::new(v1::DeleteSinkResponse {}))
    }

    async fn rotate_sink_secret(
        &self,
        request: Request<v1::RotateSinkSecretRequest>,
    ) -> Result<Response<v1::RotateSinkSecretResponse>, Status> {
        let (tenant, request) = open(request)?;
        let control = self.once(tenant, &request);
        let v1::RotateSinkSecretRequest { id, expire_after, etag, .. } = request;
        let overlap_ms = expire_after.map(|after| duration_from_api("expire_after", after)).transpose()?;
        let rotated = control.rotate_sink_secret(tenant, &id, overlap_ms, &etag).await;
        let sink = Some(with_signing_secret(&*rotated.map_err(Problem::from)?));
        Ok(Response::new(v1::RotateSinkSecretResponse { sink }))
    }
}

fn is_masked(sink: &v1::Sink) -> bool {
    matches!(&sink.kind, Some(v1::sink::Kind::Webhook(webhook)) if destination::is_masked(&webhook.destination))
}

/// Refuses a destination with masked credentials, unless it is the one that answers show.
fn check_destination(given: &v1::Sink, shown: Option<&v1::Sink>) -> Result<(), Problem> {
    let destination = |sink: &v1::Sink| match &sink.kind {
        Some(v1::sink::Kind::Webhook(webhook)) => Some(webhook.destination.clone()),
        _ => None,
    };
    if !is_masked(given) || destination(given) == shown.and_then(destination) {
        return Ok(());
    }
    let problem = "holds *** where answers hide a password or a parameter: give the whole URL";
    Err(Problem::field("sink.webhook.destination", problem))
}

/// `stored` with the fields of `given` that the mask covers. A given kind that is not the stored one replaces it, for the
/// catalog to refuse.
fn merged(mask: &UpdateMask, mut stored: v1::Sink, given: v1::Sink) -> v1::Sink {
    use v1::sink::Kind;
    mask.assign("description", &mut stored.description, given.description);
    stored.delivery =
        Some(merged_delivery(mask, stored.delivery.unwrap_or_default(), given.delivery.unwrap_or_default()));
    match (&mut stored.kind, given.kind) {
        (Some(Kind::Webhook(stored)), Some(Kind::Webhook(given))) => merge_webhook(mask, stored, given),
        (Some(Kind::Kinesis(stored)), Some(Kind::Kinesis(given))) => merge_kinesis(mask, stored, given),
        (Some(Kind::Webhook(stored)), None) => merge_webhook(mask, stored, v1::WebhookSink::default()),
        (Some(Kind::Kinesis(stored)), None) => merge_kinesis(mask, stored, v1::KinesisSink::default()),
        (kind, Some(given)) => {
            let path = match &given {
                Kind::Webhook(_) => "webhook",
                Kind::Kinesis(_) => "kinesis",
            };
            if mask.touches(path) {
                *kind = Some(given);
            }
        }
        (None, None) => {}
    }
    stored
}

fn merge_webhook(mask: &UpdateMask, stored: &mut v1::WebhookSink, given: v1::WebhookSink) {
    if given.destination.is_empty() || given.destination != destination::masked(&stored.destination) {
        mask.assign("webhook.destination", &mut stored.destination, given.destination);
    }
    mask.assign("webhook.method", &mut stored.method, given.method);
    mask.assign("webhook.batch_events", &mut stored.batch_events, given.batch_events);
    mask.assign("webhook.batch_events_max", &mut stored.batch_events_max, given.batch_events_max);
    mask.assign("webhook.timeout_ms", &mut stored.timeout_ms, given.timeout_ms);
    // Absent rather than empty: a signing secret is not removed by a message that was read without it.
    let mut signing_secret = Some(std::mem::take(&mut stored.signing_secret));
    mask.assign_secret("webhook.signing_secret", &mut signing_secret, present(given.signing_secret));
    stored.signing_secret = signing_secret.unwrap_or_default();
    mask.assign_secret("webhook.twilio_auth_token", &mut stored.twilio_auth_token, given.twilio_auth_token);
}

fn merge_kinesis(mask: &UpdateMask, stored: &mut v1::KinesisSink, given: v1::KinesisSink) {
    mask.assign("kinesis.arn", &mut stored.arn, given.arn);
    mask.assign("kinesis.role_arn", &mut stored.role_arn, given.role_arn);
    mask.assign_secret("kinesis.external_id", &mut stored.external_id, given.external_id);
    mask.assign("kinesis.endpoint_override", &mut stored.endpoint_override, given.endpoint_override);
}

fn merged_delivery(
    mask: &UpdateMask,
    mut stored: v1::DeliverySettings,
    given: v1::DeliverySettings,
) -> v1::DeliverySettings {
    mask.assign("delivery.concurrency_max", &mut stored.concurrency_max, given.concurrency_max);
    mask.assign(
        "delivery.requests_per_second_max",
        &mut stored.requests_per_second_max,
        given.requests_per_second_max,
    );
    mask.assign("delivery.retry_initial", &mut stored.retry_initial, given.retry_initial);
    mask.assign("delivery.retry_max", &mut stored.retry_max, given.retry_max);
    mask.assign("delivery.attempts_max", &mut stored.attempts_max, given.attempts_max);
    stored
}

/// Protobuf's zero and empty values are absent settings.
fn settings(sink: v1::Sink) -> Result<SinkSettings, Problem> {
    let kind = sink.kind.map(|kind| match kind {
        v1::sink::Kind::Webhook(webhook) => SinkKind::Webhook(WebhookSettings {
            destination: webhook.destination,
            method: present(webhook.method),
            batch_events: webhook.batch_events,
            batch_events_max: Some(webhook.batch_events_max).filter(|events| *events > 0),
            timeout_ms: Some(webhook.timeout_ms).filter(|timeout_ms| *timeout_ms > 0),
            signing_secret: present(webhook.signing_secret).map(Secret::new),
            twilio_auth_token: webhook.twilio_auth_token.and_then(present).map(Secret::new),
        }),
        v1::sink::Kind::Kinesis(kinesis) => SinkKind::Kinesis(KinesisSettings {
            arn: kinesis.arn,
            role_arn: present(kinesis.role_arn),
            external_id: kinesis.external_id.and_then(present),
            endpoint_override: present(kinesis.endpoint_override),
            timeout_ms: Some(kinesis.timeout_ms).filter(|timeout_ms| *timeout_ms > 0),
        }),
    });
    let delivery = sink.delivery.unwrap_or_default();
    let count = |given: u32| Some(given).filter(|given| *given > 0);
    let delivery = DeliverySettings {
        concurrency_max: count(delivery.concurrency_max),
        requests_per_second_max: count(delivery.requests_per_second_max),
        retry_initial_ms: duration_ms("sink.delivery.retry_initial", delivery.retry_initial)?,
        retry_max_ms: duration_ms("sink.delivery.retry_max", delivery.retry_max)?,
        attempts_max: count(delivery.attempts_max),
    };
    Ok(SinkSettings { description: sink.description, kind, delivery })
}

/// The sink as the answers hold it that made its signing secret.
fn with_signing_secret(sink: &Sink) -> v1::Sink {
    let mut message = to_message(sink);
    if let (Some(v1::sink::Kind::Webhook(webhook)), SinkConfig::Webhook(stored)) =
        (&mut message.kind, &sink.config)
    {
        stored.signing_secret.expose().clone_into(&mut webhook.signing_secret);
    }
    message
}

/// The sink with every secret. No answer.
fn with_secrets(sink: &Sink) -> v1::Sink {
    let mut message = with_signing_secret(sink);
    match (&mut message.kind, &sink.config) {
        (Some(v1::sink::Kind::Webhook(webhook)), SinkConfig::Webhook(stored)) => {
            webhook.destination.clone_from(&stored.destination);
            webhook.twilio_auth_token =
                stored.twilio_auth_token.as_ref().map(|token| token.expose().to_owned());
        }
        (Some(v1::sink::Kind::Kinesis(kinesis)), SinkConfig::Kinesis(stored)) => {
            kinesis.external_id.clone_from(&stored.external_id);
        }
        _ => {}
    }
    message
}

fn to_message(sink: &Sink) -> v1::Sink {
    let kind = match &sink.config {
        SinkConfig::Webhook(webhook) => v1::sink::Kind::Webhook(v1::WebhookSink {
            destination: destination::masked(&webhook.destination),
            method: match webhook.method {
                WebhookMethod::Post => "POST".to_owned(),
                WebhookMethod::Put => "PUT".to_owned(),
            },
            batch_events: webhook.batch_events,
            signing_secret: String::new(),
            twilio_auth_token: None,
            timeout_ms: webhook.timeout_ms,
            batch_events_max: webhook.batch_events_max,
            previous_secret_expire_time: webhook
                .previous_secret
                .as_ref()
                .map(|previous| to_api(previous.expires)),
        }),
        SinkConfig::Kinesis(kinesis) => v1::sink::Kind::Kinesis(v1::KinesisSink {
            arn: kinesis.arn.clone(),
            role_arn: kinesis.role_arn.clone().unwrap_or_default(),
            external_id: None,
            endpoint_override: kinesis.endpoint_override.clone().unwrap_or_default(),
            timeout_ms: kinesis.timeout_ms,
        }),
    };
    v1::Sink {
        id: sink.id.to_string(),
        description: sink.description.clone(),
        kind: Some(kind),
        create_time: Some(to_api(sink.created)),
        update_time: Some(to_api(sink.updated)),
        etag: sink.etag(),
        account_id: sink.account.to_string(),
        delivery: Some(v1::DeliverySettings {
            concurrency_max: sink.delivery.concurrency_max.unwrap_or(0),
            requests_per_second_max: sink.delivery.requests_per_second_max.unwrap_or(0),
            retry_initial: sink.delivery.retry_initial_ms.map(duration_to_api),
            retry_max: sink.delivery.retry_max_ms.map(duration_to_api),
            attempts_max: sink.delivery.attempts_max.unwrap_or(0),
        }),
    }
}

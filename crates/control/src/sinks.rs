//! Sinks: destinations of an account and how events get there.

use std::{ops::RangeInclusive, sync::Arc};

use fanfare_catalog::{ChangeError, NewSink, ObjectKind, SinkChange, Tenant};
use fanfare_model::{
    DeliverySettings, KinesisConfig, PreviousSecret, Secret, Sink, SinkConfig, SinkId, Timestamp,
    WebhookConfig, WebhookMethod,
};

use crate::{
    control::{Control, UpdateRounds, parse_id},
    error::{ControlError, FieldViolation},
    list::{ListRequest, Listed},
};

const OVERLAP_DEFAULT_MS: u64 = 24 * 60 * 60 * 1000;
const OVERLAP_MAX_MS: u64 = 30 * 24 * 60 * 60 * 1000;
const TIMEOUT_DEFAULT_MS: u32 = 15_000;
const TIMEOUT_MAX_MS: u32 = 30_000;
const BATCH_EVENTS_DEFAULT: u32 = 100;

const CONCURRENCY: RangeInclusive<u64> = 1..=1024;
const REQUESTS_PER_SECOND: RangeInclusive<u64> = 1..=100_000;
const RETRY_INITIAL_MS: RangeInclusive<u64> = 100..=3_600_000;
const RETRY_MAX_MS: RangeInclusive<u64> = 100..=86_400_000;
const ATTEMPTS: RangeInclusive<u64> = 1..=1000;

/// Wanted state of a sink.
#[derive(Clone, Debug)]
pub struct SinkSettings {
    pub description: String,
    /// Required.
    pub kind: Option<SinkKind>,
    pub delivery: DeliverySettings,
}

/// Kind of a sink and its settings.
#[derive(Clone, Debug)]
pub enum SinkKind {
    Webhook(WebhookSettings),
    Kinesis(KinesisSettings),
}

/// Settings of a data stream; what is absent has its default.
#[derive(Clone, Debug)]
pub struct KinesisSettings {
    pub arn: String,
    pub role_arn: Option<String>,
    pub external_id: Option<String>,
    pub endpoint_override: Option<String>,
    /// 15 s if absent, at most 30 s.
    pub timeout_ms: Option<u32>,
}

/// Settings of a webhook; what is absent has its default.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    pub destination: String,
    /// POST or PUT; POST if absent.
    pub method: Option<String>,
    pub batch_events: bool,
    /// 100 if absent.
    pub batch_events_max: Option<u32>,
    /// 15 s if absent, at most 30 s.
    pub timeout_ms: Option<u32>,
    /// Made by the node if absent from a new sink; an update needs it.
    pub signing_secret: Option<Secret>,
    pub twilio_auth_token: Option<Secret>,
}

impl Control {
    /// Makes a sink. The answer is the only one that holds its signing secret for the owner to see.
    ///
    /// # Errors
    /// If a field is wrong, the sink could never deliver, or the catalog refuses the change.
    pub async fn create_sink(
        &self,
        tenant: Tenant,
        settings: SinkSettings,
    ) -> Result<Arc<Sink>, ControlError> {
        let mut sink = new_sink(settings)?;
        if let SinkConfig::Webhook(webhook) = &mut sink.config
            && webhook.signing_secret.expose().is_empty()
        {
            webhook.signing_secret = self.sinks.signing_secret();
        }
        self.sinks.check(&sink.config)?;
        Ok(self.catalog.create_sink(tenant, sink).await?)
    }

    /// # Errors
    /// If the account has no such sink.
    pub fn sink(&self, tenant: Tenant, id: &str) -> Result<Arc<Sink>, ControlError> {
        let account = self.account(tenant)?;
        let id = parse_id::<SinkId>("id", id)?;
        Ok(account.sinks.get(&id).cloned().ok_or_else(|| unknown(id))?)
    }

    /// # Errors
    /// If the account is gone.
    pub fn list_sinks(
        &self,
        tenant: Tenant,
        request: &ListRequest<SinkId>,
    ) -> Result<Listed<Arc<Sink>, SinkId>, ControlError> {
        let account = self.account(tenant)?;
        let sinks = account.sinks.range((request.start(), std::ops::Bound::Unbounded));
        Ok(request.page(sinks.map(|(id, sink)| (*id, sink.clone()))))
    }

    /// Changes a sink to what `change` makes of the stored one, secrets included; its kind stays. `etag` is that of the
    /// state that was read; an empty one merges the change into the newest.
    ///
    /// # Errors
    /// If a field is wrong, there is no such sink, it could never deliver, or the catalog refuses the change.
    pub async fn update_sink(
        &self,
        tenant: Tenant,
        id: &str,
        etag: &str,
        change: impl Fn(&Sink) -> SinkSettings + Send,
    ) -> Result<Arc<Sink>, ControlError> {
        let id = parse_id::<SinkId>("sink.id", id)?;
        let mut rounds = UpdateRounds::new(etag);
        loop {
            let stored = self.account(tenant)?.sinks.get(&id).cloned().ok_or_else(|| unknown(id))?;
            let mut sink = new_sink(change(&stored))?;
            keep_previous_secret(&stored.config, &mut sink.config);
            self.sinks.check(&sink.config)?;
            let expected_revision = Some(rounds.expected(&*stored)?);
            let change = SinkChange { sink, expected_revision };
            match self.catalog.update_sink(tenant, id, change).await {
                Err(error) if rounds.goes_on_after(&error) => {}
                answer => return Ok(answer?),
            }
        }
    }

    /// # Errors
    /// If there is no such sink, a subscription uses it, or the catalog refuses the change.
    pub async fn delete_sink(&self, tenant: Tenant, id: &str, etag: &str) -> Result<(), ControlError> {
        let stored = self.sink(tenant, id)?;
        Ok(self.catalog_at(tenant, etag, &*stored)?.delete_sink(tenant, stored.id).await?)
    }

    /// Gives a webhook a new signing secret; requests are signed with the old one too for `overlap_ms`, or 24 h. The answer
    /// holds the new secret for the owner to see.
    ///
    /// # Errors
    /// If `overlap_ms` is too long, there is no such sink, it is no webhook or not as `etag` says, or the catalog refuses the
    /// change.
    pub async fn rotate_sink_secret(
        &self,
        tenant: Tenant,
        id: &str,
        overlap_ms: Option<u64>,
        etag: &str,
    ) -> Result<Arc<Sink>, ControlError> {
        let overlap_ms = overlap_ms.unwrap_or(OVERLAP_DEFAULT_MS);
        if overlap_ms > OVERLAP_MAX_MS {
            return Err(FieldViolation::new("expire_after", "is more than 30 days").into());
        }
        let etag = if self.catalog.is_repeat() { "" } else { etag };
        let secret = self.sinks.signing_secret();
        let mut rounds = UpdateRounds::new(etag);
        loop {
            let stored = self.sink(tenant, id)?;
            let expected_revision = Some(rounds.expected(&*stored)?);
            let config = self.rotated(&stored.config, secret.clone(), overlap_ms)?;
            let (description, delivery) = (stored.description.clone(), stored.delivery);
            let change = SinkChange { sink: NewSink { description, config, delivery }, expected_revision };
            match self.catalog.update_sink(tenant, stored.id, change).await {
                Err(error) if rounds.goes_on_after(&error) => {}
                answer => return Ok(answer?),
            }
        }
    }

    fn rotated(
        &self,
        stored: &SinkConfig,
        secret: Secret,
        overlap_ms: u64,
    ) -> Result<SinkConfig, FieldViolation> {
        let SinkConfig::Webhook(stored) = stored else {
            return Err(FieldViolation::new("id", "is no webhook: only webhooks have a signing secret"));
        };
        let expires = Timestamp(self.environment.clock().unix_ms().saturating_add(overlap_ms));
        let previous = PreviousSecret { secret: stored.signing_secret.clone(), expires };
        Ok(SinkConfig::Webhook(WebhookConfig {
            signing_secret: secret,
            previous_secret: Some(previous).filter(|_| overlap_ms > 0),
            ..stored.clone()
        }))
    }
}

/// An update keeps the secret before the last rotation, unless it replaces the signing secret itself.
fn keep_previous_secret(stored: &SinkConfig, updated: &mut SinkConfig) {
    if let (SinkConfig::Webhook(stored), SinkConfig::Webhook(updated)) = (stored, updated)
        && stored.signing_secret == updated.signing_secret
    {
        updated.previous_secret.clone_from(&stored.previous_secret);
    }
}

fn unknown(id: SinkId) -> ChangeError {
    ChangeError::NotFound { kind: ObjectKind::Sink, name: id.to_string() }
}

fn new_sink(settings: SinkSettings) -> Result<NewSink, FieldViolation> {
    let SinkSettings { description, kind, delivery } = settings;
    check_delivery(&delivery)?;
    Ok(NewSink { description, config: config(kind)?, delivery })
}

fn config(kind: Option<SinkKind>) -> Result<SinkConfig, FieldViolation> {
    match kind {
        Some(SinkKind::Webhook(webhook)) => Ok(SinkConfig::Webhook(webhook_config(webhook)?)),
        Some(SinkKind::Kinesis(kinesis)) => {
            let KinesisSettings { arn, role_arn, external_id, endpoint_override, timeout_ms } = kinesis;
            let timeout_ms = timeout_ms.unwrap_or(TIMEOUT_DEFAULT_MS);
            Ok(SinkConfig::Kinesis(KinesisConfig {
                arn,
                role_arn,
                external_id,
                endpoint_override,
                timeout_ms,
            }))
        }
        None => Err(FieldViolation::new("sink.kind", "is required: give sink.webhook or sink.kinesis")),
    }
}

fn webhook_config(webhook: WebhookSettings) -> Result<WebhookConfig, FieldViolation> {
    let method = match webhook.method.as_deref() {
        None | Some("POST") => WebhookMethod::Post,
        Some("PUT") => WebhookMethod::Put,
        Some(_) => return Err(FieldViolation::new("sink.webhook.method", "is neither POST nor PUT")),
    };
    let timeout_ms = webhook.timeout_ms.unwrap_or(TIMEOUT_DEFAULT_MS);
    if timeout_ms > TIMEOUT_MAX_MS {
        let problem = format!("is {timeout_ms}; at most {TIMEOUT_MAX_MS} are allowed");
        return Err(FieldViolation::new("sink.webhook.timeout_ms", problem));
    }
    Ok(WebhookConfig {
        destination: webhook.destination,
        method,
        batch_events: webhook.batch_events,
        batch_events_max: webhook.batch_events_max.unwrap_or(BATCH_EVENTS_DEFAULT),
        timeout_ms,
        signing_secret: webhook.signing_secret.unwrap_or_else(|| Secret::new(String::new())),
        previous_secret: None,
        twilio_auth_token: webhook.twilio_auth_token,
    })
}

/// Delays are compared where the sink gives both: the node's own may be any.
fn check_delivery(delivery: &DeliverySettings) -> Result<(), FieldViolation> {
    let DeliverySettings { concurrency_max, requests_per_second_max, attempts_max, .. } = *delivery;
    let DeliverySettings { retry_initial_ms, retry_max_ms, .. } = *delivery;
    let counts = [
        ("sink.delivery.concurrency_max", concurrency_max, CONCURRENCY),
        ("sink.delivery.requests_per_second_max", requests_per_second_max, REQUESTS_PER_SECOND),
        ("sink.delivery.attempts_max", attempts_max, ATTEMPTS),
    ];
    for (field, given, range) in counts {
        check_range(field, given.map(u64::from), &range, "")?;
    }
    check_range("sink.delivery.retry_initial", retry_initial_ms, &RETRY_INITIAL_MS, " ms")?;
    check_range("sink.delivery.retry_max", retry_max_ms, &RETRY_MAX_MS, " ms")?;
    match (retry_initial_ms, retry_max_ms) {
        (Some(initial_ms), Some(max_ms)) if max_ms < initial_ms => {
            let problem =
                format!("is {max_ms} ms; use at least sink.delivery.retry_initial, {initial_ms} ms");
            Err(FieldViolation::new("sink.delivery.retry_max", problem))
        }
        _ => Ok(()),
    }
}

fn check_range(
    field: &'static str,
    given: Option<u64>,
    range: &RangeInclusive<u64>,
    unit: &str,
) -> Result<(), FieldViolation> {
    match given.filter(|given| !range.contains(given)) {
        Some(given) => {
            let (least, most) = (range.start(), range.end());
            Err(FieldViolation::new(field, format!("is {given}{unit}; use {least} to {most}{unit}")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook() -> WebhookSettings {
        WebhookSettings {
            destination: "https://example.com/".to_owned(),
            method: None,
            batch_events: false,
            batch_events_max: None,
            timeout_ms: None,
            signing_secret: None,
            twilio_auth_token: None,
        }
    }

    #[test]
    fn absent_settings_of_a_webhook_have_their_defaults() {
        let config = webhook_config(webhook()).unwrap();
        assert_eq!(
            (config.method, config.batch_events_max, config.timeout_ms),
            (WebhookMethod::Post, 100, 15_000)
        );
        let put = WebhookSettings { method: Some("PUT".to_owned()), timeout_ms: Some(30_000), ..webhook() };
        let config = webhook_config(put).unwrap();
        assert_eq!((config.method, config.timeout_ms), (WebhookMethod::Put, 30_000));
    }

    #[test]
    fn settings_that_are_wrong_name_their_field() {
        let table = [
            (None, "sink.kind"),
            (Some(WebhookSettings { method: Some("DELETE".to_owned()), ..webhook() }), "sink.webhook.method"),
            (Some(WebhookSettings { timeout_ms: Some(30_001), ..webhook() }), "sink.webhook.timeout_ms"),
        ];
        for (settings, field) in table {
            assert_eq!(config(settings.map(SinkKind::Webhook)).unwrap_err().field, field);
        }
    }

    #[test]
    fn delivery_settings_out_of_range_name_their_field_and_the_range() {
        let none = DeliverySettings::default;
        check_delivery(&none()).unwrap();
        let table = [
            (DeliverySettings { concurrency_max: Some(1025), ..none() }, "concurrency_max", "1 to 1024"),
            (
                DeliverySettings { requests_per_second_max: Some(100_001), ..none() },
                "requests_per_second_max",
                "1 to 100000",
            ),
            (DeliverySettings { retry_initial_ms: Some(99), ..none() }, "retry_initial", "100 to 3600000 ms"),
            (
                DeliverySettings { retry_max_ms: Some(86_400_001), ..none() },
                "retry_max",
                "100 to 86400000 ms",
            ),
            (
                DeliverySettings { retry_initial_ms: Some(2_000), retry_max_ms: Some(1_000), ..none() },
                "retry_max",
                "at least sink.delivery.retry_initial, 2000 ms",
            ),
            (DeliverySettings { attempts_max: Some(1_001), ..none() }, "attempts_max", "1 to 1000"),
        ];
        for (delivery, field, range) in table {
            let violation = check_delivery(&delivery).unwrap_err();
            assert_eq!(violation.field, format!("sink.delivery.{field}"));
            assert!(violation.problem.contains(range), "{violation:?}");
        }
    }
}

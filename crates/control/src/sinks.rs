//! Sinks: destinations of an account and how events get there.

use std::sync::Arc;

use fanfare_catalog::{ChangeError, ObjectKind, SinkChange, Tenant};
use fanfare_model::{KinesisConfig, Secret, Sink, SinkConfig, SinkId, WebhookConfig, WebhookMethod};

use crate::{
    control::{Control, UpdateRounds, parse_id},
    error::{ControlError, FieldViolation},
    list::{ListRequest, Listed},
};

const TIMEOUT_DEFAULT_MS: u32 = 15_000;
const TIMEOUT_MAX_MS: u32 = 30_000;
const BATCH_EVENTS_DEFAULT: u32 = 100;

/// Wanted state of a sink.
#[derive(Clone, Debug)]
pub struct SinkSettings {
    pub description: String,
    /// Required.
    pub kind: Option<SinkKind>,
}

/// Kind of a sink and its settings.
#[derive(Clone, Debug)]
pub enum SinkKind {
    Webhook(WebhookSettings),
    Kinesis(KinesisConfig),
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
        let SinkSettings { description, kind } = settings;
        let mut config = config(kind)?;
        if let SinkConfig::Webhook(webhook) = &mut config
            && webhook.signing_secret.expose().is_empty()
        {
            webhook.signing_secret = self.sinks.signing_secret();
        }
        self.sinks.check(&config)?;
        Ok(self.catalog.create_sink(tenant, &description, config).await?)
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

    /// Changes a sink to what `change` makes of the stored one, secrets included; its kind stays. `expected_revision` is
    /// the revision that was read; with none, the change is merged into the newest.
    ///
    /// # Errors
    /// If a field is wrong, there is no such sink, it could never deliver, or the catalog refuses the change.
    pub async fn update_sink(
        &self,
        tenant: Tenant,
        id: &str,
        expected_revision: Option<u64>,
        change: impl Fn(&Sink) -> SinkSettings + Send,
    ) -> Result<Arc<Sink>, ControlError> {
        let id = parse_id::<SinkId>("sink.id", id)?;
        let mut rounds = UpdateRounds::new(expected_revision);
        loop {
            let stored = self.account(tenant)?.sinks.get(&id).cloned().ok_or_else(|| unknown(id))?;
            let SinkSettings { description, kind } = change(&stored);
            let config = config(kind)?;
            self.sinks.check(&config)?;
            let expected_revision = Some(rounds.expected(stored.revision));
            let change = SinkChange { description, config, expected_revision };
            match self.catalog.update_sink(tenant, id, change).await {
                Err(error) if rounds.goes_on_after(&error) => {}
                answer => return Ok(answer?),
            }
        }
    }

    /// # Errors
    /// If there is no such sink, a subscription uses it, or the catalog refuses the change.
    pub async fn delete_sink(&self, tenant: Tenant, id: &str) -> Result<(), ControlError> {
        let id = parse_id("id", id)?;
        Ok(self.catalog.delete_sink(tenant, id).await?)
    }
}

fn unknown(id: SinkId) -> ChangeError {
    ChangeError::NotFound { kind: ObjectKind::Sink, name: id.to_string() }
}

fn config(kind: Option<SinkKind>) -> Result<SinkConfig, FieldViolation> {
    match kind {
        Some(SinkKind::Webhook(webhook)) => Ok(SinkConfig::Webhook(webhook_config(webhook)?)),
        Some(SinkKind::Kinesis(kinesis)) => Ok(SinkConfig::Kinesis(kinesis)),
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
        twilio_auth_token: webhook.twilio_auth_token,
    })
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
}

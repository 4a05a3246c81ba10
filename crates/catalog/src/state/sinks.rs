//! Sinks: the kind never changes, and an update holds the whole configuration, with its secrets.
//!
//! The crate `sinks` decides which addresses may be delivered to; the catalog only keeps a configuration from being
//! empty or huge.

use std::sync::Arc;

use fanfare_model::{AccountId, Secret, Sink, SinkConfig, SinkId};

use super::{Draft, Object, check_limit, check_revision};
use crate::{AccountView, ChangeError, NewSink, ObjectKind, names};

const KIND: ObjectKind = ObjectKind::Sink;
const ADDRESS_BYTES_MAX: usize = 2048;
const SECRET_BYTES_MAX: usize = 512;

impl Draft<'_> {
    pub(super) fn create_sink(
        &mut self,
        account: AccountId,
        id: SinkId,
        spec: NewSink,
    ) -> Result<Object, ChangeError> {
        let view = self.account(account)?;
        check(&spec)?;
        if view.sinks.contains_key(&id) {
            return Err(ChangeError::Exists { kind: KIND, name: id.to_string() });
        }
        check_limit(KIND, view.sinks.len(), self.view.cluster.limits.sinks_max)?;
        let (created, revision) = (self.now, self.revision());
        let NewSink { description, config, delivery } = spec;
        let sink = Sink { id, account, description, config, delivery, created, updated: created, revision };
        self.put_sink(sink)
    }

    pub(super) fn update_sink(
        &mut self,
        account: AccountId,
        id: SinkId,
        spec: NewSink,
        expected_revision: Option<u64>,
    ) -> Result<Object, ChangeError> {
        let old = find(self.account(account)?, id)?;
        check_revision(KIND, &id.to_string(), expected_revision, old.revision)?;
        if old.config.kind() != spec.config.kind() {
            let problem = format!("is a {} and stays one: create another sink instead", old.config.kind());
            return Err(ChangeError::invalid("sink.kind", problem));
        }
        check(&spec)?;
        let (created, updated, revision) = (old.created, self.now, self.revision());
        let NewSink { description, config, delivery } = spec;
        self.put_sink(Sink { id, account, description, config, delivery, created, updated, revision })
    }

    pub(super) fn delete_sink(&mut self, account: AccountId, id: SinkId) -> Result<Object, ChangeError> {
        let view = self.account(account)?;
        check_revision(KIND, &id.to_string(), self.expected_revision, find(view, id)?.revision)?;
        if let Some(user) = view.subscriptions.values().find(|user| user.sink == id) {
            let by = format!("subscription {}", user.id);
            return Err(ChangeError::InUse { kind: KIND, name: id.to_string(), by });
        }
        self.edit(account)?.sinks.remove(&id);
        Ok(Object::Nothing)
    }

    fn put_sink(&mut self, sink: Sink) -> Result<Object, ChangeError> {
        let sink = Arc::new(sink);
        self.edit(sink.account)?.sinks.insert(sink.id, sink.clone());
        Ok(Object::Sink(sink))
    }
}

fn find(view: &AccountView, id: SinkId) -> Result<&Sink, ChangeError> {
    let found = view.sinks.get(&id).map(AsRef::as_ref);
    found.ok_or_else(|| ChangeError::NotFound { kind: KIND, name: id.to_string() })
}

fn check(spec: &NewSink) -> Result<(), ChangeError> {
    names::check_description("sink.description", &spec.description)?;
    match &spec.config {
        SinkConfig::Webhook(webhook) => {
            check_address("sink.webhook.destination", &webhook.destination)?;
            check_secret("sink.webhook.signing_secret", &webhook.signing_secret)?;
            if let Some(previous) = &webhook.previous_secret {
                check_secret("sink.webhook.signing_secret", &previous.secret)?;
            }
            match &webhook.twilio_auth_token {
                Some(token) => check_secret("sink.webhook.twilio_auth_token", token),
                None => Ok(()),
            }
        }
        SinkConfig::Kinesis(kinesis) => {
            check_address("sink.kinesis.arn", &kinesis.arn)?;
            let options = [
                ("sink.kinesis.role_arn", &kinesis.role_arn),
                ("sink.kinesis.external_id", &kinesis.external_id),
                ("sink.kinesis.endpoint_override", &kinesis.endpoint_override),
            ];
            options.iter().try_for_each(|(field, text)| match text {
                Some(text) => check_address(field, text),
                None => Ok(()),
            })
        }
    }
}

fn check_address(field: &str, text: &str) -> Result<(), ChangeError> {
    if text.is_empty() {
        return Err(ChangeError::invalid(field, "is empty"));
    }
    names::check_bytes(field, text, ADDRESS_BYTES_MAX)
}

/// The problem never shows the secret.
fn check_secret(field: &str, secret: &Secret) -> Result<(), ChangeError> {
    if secret.expose().is_empty() {
        return Err(ChangeError::invalid(field, "is empty"));
    }
    names::check_bytes(field, secret.expose(), SECRET_BYTES_MAX)
}

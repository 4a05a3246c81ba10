//! CloudEvents as JSON over HTTP/1.1, signed.
//!
//! One request per attempt, and a second one where a connection kept alive was lost without an answer. Redirects are never followed, proxies of the environment are not used, and nothing of
//! an answer is kept but its status, `Retry-After` and a short printable excerpt.

mod answer;
mod pool;
mod signature;
mod template;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fanfare_environment::Clock;
use fanfare_model::{Event, WebhookConfig};
use http::Uri;
use tokio::time::Instant;

pub(crate) use self::signature::random_secret;
use self::{answer::BodyEnd, pool::Pool, template::RequestTemplate};
use crate::{
    Abilities, AttemptFuture, ConfigError, Delivery, EgressPolicy, Outcome, Sink,
    cloudevent::{OVERHEAD_BYTES, write_json},
    egress::Connector,
};

const BATCH_BYTES_MAX: usize = 1 << 20;
const EVENT_BYTES_MAX: usize = 4 << 20;

/// One destination and its connections.
pub(crate) struct Webhook {
    template: RequestTemplate,
    pool: Pool,
    timeout: Duration,
    /// None if each event is a request of its own.
    batch_events_max: Option<usize>,
    clock: Arc<dyn Clock>,
}

impl Webhook {
    pub(crate) fn check(config: &WebhookConfig, policy: &EgressPolicy) -> Result<(), ConfigError> {
        RequestTemplate::new(config, policy).map(drop)
    }

    pub(crate) fn new(
        config: &WebhookConfig,
        policy: &EgressPolicy,
        clock: Arc<dyn Clock>,
        connect: impl FnOnce(&Uri) -> Connector,
    ) -> Result<Self, ConfigError> {
        let template = RequestTemplate::new(config, policy)?;
        let connector = connect(template.origin());
        Ok(Self {
            pool: Pool::new(connector, template.origin().clone()),
            template,
            timeout: Duration::from_millis(config.timeout_ms.into()),
            batch_events_max: config.batch_events.then_some(config.batch_events_max as usize),
            clock,
        })
    }

    async fn attempt_one(&self, delivery: &Delivery) -> Outcome {
        let mut body = Vec::with_capacity(delivery.bytes.len() + OVERHEAD_BYTES);
        match write_json(&mut body, delivery) {
            Ok(event) => {
                let id = signature::message_id(event.source, event.id);
                self.request(&id, body).await
            }
            Err(error) => Outcome::Rejected { why: error.into() },
        }
    }

    /// An event that cannot be encoded is rejected alone; the others share the outcome of their request.
    async fn attempt_batch(&self, deliveries: &[Delivery]) -> Vec<Outcome> {
        let stored_bytes: usize =
            deliveries.iter().map(|delivery| delivery.bytes.len() + OVERHEAD_BYTES).sum();
        let mut body = Vec::with_capacity(stored_bytes);
        let mut identities = Vec::with_capacity(deliveries.len());
        let mut rejections = Vec::new();
        for (index, delivery) in deliveries.iter().enumerate() {
            let start = body.len();
            body.push(if start == 0 { b'[' } else { b',' });
            match write_json(&mut body, delivery) {
                Ok(Event { source, id, .. }) => identities.push((source, id)),
                Err(error) => {
                    body.truncate(start);
                    rejections.push((index, Outcome::Rejected { why: error.into() }));
                }
            }
        }
        if identities.is_empty() {
            return rejections.into_iter().map(|(_, outcome)| outcome).collect();
        }
        body.push(b']');
        let outcome = self.request(&signature::batch_id(&identities), body).await;
        let mut outcomes = vec![outcome; deliveries.len()];
        for (index, rejection) in rejections {
            outcomes[index] = rejection;
        }
        outcomes
    }

    async fn request(&self, message_id: &str, body: Vec<u8>) -> Outcome {
        let permit = match self.pool.permit().await {
            Ok(permit) => permit,
            Err(error) => return error.into(),
        };
        let deadline = Instant::now() + self.timeout;
        let body = Bytes::from(body);
        let request = || self.template.request(message_id, body.clone(), self.unix_seconds());
        match self.pool.send(request, permit, deadline).await {
            Ok((response, connection)) => {
                let (outcome, body) = answer::read(response, deadline, self.unix_seconds()).await;
                if body == BodyEnd::Reached {
                    self.pool.put_back(connection);
                }
                outcome
            }
            Err(error) => error.into(),
        }
    }

    fn unix_seconds(&self) -> i64 {
        i64::try_from(self.clock.unix_ms() / 1_000).unwrap_or(i64::MAX)
    }
}

impl Sink for Webhook {
    fn abilities(&self) -> Abilities {
        Abilities {
            batch_events_max: self.batch_events_max.unwrap_or(1),
            batch_bytes_max: BATCH_BYTES_MAX,
            event_bytes_max: EVENT_BYTES_MAX,
            keeps_key_order_in_batch: true,
            atomic_batch: true,
        }
    }

    fn attempt(&self, events: Vec<Delivery>) -> AttemptFuture<'_> {
        Box::pin(async move {
            if self.batch_events_max.is_some() {
                return self.attempt_batch(&events).await;
            }
            let mut outcomes = Vec::with_capacity(events.len());
            for delivery in &events {
                outcomes.push(self.attempt_one(delivery).await);
            }
            outcomes
        })
    }
}

#[cfg(test)]
mod tests;

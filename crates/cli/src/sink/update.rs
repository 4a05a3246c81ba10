//! `fanfare sink update`: changes the settings that are given, and keeps the others.

use clap::Args;
use fanfare_proto::v1::{self, sink::Kind};
use prost_types::FieldMask;

use super::{DeliveryArguments, Method, delivery_settings};
use crate::{failure::Failure, session::Session, terminal::say};

/// An empty text clears a setting that may be absent.
#[derive(Args, Debug, Default)]
#[group(skip)]
pub struct SinkChangeArguments {
    /// Webhook: https URL
    #[arg(long)]
    url: Option<String>,
    /// Webhook: send an array of events per request
    #[arg(long, value_name = "true|false")]
    batch: Option<bool>,
    /// Webhook: most events in one request
    #[arg(long, value_name = "COUNT")]
    batch_events_max: Option<u32>,
    /// Webhook: method of the requests
    #[arg(long, value_enum)]
    method: Option<Method>,
    /// Webhook: time for a whole request
    #[arg(long, value_name = "MILLISECONDS")]
    timeout_ms: Option<u32>,
    #[command(flatten)]
    secrets: SecretChangeArguments,
    #[command(flatten)]
    kinesis: KinesisChangeArguments,
    #[command(flatten)]
    delivery: DeliveryArguments,
    /// Text for people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

#[derive(Args, Debug, Default)]
#[group(skip)]
pub(super) struct SecretChangeArguments {
    /// Webhook: another Standard Webhooks secret, whsec_ and base64
    #[arg(long, value_name = "SECRET")]
    signing_secret: Option<String>,
    /// Webhook: sign as Twilio does with this token, or no longer if it is empty
    #[arg(long, value_name = "TOKEN")]
    twilio_auth_token: Option<String>,
}

#[derive(Args, Debug, Default)]
#[group(skip)]
pub(super) struct KinesisChangeArguments {
    /// Kinesis: the stream's ARN
    #[arg(long)]
    arn: Option<String>,
    /// Kinesis: role to assume
    #[arg(long, value_name = "ARN")]
    role_arn: Option<String>,
    /// Kinesis: given when the role is assumed
    #[arg(long, value_name = "TEXT")]
    external_id: Option<String>,
    /// Kinesis: endpoint instead of AWS's
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Kinesis: time for a whole request
    #[arg(long, value_name = "MILLISECONDS")]
    kinesis_timeout_ms: Option<u32>,
}

pub(super) async fn run(
    id: String,
    arguments: SinkChangeArguments,
    session: &Session,
) -> Result<(), Failure> {
    let attempted = format!("update sink {id}");
    let request = request(id, arguments)?;
    let updated = session
        .call(&attempted, async |client| client.sinks().update_sink(client.request(request)).await)
        .await?;
    session.output.record(&updated.sink.ok_or_else(|| Failure::incomplete(&attempted))?)?;
    say("deliveries go on with it at once; what is pending is kept");
    Ok(())
}

/// The paths of the fields that are given.
#[derive(Default)]
struct ChangedPaths(Vec<String>);

impl ChangedPaths {
    /// Gives `value`, and names its path; the default of one that is not given.
    fn take<T: Default>(&mut self, path: &str, value: Option<T>) -> T {
        if value.is_some() {
            self.0.push(path.to_owned());
        }
        value.unwrap_or_default()
    }
}

fn request(id: String, arguments: SinkChangeArguments) -> Result<v1::UpdateSinkRequest, Failure> {
    let mut paths = ChangedPaths::default();
    let method = arguments.method.map(|method| method.name().to_owned());
    let webhook = v1::WebhookSink {
        destination: paths.take("webhook.destination", arguments.url),
        method: paths.take("webhook.method", method),
        batch_events: paths.take("webhook.batch_events", arguments.batch),
        batch_events_max: paths.take("webhook.batch_events_max", arguments.batch_events_max),
        timeout_ms: paths.take("webhook.timeout_ms", arguments.timeout_ms),
        signing_secret: paths.take("webhook.signing_secret", arguments.secrets.signing_secret),
        twilio_auth_token: Some(paths.take("webhook.twilio_auth_token", arguments.secrets.twilio_auth_token)),
        previous_secret_expire_time: None,
    };
    let of_webhook = !paths.0.is_empty();
    let given = arguments.kinesis;
    let kinesis = v1::KinesisSink {
        arn: paths.take("kinesis.arn", given.arn),
        role_arn: paths.take("kinesis.role_arn", given.role_arn),
        external_id: Some(paths.take("kinesis.external_id", given.external_id)),
        endpoint_override: paths.take("kinesis.endpoint_override", given.endpoint),
        timeout_ms: paths.take("kinesis.timeout_ms", given.kinesis_timeout_ms),
    };
    let of_kinesis = paths.0.iter().any(|path| path.starts_with("kinesis."));
    let kind = match (of_webhook, of_kinesis) {
        (true, true) => {
            return Err(Failure::usage(
                "a sink is a webhook or a Kinesis stream, and settings of both are given",
                "see its kind with `fanfare sink get`; a kind cannot be changed",
            ));
        }
        (true, false) => Some(Kind::Webhook(webhook)),
        (false, true) => Some(Kind::Kinesis(kinesis)),
        (false, false) => None,
    };
    let description = paths.take("description", arguments.description);
    let given = arguments.delivery;
    let delivery = delivery_settings(given);
    paths.take("delivery.concurrency_max", given.concurrency_max);
    paths.take("delivery.requests_per_second_max", given.requests_per_second_max);
    paths.take("delivery.retry_initial", given.retry_initial_ms);
    paths.take("delivery.retry_max", given.retry_max_ms);
    paths.take("delivery.attempts_max", given.attempts_max);
    if paths.0.is_empty() {
        return Err(Failure::usage(
            "nothing to change is given",
            "give a setting, such as --url; see --help",
        ));
    }
    let sink = v1::Sink { id, description, kind, delivery: Some(delivery), ..v1::Sink::default() };
    Ok(v1::UpdateSinkRequest { sink: Some(sink), update_mask: Some(FieldMask { paths: paths.0 }) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(arguments: SinkChangeArguments) -> Vec<String> {
        request("DG1".to_owned(), arguments).unwrap().update_mask.unwrap().paths
    }

    #[test]
    fn only_what_is_given_is_changed() {
        let url = SinkChangeArguments { url: Some("https://new.test/".to_owned()), ..Default::default() };
        assert_eq!(paths(url), ["webhook.destination"]);
        let secrets = SecretChangeArguments { twilio_auth_token: Some(String::new()), ..Default::default() };
        let cleared = SinkChangeArguments {
            secrets,
            batch: Some(false),
            description: Some(String::new()),
            ..Default::default()
        };
        assert_eq!(paths(cleared), ["webhook.batch_events", "webhook.twilio_auth_token", "description"]);
        let kinesis = || KinesisChangeArguments { role_arn: Some("arn".to_owned()), ..Default::default() };
        let role = SinkChangeArguments { kinesis: kinesis(), ..Default::default() };
        assert_eq!(paths(role), ["kinesis.role_arn"]);
        let both = SinkChangeArguments { kinesis: kinesis(), batch: Some(true), ..Default::default() };
        assert!(request("DG1".to_owned(), both).is_err());
        let delivery =
            DeliveryArguments { concurrency_max: Some(0), retry_max_ms: Some(1_500), ..Default::default() };
        let pace = SinkChangeArguments { delivery, ..Default::default() };
        assert_eq!(
            paths(pace),
            ["delivery.concurrency_max", "delivery.retry_max"],
            "0 leaves it to the node"
        );
        assert!(request("DG1".to_owned(), SinkChangeArguments::default()).is_err());
    }
}

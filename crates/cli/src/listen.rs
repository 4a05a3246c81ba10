//! `fanfare listen`: new events on the terminal, or forwarded to a server under development.
//!
//! Forwarding signs with a secret that stays the same for this context, so that the receiver is configured
//! once. It is an aid for developing: an event is tried once, and nothing is remembered.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Args;
use fanfare_client::CloudEventJson;
use fanfare_proto::v1::{self, read_events_request::From};
use http::{Method, Request, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use jiff::Timestamp;
use url::Url;

use crate::{
    context,
    event::json_line,
    failure::{Exit, Failure},
    output::{Output, OutputFields},
    session::Session,
    signature::{Secret, message_id},
    terminal::say,
};

const FORWARD_TIMEOUT: Duration = Duration::from_secs(30);
const RESPONSE_BYTES_MAX: usize = 64 << 10;
const SECRET_FILE: &str = "webhook-secret";

#[derive(Args, Debug)]
pub struct ListenArguments {
    /// Only this event type; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// POST each event, signed, to this http URL
    #[arg(long, value_name = "URL", value_parser = forward_target)]
    forward_to: Option<Url>,
}

pub(crate) async fn run(arguments: ListenArguments, session: &Session) -> Result<(), Failure> {
    let forwarder = match arguments.forward_to {
        Some(target) => Some(Forwarder::new(target, stable_secret(session.connection.directory.as_deref())?)),
        None => None,
    };
    let client = session.connect().await?;
    let request = v1::ReadEventsRequest {
        from: Some(From::Latest(true)),
        follow: true,
        types: arguments.types.clone(),
        ..v1::ReadEventsRequest::default()
    };
    let failed = |status| Failure::from_status("listen for events", &status);
    let mut stream = client.read_events(request).await.map_err(failed)?;
    greet(&arguments.types, forwarder.as_ref());
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let response = tokio::select! {
            biased;
            _ = &mut interrupted => return Ok(()),
            response = stream.message() => response.map_err(failed)?,
        };
        let Some(response) = response else {
            return Err(Failure::new(
                Exit::Unavailable,
                "the node ended the stream",
                "start listening again",
            ));
        };
        for stored in &response.events {
            tokio::select! {
                biased;
                _ = &mut interrupted => return Ok(()),
                shown = show(stored, forwarder.as_ref(), session.output) => shown?,
            }
        }
    }
}

fn greet(types: &[String], forwarder: Option<&Forwarder>) {
    let of = if types.is_empty() { "every type".to_owned() } else { types.join(", ") };
    if let Some(forwarder) = forwarder {
        say(&format!("forwarding to {}", forwarder.target));
        say(&format!("signing secret {} (stable for this context)", forwarder.secret.expose()));
    }
    say(&format!("waiting for events of {of}; ctrl-c ends"));
}

async fn show(
    stored: &v1::StoredEvent,
    forwarder: Option<&Forwarder>,
    output: Output,
) -> Result<(), Failure> {
    let Some(event) = &stored.event else { return Ok(()) };
    let Some(forwarder) = forwarder else {
        return if output.is_json() {
            output.line(&json_line(stored))
        } else {
            let position = format!("{}@{}", stored.partition, stored.offset);
            output.line(&format!("{}  {position}  {}  {}", clock(), event.r#type, event.id))
        };
    };
    let body = serde_json::to_vec(&CloudEventJson(event)).expect("names are text and nothing else can fail");
    let started = Instant::now();
    let answer = forwarder.forward(&message_id(&event.source, &event.id), body).await;
    let elapsed_ms = (started.elapsed().as_secs_f64() * 10_000.0).round() / 10.0;
    if output.is_json() {
        return output.fields(
            OutputFields::new()
                .with("time", &Timestamp::now().to_string())
                .with("type", &event.r#type)
                .with("id", &event.id)
                .with("status", &answer.as_ref().ok())
                .with("error", &answer.as_ref().err())
                .with("ms", &elapsed_ms),
        );
    }
    let answer = answer.map_or_else(|error| error, |status| status.to_string());
    output.line(&format!("{}  {}  {}  {answer}  {elapsed_ms:.1} ms", clock(), event.r#type, event.id))
}

/// Posts events to one URL.
struct Forwarder {
    http: HttpClient<HttpConnector, Full<Bytes>>,
    target: Url,
    secret: Secret,
}

impl Forwarder {
    fn new(target: Url, secret: Secret) -> Self {
        let http = HttpClient::builder(TokioExecutor::new()).build_http();
        Self { http, target, secret }
    }

    /// The status, or in words why there is none.
    async fn forward(&self, id: &str, body: Vec<u8>) -> Result<u16, String> {
        let unix_seconds = Timestamp::now().as_second();
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.target.as_str())
            .header(CONTENT_TYPE, "application/cloudevents+json; charset=utf-8")
            .header("webhook-id", id)
            .header("webhook-timestamp", unix_seconds)
            .header("webhook-signature", self.secret.sign(id, unix_seconds, &body))
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| "not sent: the event's id cannot be a header".to_owned())?;
        let exchange = async {
            let response = self.http.request(request).await.map_err(|error| refused(&error))?;
            let status = response.status().as_u16();
            // Reading the body lets the connection serve the next event; a long one costs a new connection.
            drop(Limited::new(response.into_body(), RESPONSE_BYTES_MAX).collect().await);
            Ok(status)
        };
        tokio::time::timeout(FORWARD_TIMEOUT, exchange).await.unwrap_or_else(|_| Err("no answer".to_owned()))
    }
}

fn refused(error: &hyper_util::client::legacy::Error) -> String {
    if error.is_connect() {
        "connection refused: is the server running?".to_owned()
    } else {
        error.to_string()
    }
}

fn forward_target(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error| format!("not a URL: {error}"))?;
    if url.scheme() != "http" || url.host_str().is_none() {
        return Err("only plain http is forwarded to, such as http://localhost:3000/hook".to_owned());
    }
    Ok(url)
}

fn clock() -> String {
    Timestamp::now().strftime("%H:%M:%S").to_string()
}

/// The context's secret; made on first use.
fn stable_secret(directory: Option<&Path>) -> Result<Secret, Failure> {
    let Some(directory) = directory else {
        say("no home directory is known: the signing secret is for this run only");
        return Ok(Secret::random());
    };
    let path = directory.join(SECRET_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => Secret::parse(&text).ok_or_else(|| {
            let message = format!("{} does not hold a signing secret", path.display());
            Failure::new(Exit::Failed, message, "remove the file; the next run makes a new secret")
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret = Secret::random();
            let written = context::write_private(&path, format!("{}\n", secret.expose()).as_bytes());
            written.map_err(|error| secret_file_failure("write", &path, &error))?;
            Ok(secret)
        }
        Err(error) => Err(secret_file_failure("read", &path, &error)),
    }
}

fn secret_file_failure(verb: &str, path: &Path, error: &io::Error) -> Failure {
    let message = format!("{verb} signing secret {}: {error}", path.display());
    Failure::new(Exit::Failed, message, "name a writable folder with FANFARE_CONTEXT_FILE")
}

#[cfg(test)]
mod tests;

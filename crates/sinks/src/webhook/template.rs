//! The parts that all requests of one webhook share, checked and prepared once.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use fanfare_model::{Secret, WebhookConfig, WebhookMethod};
use http::{
    HeaderMap, HeaderValue, Method, Request, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT},
};
use http_body_util::Full;
use url::{Position, Url};

use super::signature::{Signer, TwilioSigner};
use crate::{ConfigError, EgressPolicy, egress::parse_url};

const BATCH_EVENTS_MAX: u32 = 1000;
const TIMEOUT_MS_MIN: u32 = 100;
const TIMEOUT_MS_MAX: u32 = 30_000;
const AUTH_TOKEN_BYTES_MAX: usize = 256;
const AGENT: &str = concat!("Fanfare/", env!("CARGO_PKG_VERSION"));

/// Makes signed requests.
pub(super) struct RequestTemplate {
    method: Method,
    origin: Uri,
    /// The requested URL without user info.
    url: String,
    /// Index of the path within `url`.
    path_start: usize,
    target: Uri,
    headers: HeaderMap,
    signer: Signer,
    previous: Option<PreviousSigner>,
    twilio: Option<TwilioSigner>,
}

/// Signer with the secret before the last rotation.
struct PreviousSigner {
    signer: Signer,
    /// First Unix second at which it signs no more.
    expires: i64,
}

impl RequestTemplate {
    pub(super) fn new(config: &WebhookConfig, policy: &EgressPolicy) -> Result<Self, ConfigError> {
        check_ranges(config)?;
        let url = parse_url(&config.destination, policy)
            .map_err(|error| ConfigError { field: "webhook.destination", problem: error.to_string() })?;
        let unsendable = || ConfigError {
            field: "webhook.destination",
            problem: "has characters that HTTP cannot carry; percent-encode them".to_owned(),
        };
        let host = &url[Position::BeforeHost..Position::AfterPort];
        let origin = format!("{}://{host}", url.scheme());
        let target = &url[Position::BeforePath..Position::AfterQuery];
        Ok(Self {
            method: match config.method {
                WebhookMethod::Post => Method::POST,
                WebhookMethod::Put => Method::PUT,
            },
            origin: origin.parse().map_err(|_| unsendable())?,
            target: target.parse().map_err(|_| unsendable())?,
            headers: headers(config, &url).ok_or_else(unsendable)?,
            signer: signer(&config.signing_secret)?,
            previous: previous_signer(config)?,
            twilio: twilio_signer(config)?,
            path_start: origin.len(),
            url: origin + target,
        })
    }

    /// Scheme, host and port to connect to.
    pub(super) fn origin(&self) -> &Uri {
        &self.origin
    }

    /// A signed request. `message_id` is made of visible ASCII characters, `now` is in Unix seconds.
    pub(super) fn request(&self, message_id: &str, body: Bytes, now: i64) -> Request<Full<Bytes>> {
        let timestamp = now.to_string();
        let mut signature = self.signer.sign(message_id, &timestamp, &body);
        if let Some(previous) = self.previous.as_ref().filter(|previous| now < previous.expires) {
            signature.push(' ');
            signature.push_str(&previous.signer.sign(message_id, &timestamp, &body));
        }
        let mut headers = self.headers.clone();
        headers.insert("webhook-id", ascii(message_id));
        headers.insert("webhook-timestamp", ascii(&timestamp));
        headers.insert("webhook-signature", ascii(&signature));
        let mut target = self.target.clone();
        if let Some(twilio) = &self.twilio {
            let url = TwilioSigner::url_with_body_hash(&self.url, &body);
            headers.insert("x-twilio-signature", ascii(&twilio.sign(&url)));
            target =
                url[self.path_start..].parse().expect("a valid target and hex digits are a valid target");
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = target;
        *request.headers_mut() = headers;
        request
    }
}

fn ascii(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("ids, numbers, spaces and base64 are printable ASCII")
}

fn check_ranges(config: &WebhookConfig) -> Result<(), ConfigError> {
    if !(TIMEOUT_MS_MIN..=TIMEOUT_MS_MAX).contains(&config.timeout_ms) {
        return Err(ConfigError {
            field: "webhook.timeout_ms",
            problem: format!("is {}; use {TIMEOUT_MS_MIN} to {TIMEOUT_MS_MAX}", config.timeout_ms),
        });
    }
    if config.batch_events && !(1..=BATCH_EVENTS_MAX).contains(&config.batch_events_max) {
        return Err(ConfigError {
            field: "webhook.batch_events_max",
            problem: format!("is {}; use 1 to {BATCH_EVENTS_MAX}", config.batch_events_max),
        });
    }
    Ok(())
}

fn previous_signer(config: &WebhookConfig) -> Result<Option<PreviousSigner>, ConfigError> {
    let Some(previous) = &config.previous_secret else { return Ok(None) };
    let expires = i64::try_from(previous.expires.0.div_ceil(1000)).unwrap_or(i64::MAX);
    Ok(Some(PreviousSigner { signer: signer(&previous.secret)?, expires }))
}

fn signer(secret: &Secret) -> Result<Signer, ConfigError> {
    Signer::new(secret.expose()).ok_or_else(|| ConfigError {
        field: "webhook.signing_secret",
        problem: "is not whsec_ followed by base64 of 24 to 64 bytes; leave it out to get a generated one"
            .to_owned(),
    })
}

fn twilio_signer(config: &WebhookConfig) -> Result<Option<TwilioSigner>, ConfigError> {
    let Some(auth_token) = &config.twilio_auth_token else { return Ok(None) };
    let auth_token = auth_token.expose();
    if auth_token.is_empty() || auth_token.len() > AUTH_TOKEN_BYTES_MAX {
        return Err(ConfigError {
            field: "webhook.twilio_auth_token",
            problem: format!(
                "is empty or longer than {AUTH_TOKEN_BYTES_MAX} bytes; leave it out or correct it"
            ),
        });
    }
    Ok(TwilioSigner::new(auth_token))
}

/// The headers that never change. None if a part of the URL cannot stand in a header.
///
/// Receivers written for Twilio parse only `application/json`; all others get the media type of CloudEvents.
fn headers(config: &WebhookConfig, url: &Url) -> Option<HeaderMap> {
    let content_type = match (&config.twilio_auth_token, config.batch_events) {
        (Some(_), _) => "application/json",
        (None, false) => "application/cloudevents+json",
        (None, true) => "application/cloudevents-batch+json",
    };
    let mut headers = HeaderMap::with_capacity(12);
    headers.insert(HOST, HeaderValue::from_str(&url[Position::BeforeHost..Position::AfterPort]).ok()?);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    if !url.username().is_empty() || url.password().is_some() {
        let mut user_info = percent_decoded(url.username());
        user_info.push(b':');
        user_info.extend(percent_decoded(url.password().unwrap_or_default()));
        let mut basic = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(user_info))).ok()?;
        basic.set_sensitive(true);
        headers.insert(AUTHORIZATION, basic);
    }
    Some(headers)
}

/// `%41` becomes `A`; a '%' without two hex digits stands for itself.
fn percent_decoded(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if let (b'%', [high, low, after @ ..]) = (first, after)
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            decoded.push(high << 4 | low);
            rest = after;
        } else {
            decoded.push(first);
        }
    }
    decoded
}

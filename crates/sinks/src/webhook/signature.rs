//! Signatures by which a receiver knows the sender of a request: Standard Webhooks
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>) and Twilio's
//! `X-Twilio-Signature`.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use fanfare_environment::Random;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

const SECRET_PREFIX: &str = "whsec_";
const SECRET_BYTES_MIN: usize = 24;
const SECRET_BYTES_MAX: usize = 64;

/// Signs as Standard Webhooks `v1`: HMAC-SHA256 of `id.timestamp.body`.
#[derive(Clone)]
pub(super) struct Signer(Hmac<Sha256>);

impl Signer {
    /// None if `secret` is not `whsec_` and base64 of 24 to 64 bytes.
    pub(super) fn new(secret: &str) -> Option<Self> {
        let key = STANDARD.decode(secret.strip_prefix(SECRET_PREFIX)?).ok()?;
        if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&key.len()) {
            return None;
        }
        Hmac::new_from_slice(&key).ok().map(Self)
    }

    /// The value of `webhook-signature`. `message_id` has no '.', else two messages could share a signature.
    pub(super) fn sign(&self, message_id: &str, timestamp: &str, body: &[u8]) -> String {
        let mut mac = self.0.clone();
        for part in [message_id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        let mut value = String::with_capacity(48);
        value.push_str("v1,");
        STANDARD.encode_string(mac.finalize().into_bytes(), &mut value);
        value
    }
}

/// A fresh secret for [`Signer::new`].
pub(crate) fn random_secret(random: &dyn Random) -> String {
    let mut key = [0; SECRET_BYTES_MIN];
    random.fill(&mut key);
    format!("{SECRET_PREFIX}{}", STANDARD.encode(key))
}

/// Signs as Twilio does: HMAC-SHA1 of the URL, which carries the body's SHA-256.
#[derive(Clone)]
pub(super) struct TwilioSigner(Hmac<Sha1>);

impl TwilioSigner {
    pub(super) fn new(auth_token: &str) -> Option<Self> {
        Hmac::new_from_slice(auth_token.as_bytes()).ok().map(Self)
    }

    /// The value of `X-Twilio-Signature` for a request of `url`.
    pub(super) fn sign(&self, url: &str) -> String {
        let mut mac = self.0.clone();
        mac.update(url.as_bytes());
        STANDARD.encode(mac.finalize().into_bytes())
    }

    /// `url` with the hash of `body` appended to its query.
    pub(super) fn url_with_body_hash(url: &str, body: &[u8]) -> String {
        let mut extended = String::with_capacity(url.len() + 80);
        extended.push_str(url);
        extended.push(if url.contains('?') { '&' } else { '?' });
        extended.push_str("bodySHA256=");
        push_hex(&mut extended, &Sha256::digest(body));
        extended
    }
}

/// The `webhook-id` of one event: `evt_` and 32 hex digits of a hash over source and id, the same for every attempt.
///
/// An event's identity is both: two sources may use one id, and a receiver must not take the second event for a repeat.
pub(super) fn message_id(source: &str, id: &str) -> String {
    fingerprint("evt_", &[(source, id)])
}

/// The `webhook-id` of a batch: the same for the same events in the same order.
pub(super) fn batch_id(identities: &[(&str, &str)]) -> String {
    fingerprint("batch_", identities)
}

fn fingerprint(prefix: &str, identities: &[(&str, &str)]) -> String {
    let mut hash = Sha256::new();
    for (source, id) in identities {
        for part in [source, id] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    let mut text = prefix.to_owned();
    push_hex(&mut text, &hash.finalize()[..16]);
    text
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use fanfare_environment::Environment;

    use super::*;

    #[test]
    fn twilio_signature_matches_the_published_vector() {
        let body = concat!(
            r#"[{"specversion":"1.0","type":"com.twilio.eventstreams.test-event","source":"Sink","#,
            r#""id":"AC11111111111111111111111111111111","#,
            r#""dataschema":"https://events-schemas.twilio.com/EventStreams.TestSink/1.json","#,
            r#""datacontenttype":"application/json","time":"2026-06-10T06:02:54.377Z","#,
            r#""data":{"test_id":"cae2f9e2-c277-4612-8ad3-93c1a7a3ef88"}}]"#,
        );
        let url = TwilioSigner::url_with_body_hash("https://example.com/webhook", body.as_bytes());
        let hash = "f4dc494f1e604a19df36cdd069f7956b1f261dc954ae1c698ed8b4939fd9ab54";
        assert_eq!(url, format!("https://example.com/webhook?bodySHA256={hash}"));
        let signer = TwilioSigner::new("0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(signer.sign(&url), "OHWTo+rSHF7gSYRqpEj+gEVidcA=");
        let with_query = TwilioSigner::url_with_body_hash("https://example.com/?a=1", b"");
        assert!(with_query.starts_with("https://example.com/?a=1&bodySHA256=e3b0c442"));
    }

    #[test]
    fn random_secrets_differ_and_have_the_standard_form() {
        let environment = Environment::system();
        let random = environment.random().as_ref();
        let secret = random_secret(random);
        assert!(Signer::new(&secret).is_some(), "{secret}");
        assert_ne!(secret, random_secret(random));
        let bare = secret.strip_prefix("whsec_").unwrap();
        let short = format!("whsec_{}", STANDARD.encode([1; 23]));
        let long = format!("whsec_{}", STANDARD.encode([1; 65]));
        for bad in ["", "whsec_", "whsec_!!!", bare, &short, &long] {
            assert!(Signer::new(bad).is_none(), "{bad} was accepted");
        }
    }

    #[test]
    fn message_id_stands_for_source_and_id() {
        let known = message_id("/a", "EZf40f22");
        assert_eq!(known, "evt_c51f49fb60dafd7af4c2268e769bddb3");
        for (source, id) in [("/b", "EZf40f22"), ("/a", "EZf40f23"), ("/aE", "Zf40f22"), ("", "/aEZf40f22")] {
            assert_ne!(message_id(source, id), known, "{source} {id}");
        }
        for id in ["a.b", "a b", "a\r\nb", "ü", "", &"x".repeat(129)] {
            let message_id = message_id("/a", id);
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            assert!(message_id.len() == 36 && message_id.bytes().all(plain), "{id:?}");
        }
    }

    #[test]
    fn different_batches_have_different_ids() {
        let id = batch_id(&[("/a", "1"), ("/a", "2")]);
        assert_eq!(id, batch_id(&[("/a", "1"), ("/a", "2")]));
        for other in
            [batch_id(&[("/a", "12")]), batch_id(&[("/a", "2"), ("/a", "1")]), batch_id(&[("/a1", "")])]
        {
            assert_ne!(id, other);
        }
    }
}

//! Standard Webhooks signatures (<https://www.standardwebhooks.com>): HMAC-SHA256 over id, time and body.

use std::fmt::Write;

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use rand::Rng;
use sha2::{Digest, Sha256};

const PREFIX: &str = "whsec_";
const KEY_BYTES: usize = 24;

/// A signing secret: `whsec_` and the key in base64.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret {
    key: Vec<u8>,
}

impl Secret {
    pub(crate) fn random() -> Self {
        let mut key = vec![0; KEY_BYTES];
        rand::rng().fill_bytes(&mut key);
        Self { key }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let key = BASE64_STANDARD.decode(text.trim().strip_prefix(PREFIX)?).ok()?;
        (key.len() >= KEY_BYTES).then_some(Self { key })
    }

    /// The text a receiver verifies with.
    pub(crate) fn expose(&self) -> String {
        format!("{PREFIX}{}", BASE64_STANDARD.encode(&self.key))
    }

    /// Value of the header `webhook-signature`.
    pub(crate) fn sign(&self, id: &str, unix_seconds: i64, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{unix_seconds}.").as_bytes());
        mac.update(body);
        format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// Value of the header `webhook-id` for an event, the same that a webhook sink sends: `evt_` and 32 hex digits of a hash
/// over source and id.
pub(crate) fn message_id(source: &str, id: &str) -> String {
    let mut hash = Sha256::new();
    for part in [source, id] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digits = hash.finalize()[..16].iter().fold(String::with_capacity(32), |mut digits, byte| {
        write!(digits, "{byte:02x}").expect("writing to a string cannot fail");
        digits
    });
    format!("evt_{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_the_specifications_example() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature =
            secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn the_message_id_is_that_of_a_webhook_sink() {
        assert_eq!(message_id("/a", "EZf40f22"), "evt_c51f49fb60dafd7af4c2268e769bddb3");
    }

    #[test]
    fn a_secret_survives_text_and_nothing_else_is_one() {
        let secret = Secret::random();
        assert!(Secret::parse(&format!("{}\n", secret.expose())) == Some(secret.clone()));
        assert!(secret != Secret::random());
        for bad in ["", "whsec_", "whsec_AAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "whsec_%%%%"] {
            assert!(Secret::parse(bad).is_none(), "{bad} was taken");
        }
    }
}

//! String identifiers: two letters that say the kind, then 32 lower-case hex digits, as Twilio's SIDs.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text is not an identifier of its kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a {kind}: expected {prefix} and 32 lower-case hex digits")]
pub struct SidError {
    pub kind: &'static str,
    pub prefix: &'static str,
    /// The first 64 characters of the text.
    pub text: String,
}

macro_rules! sid {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            pub const PREFIX: &'static str = $prefix;

            /// The identifier of these 128 bits; a fresh one takes random bits.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = SidError;

            fn from_str(text: &str) -> Result<Self, SidError> {
                parse_hex($prefix, text).map(Self).ok_or_else(|| SidError {
                    kind: $kind,
                    prefix: $prefix,
                    text: text.chars().take(64).collect(),
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

sid!(
    /// A tenant.
    AccountId, "AC", "account id"
);
sid!(
    /// A destination of events.
    SinkId, "DG", "sink id"
);
sid!(
    /// A choice of event types for one sink.
    SubscriptionId, "DF", "subscription id"
);
sid!(
    /// A redrive or a purge of dead letters.
    RedriveId, "DR", "redrive id"
);
sid!(
    /// An API key's public half.
    KeyId, "SK", "API key id"
);

fn parse_hex(prefix: &str, text: &str) -> Option<[u8; 16]> {
    let digits = text.strip_prefix(prefix)?.as_bytes();
    if digits.len() != 32 {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
    }
    Some(bytes)
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_round_trips_as_text_and_refuses_other_texts() {
        let id = AccountId::from_bytes([0xab; 16]);
        assert_eq!(id.to_string(), format!("AC{}", "ab".repeat(16)));
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in [
            "",
            "AC",
            "DG00000000000000000000000000000000",
            "AC0000000000000000000000000000000",
            "AC0000000000000000000000000000000G",
        ] {
            assert!(bad.parse::<AccountId>().is_err(), "{bad} was taken");
        }
    }
}

//! Sizes and durations as people write them: `64MiB`, `4h`, `50ms`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Reasons why a text is no quantity of the expected unit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{found:?} is not a {quantity}: write a whole number and one of {units}, such as {example}")]
pub(crate) struct UnitError {
    quantity: &'static str,
    units: &'static str,
    example: &'static str,
    found: String,
}

/// A number of bytes. Binary units only, so that `MiB` never means two things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(pub u64);

/// A span of time, in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(pub Duration);

const SIZES: &[(&str, u64)] = &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const SPANS_MS: &[(&str, u64)] =
    &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl ByteSize {
    pub(crate) const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    pub(crate) const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// Saturating; the checks of the tree keep such values far below.
    pub(crate) fn as_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }

    pub(crate) fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Span {
    pub(crate) const fn millis(count: u64) -> Self {
        Self(Duration::from_millis(count))
    }

    pub(crate) const fn seconds(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// In milliseconds.
    pub(crate) fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn format(value: u64, units: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let fits = |factor: u64| value != 0 && value.is_multiple_of(factor);
    let (name, factor) = units.iter().find(|(_, factor)| fits(*factor)).unwrap_or(&units[units.len() - 1]);
    write!(f, "{}{name}", value / factor)
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError {
            quantity: "size",
            units: "B, KiB, MiB, GiB",
            example: "64MiB",
            found: text.to_owned(),
        };
        parse(text, SIZES).map(Self).ok_or_else(error)
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError {
            quantity: "duration",
            units: "ms, s, m, h, d",
            example: "4h",
            found: text.to_owned(),
        };
        parse(text, SPANS_MS).map(Duration::from_millis).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        format(self.0, SIZES, f)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        format(self.as_millis(), SPANS_MS, f)
    }
}

macro_rules! as_text {
    ($name:ident) => {
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

as_text!(ByteSize);
as_text!(Span);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_survive_text_and_name_their_units_when_wrong() {
        for (text, bytes) in
            [("0B", 0), ("1KiB", 1024), ("64MiB", 64 << 20), ("3GiB", 3 << 30), ("1000B", 1000)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)));
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
        for (text, millis) in
            [("50ms", 50), ("15s", 15_000), ("10m", 600_000), ("4h", 14_400_000), ("7d", 604_800_000)]
        {
            assert_eq!(text.parse(), Ok(Span::millis(millis)));
            assert_eq!(Span::millis(millis).to_string(), text);
        }
        for wrong in ["", "64", "64MB", "MiB", "-1MiB", "1.5MiB", "99999999999GiB"] {
            let error = wrong.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.contains("64MiB"), "{error}");
        }
        assert!("4 hours".parse::<Span>().is_err());
    }
}

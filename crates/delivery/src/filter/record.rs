//! The persisted form of a filter: the spec of an attachment, whose bytes the partition keeps and never reads.
//!
//! ```text
//! version u16 = 2
//! | count u32, per event type, strictly ascending: name, pinned u8 (0, or 1 and schema version u32)
//! | count u32, per prefix, strictly ascending: prefix, which ends with '.' or is empty
//! | expression u8 = 0, none
//! ```
//! Fields as in `fanfare-codec`: little-endian, texts behind their length.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fanfare_codec::{Malformed, Reader, Writer};
use fanfare_model::Subscription;

const VERSION: u16 = 2;
const NO_EXPRESSION: u8 = 0;

/// The event types of a filter, each with its pinned schema version, and prefixes of event types.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FilterRecord {
    types: BTreeMap<String, Option<u32>>,
    prefixes: BTreeSet<String>,
}

/// The reason that bytes are no filter that this program can apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterRecordError {
    #[error("the filter has version {0}, this program reads version {VERSION}")]
    Version(u16),
    /// Ignoring the expression would deliver events that the subscription excludes.
    #[error("the filter has an expression, which this program cannot apply")]
    Expression,
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl FilterRecord {
    pub(crate) fn of(subscription: &Subscription) -> Self {
        subscription.types.iter().map(|chosen| (chosen.event_type.clone(), chosen.schema_version)).collect()
    }

    /// Ascending by name.
    pub(crate) fn types(&self) -> impl Iterator<Item = (&str, Option<u32>)> {
        self.types.iter().map(|(event_type, version)| (event_type.as_str(), *version))
    }

    pub(crate) fn prefixes(&self) -> impl Iterator<Item = &str> {
        self.prefixes.iter().map(String::as_str)
    }

    /// Equal filters have equal bytes.
    pub(crate) fn encode(&self) -> Arc<[u8]> {
        let mut writer = Writer::new();
        writer.u16(VERSION).count(self.types.len());
        for (name, version) in &self.types {
            writer.text(name).bool(version.is_some());
            if let Some(version) = version {
                writer.u32(*version);
            }
        }
        writer.count(self.prefixes.len());
        for prefix in &self.prefixes {
            writer.text(prefix);
        }
        writer.u8(NO_EXPRESSION);
        writer.finish().into()
    }

    /// # Errors
    /// If the bytes are malformed, of another version, or carry an expression.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FilterRecordError> {
        let mut reader = Reader::new(bytes, "filter");
        match reader.u16()? {
            VERSION => {}
            version => return Err(FilterRecordError::Version(version)),
        }
        let mut record = Self::default();
        for _ in 0..reader.count(TYPE_BYTES_MIN)? {
            let name = reader.text()?;
            let version = if reader.bool()? { Some(reader.u32()?) } else { None };
            if record.types.last_key_value().is_some_and(|(last, _)| last.as_str() >= name) {
                return Err(Malformed("filter").into());
            }
            record.types.insert(name.to_owned(), version);
        }
        for _ in 0..reader.count(PREFIX_BYTES_MIN)? {
            let prefix = reader.text()?;
            let is_prefix = prefix.is_empty() || prefix.ends_with('.');
            if !is_prefix || record.prefixes.last().is_some_and(|last| last.as_str() >= prefix) {
                return Err(Malformed("filter").into());
            }
            record.prefixes.insert(prefix.to_owned());
        }
        match reader.u8()? {
            NO_EXPRESSION => {}
            _ => return Err(FilterRecordError::Expression),
        }
        reader.finish()?;
        Ok(record)
    }
}

/// Length of the name and the pinned flag.
const TYPE_BYTES_MIN: usize = 4 + 1;
/// Length of the prefix.
const PREFIX_BYTES_MIN: usize = 4;

impl FromIterator<(String, Option<u32>)> for FilterRecord {
    fn from_iter<I: IntoIterator<Item = (String, Option<u32>)>>(types: I) -> Self {
        Self { types: types.into_iter().collect(), prefixes: BTreeSet::new() }
    }
}

#[cfg(test)]
impl FilterRecord {
    pub(crate) fn with_prefixes(self, prefixes: &[&str]) -> Self {
        Self { prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(types: &[(&str, Option<u32>)], prefixes: &[&str]) -> FilterRecord {
        let types = types.iter().map(|(name, version)| ((*name).to_owned(), *version));
        types.collect::<FilterRecord>().with_prefixes(prefixes)
    }

    #[test]
    fn stored_form_is_the_golden_one() {
        let record = record(&[("order", None), ("refund", Some(0x12))], &["", "com.acme."]);
        let golden = b"\x02\x00\
            \x02\x00\x00\x00\x05\x00\x00\x00order\x00\x06\x00\x00\x00refund\x01\x12\x00\x00\x00\
            \x02\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x00com.acme.\x00";
        assert_eq!(*record.encode(), *golden);
        assert_eq!(FilterRecord::decode(golden), Ok(record));
    }

    #[test]
    fn damaged_bytes_never_decode_to_the_same_filter() {
        let record = record(&[("a", Some(1)), ("b", None), ("c", Some(u32::MAX))], &["a.", "b."]);
        let bytes = record.encode();
        for end in 0..bytes.len() {
            let malformed = FilterRecordError::Malformed(Malformed("filter"));
            assert_eq!(FilterRecord::decode(&bytes[..end]), Err(malformed), "cut at {end}");
        }
        assert!(FilterRecord::decode(&[&bytes[..], &[0]].concat()).is_err());
        for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << bit;
            assert_ne!(FilterRecord::decode(&flipped).as_ref(), Ok(&record), "flipped at {at}");
        }
    }

    #[test]
    fn other_versions_and_expressions_are_refused() {
        let mut bytes = record(&[("a", None)], &[]).encode().to_vec();
        *bytes.last_mut().unwrap() = 1;
        assert_eq!(FilterRecord::decode(&bytes), Err(FilterRecordError::Expression));
        assert_eq!(FilterRecord::decode(&[1, 0]), Err(FilterRecordError::Version(1)));
        assert_eq!(FilterRecord::decode(&[3, 0]), Err(FilterRecordError::Version(3)));
    }

    #[test]
    fn prefix_without_a_final_dot_is_refused() {
        let bytes = record(&[], &["com.acme"]).encode();
        assert!(FilterRecord::decode(&bytes).is_err());
    }
}

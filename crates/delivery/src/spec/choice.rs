//! Event types and pinned versions as bytes: the spec of an attachment, which the partition keeps and never reads.
//!
//! ```text
//! version u16 | count u16 | per type, strictly ascending: size u16, name, pinned u8 (0, or 1 and version u32)
//! ```
//! Little-endian.

use std::{collections::BTreeMap, sync::Arc};

use fanfare_model::Subscription;

const VERSION: u16 = 1;

/// Chosen event types, each with the schema version it is pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    types: BTreeMap<String, Option<u32>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChoiceError {
    #[error("a choice of version {0} is newer than this program")]
    Version(u16),
    #[error("it is not a choice of event types")]
    Malformed,
}

impl Choice {
    pub(crate) fn of(subscription: &Subscription) -> Self {
        subscription.types.iter().map(|chosen| (chosen.event_type.clone(), chosen.schema_version)).collect()
    }

    pub(crate) fn types(&self) -> impl Iterator<Item = (&str, Option<u32>)> {
        self.types.iter().map(|(event_type, version)| (event_type.as_str(), *version))
    }

    /// Equal choices have equal bytes.
    pub(crate) fn encode(&self) -> Arc<[u8]> {
        let size = |length: usize| {
            u16::try_from(length).expect("the catalog limits names and their number far below").to_le_bytes()
        };
        let mut bytes = VERSION.to_le_bytes().to_vec();
        bytes.extend(size(self.types.len()));
        for (name, version) in &self.types {
            bytes.extend(size(name.len()));
            bytes.extend(name.as_bytes());
            bytes.push(u8::from(version.is_some()));
            bytes.extend(version.iter().flat_map(|version| version.to_le_bytes()));
        }
        bytes.into()
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Self, ChoiceError> {
        match number(&mut bytes)? {
            VERSION => {}
            version => return Err(ChoiceError::Version(version)),
        }
        let mut types = BTreeMap::new();
        for _ in 0..number(&mut bytes)? {
            let size = usize::from(number(&mut bytes)?);
            let (name, rest) = bytes.split_at_checked(size).ok_or(ChoiceError::Malformed)?;
            bytes = rest;
            let name = std::str::from_utf8(name).map_err(|_| ChoiceError::Malformed)?;
            let version = match take(&mut bytes)? {
                [0] => None,
                [1] => Some(u32::from_le_bytes(take(&mut bytes)?)),
                _ => return Err(ChoiceError::Malformed),
            };
            if types.last_key_value().is_some_and(|(last, _): (&String, _)| last.as_str() >= name) {
                return Err(ChoiceError::Malformed);
            }
            types.insert(name.to_owned(), version);
        }
        if bytes.is_empty() { Ok(Self { types }) } else { Err(ChoiceError::Malformed) }
    }
}

impl FromIterator<(String, Option<u32>)> for Choice {
    fn from_iter<I: IntoIterator<Item = (String, Option<u32>)>>(types: I) -> Self {
        Self { types: types.into_iter().collect() }
    }
}

fn number(bytes: &mut &[u8]) -> Result<u16, ChoiceError> {
    take(bytes).map(u16::from_le_bytes)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], ChoiceError> {
    let (taken, rest) = bytes.split_first_chunk().ok_or(ChoiceError::Malformed)?;
    *bytes = rest;
    Ok(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(types: &[(&str, Option<u32>)]) -> Choice {
        types.iter().map(|(name, version)| ((*name).to_owned(), *version)).collect()
    }

    #[test]
    fn the_format_is_the_golden_one() {
        let choice = choice(&[("order", None), ("refund", Some(0x12))]);
        let golden = b"\x01\x00\x02\x00\x05\x00order\x00\x06\x00refund\x01\x12\x00\x00\x00";
        assert_eq!(*choice.encode(), *golden);
        assert_eq!(Choice::decode(golden), Ok(choice));
    }

    #[test]
    fn damaged_bytes_never_panic_and_never_pass_for_the_same_choice() {
        let choice = choice(&[("a", Some(1)), ("b", None), ("c", Some(u32::MAX))]);
        let bytes = choice.encode();
        for end in 0..bytes.len() {
            assert_eq!(Choice::decode(&bytes[..end]), Err(ChoiceError::Malformed), "cut at {end}");
        }
        assert_eq!(Choice::decode(&[&bytes[..], &[0]].concat()), Err(ChoiceError::Malformed));
        for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << bit;
            assert_ne!(Choice::decode(&flipped).as_ref(), Ok(&choice), "flipped at {at}");
        }
        assert_eq!(Choice::decode(&[2, 0]), Err(ChoiceError::Version(2)));
    }
}

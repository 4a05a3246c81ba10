//! The dead letters that a redrive chooses, and their stored form.
//!
//! ```text
//! version u8 = 1 | count u32, ids u128 | count u32, reasons u8 | from? u64 | before? u64
//! ```

use std::collections::BTreeSet;

use fanfare_codec::{Malformed, Reader, Writer};
use fanfare_model::Timestamp;
use fanfare_partition::{Reason, Redrive};

use crate::DeadLetter;

const VERSION: u8 = 1;

/// Selects dead letters of one subscription: those that fit every part. Empty parts fit all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// The ids' numbers; 1,000 at most.
    pub ids: BTreeSet<u128>,
    pub reasons: BTreeSet<Reason>,
    /// Given up at this time or later.
    pub from: Option<Timestamp>,
    /// Given up earlier.
    pub before: Option<Timestamp>,
}

impl DeadLetterFilter {
    /// Limit of [`Self::ids`].
    pub const IDS_MAX: usize = 1_000;

    /// The filter of a redrive; none if this program cannot read it.
    #[must_use]
    pub fn of(redrive: &Redrive) -> Option<Self> {
        Self::decode(&redrive.start.filter).ok()
    }

    pub(super) fn takes(&self, letter: &DeadLetter) -> bool {
        let has_id = || u128::from_str_radix(&letter.id, 16).is_ok_and(|id| self.ids.contains(&id));
        (self.ids.is_empty() || has_id())
            && (self.reasons.is_empty() || self.reasons.contains(&letter.settled_as))
            && self.from.is_none_or(|from| letter.time >= from)
            && self.before.is_none_or(|before| letter.time < before)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION).count(self.ids.len());
        self.ids.iter().for_each(|id| {
            out.u128(*id);
        });
        out.count(self.reasons.len());
        self.reasons.iter().for_each(|reason| {
            out.u8(*reason as u8);
        });
        for time in [self.from, self.before] {
            out.optional(time, |out, time| {
                out.u64(time.0);
            });
        }
        out.finish()
    }

    /// # Errors
    /// If the bytes are malformed, or name a reason that this program does not know.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let malformed = Malformed("filter of dead letters");
        let mut fields = Reader::new(bytes, malformed.0);
        if fields.u8()? != VERSION {
            return Err(malformed);
        }
        let ids: Vec<u128> = fields.list(16, Reader::u128)?;
        let reasons: Vec<Reason> = fields.list(1, |fields| {
            let number = fields.u8()?;
            Reason::from_number(number).ok_or(malformed)
        })?;
        let from = fields.optional(|fields| fields.u64().map(Timestamp))?;
        let before = fields.optional(|fields| fields.u64().map(Timestamp))?;
        fields.finish()?;
        Ok(Self { ids: ids.into_iter().collect(), reasons: reasons.into_iter().collect(), from, before })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choice_is_read_back_and_cut_bytes_are_refused() {
        let filter = DeadLetterFilter {
            ids: BTreeSet::from([1, u128::MAX]),
            reasons: BTreeSet::from([Reason::Rejected, Reason::Retention]),
            from: Some(Timestamp(5)),
            before: None,
        };
        let bytes = filter.encode();
        assert_eq!(DeadLetterFilter::decode(&bytes), Ok(filter));
        for length in 0..bytes.len() {
            assert!(DeadLetterFilter::decode(&bytes[..length]).is_err(), "{length} bytes");
        }
        let all = DeadLetterFilter::default();
        assert_eq!(DeadLetterFilter::decode(&all.encode()), Ok(all));
    }
}

//! The filters of one subscription, each for the offsets at which it was attached.

use std::{ops::Range, sync::Arc};

use fanfare_catalog::{AccountView, json_schema::SchemaCache};
use fanfare_model::Offset;
use fanfare_partition::Attachment;

use super::{Filter, FilterRecord, FilterRecordError};

/// Maximum of filters that are kept here. The partition keeps fewer; more can gather only for a subscription that has
/// nothing pending and has not read on yet.
const FILTERS_MAX: usize = 64;

/// The filters of an attachment that are still needed, and the revision of the newest.
#[derive(Debug)]
pub(crate) struct AttachedFilters {
    revision: u64,
    /// Ascending; each is in effect from its offset to the next one's. Never empty.
    spans: Vec<(Offset, FilterRecord)>,
}

impl AttachedFilters {
    /// # Errors
    /// If this program cannot apply the attachment's filters.
    pub(crate) fn of(attachment: &Attachment) -> Result<Self, FilterRecordError> {
        let mut spans = Vec::with_capacity(attachment.filters.len());
        for attached in attachment.filters.iter() {
            spans.push((attached.from, FilterRecord::decode(&attached.filter)?));
        }
        Ok(Self { revision: attachment.filter_revision(), spans })
    }

    /// Takes over the attachment's filters. Of those that the partition no longer keeps, the ones in effect at
    /// `oldest_needed` or above stay.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub(crate) fn change(
        &mut self,
        attachment: &Attachment,
        oldest_needed: Offset,
    ) -> Result<(), FilterRecordError> {
        let next = Self::of(attachment)?;
        let first = next.spans[0].0;
        self.spans.retain(|(from, _)| *from < first);
        self.spans.extend(next.spans);
        let passed = self.spans[1..].partition_point(|(from, _)| *from <= oldest_needed);
        self.spans.drain(..passed.max(self.spans.len().saturating_sub(FILTERS_MAX)));
        self.revision = next.revision;
        Ok(())
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }
}

/// [`AttachedFilters`], ready for matching.
#[derive(Debug)]
pub(crate) struct FilterHistory {
    revision: u64,
    /// As in [`AttachedFilters`].
    spans: Vec<(Offset, Filter)>,
}

impl FilterHistory {
    pub(crate) fn new(attached: &AttachedFilters, account: &AccountView, cache: &Arc<SchemaCache>) -> Self {
        let spans = attached.spans.iter().map(|(from, record)| (*from, Filter::new(record, account, cache)));
        Self { revision: attached.revision, spans: spans.collect() }
    }

    /// True if [`Self::new`] would give the same filters.
    pub(crate) fn is_current(&self, attached: &AttachedFilters, account: &AccountView) -> bool {
        self.revision == attached.revision
            && self.spans.len() == attached.spans.len()
            && self.spans.iter().zip(&attached.spans).all(|((own_from, filter), (from, record))| {
                own_from == from && filter.has_pins_of(record, account)
            })
    }

    /// The filter in effect when the event at `offset` was published.
    pub(crate) fn at(&self, offset: Offset) -> &Filter {
        let after = self.spans.partition_point(|(from, _)| *from <= offset);
        &self.spans[after.saturating_sub(1)].1
    }

    /// The filters for events from `fan_out_offset` on, each with the offsets at which it is in effect.
    pub(crate) fn from(&self, fan_out_offset: Offset) -> impl Iterator<Item = (Range<Offset>, &Filter)> {
        let ends = self.spans[1..].iter().map(|(from, _)| *from).chain([Offset(u64::MAX)]);
        let spans = self.spans.iter().zip(ends).map(|((from, filter), end)| (*from..end, filter));
        spans.filter(move |(span, _)| fan_out_offset < span.end)
    }
}

#[cfg(test)]
pub(crate) mod tests;

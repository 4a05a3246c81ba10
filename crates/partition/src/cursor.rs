//! Vocabulary of subscriptions in a partition: attachments, cursors, outcomes and their counters.
//!
//! The rules are in [`crate::state`].

use std::{collections::BTreeMap, sync::Arc};

use fanfare_model::{AccountId, KeyHash, Offset, StartAt, SubscriptionId};

/// A subscription as this partition knows it: set by [`Attach`] in the partition's own log, effective at `from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub subscription: SubscriptionId,
    pub account: AccountId,
    pub epoch: u64,
    /// Events at or above it are matched.
    pub from: Offset,
    /// At least one, strictly ascending; each is in force up to the `from` of the next one. A filter is kept until
    /// everything below its end is matched and settled, so that an event read again is matched as it was before.
    pub filters: Arc<[AttachedFilter]>,
    /// None: the fan-out matches it, and everything of `from..frontier` is matched and counted.
    ///
    /// Some(m): it started in the past ([`StartAt::Earliest`], [`StartAt::Time`]) and catches up by its own reading:
    /// only `from..m` is matched and counted. The fan-out leaves it out until a [`CursorAdvance`] takes it to the new
    /// frontier exactly; from then on it is None. So an advance that was on its way when the subscription was
    /// attached can pass over it without losing an event.
    pub matched_to: Option<Offset>,
}

impl Attachment {
    /// Revision of the newest filter.
    #[must_use]
    pub fn filter_revision(&self) -> u64 {
        self.filters.last().expect("an attachment has a filter").revision
    }
}

/// A filter of events and the offset at which it took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedFilter {
    pub from: Offset,
    /// The newest revision with this filter.
    pub revision: u64,
    pub filter: Arc<[u8]>,
}

/// Attaches a subscription, or changes its filter or its start.
///
/// - Not attached: begins at `start`.
/// - Attached under a lower epoch: what is pending is cancelled ([`Reason::Repointed`]) and it begins anew at `start`.
/// - Attached under the same epoch and a lower filter revision: the filter changes for events from here on, the
///   cursor stays. Refused ([`Refusal::Filter`](crate::Refusal::Filter)) while too many earlier filters are needed.
/// - Attached under the same epoch and this or a higher filter revision: nothing changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    pub subscription: SubscriptionId,
    pub account: AccountId,
    pub epoch: u64,
    pub filter_revision: u64,
    /// The encoded filter. The partition keeps it and never reads it.
    pub filter: Arc<[u8]>,
    pub start: StartAt,
}

/// The unsettled events of one subscription below the frontier. No record means that nothing is pending.
///
/// Pending = `window` + every matching event in `read_to..frontier` (`read_to..matched_to` while catching up) + of each
/// parked key every matching event from its `from` to `read_to`. Lists are sorted and bounded by the delivery window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CursorRecord {
    /// Exclusive end of what was read into the window or parked; <= frontier (<= `matched_to` while catching up).
    /// Never moves back.
    pub read_to: Offset,
    /// Unsettled offsets below `read_to` that belong to no parked key, strictly ascending.
    pub window: Vec<Offset>,
    /// Strictly ascending by key hash.
    pub parked: Vec<ParkedKey>,
    /// None: the sink takes events.
    pub outage: Option<SinkOutage>,
}

/// A sink that is not sent to, as the subscription saw it last: a new leader begins with a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkOutage {
    /// Revision of the sink in the catalog. The time that an earlier revision named says nothing of a later one.
    pub sink_revision: u64,
    pub reason: OutageReason,
    /// Time since its begin, when this was written.
    pub age_ms: u64,
    /// Probes that have failed.
    pub probes: u32,
    /// Remaining of the time that the sink named, when this was written.
    pub retry_after_ms: u64,
}

/// The reason why a sink is not sent to. Numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OutageReason {
    Down = 1,
    RejectsEverything = 2,
    Throttled = 3,
}

impl OutageReason {
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Down, Self::RejectsEverything, Self::Throttled]
            .into_iter()
            .find(|&reason| reason as u8 == number)
    }
}

/// A key whose oldest pending event fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParkedKey {
    pub key: KeyHash,
    /// The failing event; all of the key's events from here are pending.
    pub from: Offset,
    /// Made so far for the event at `from`.
    pub attempts: u32,
    /// Remaining when this was written.
    pub retry_in_ms: u64,
    /// Matching events of this key from `from` to `read_to`, inclusive of the failing one.
    pub pending: u64,
}

/// The final outcome of a matched event. Numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    Delivered,
    DeadLettered(Reason),
    Expired(Reason),
    Cancelled(Reason),
}

impl Outcome {
    /// The stored form: (outcome, reason).
    pub(crate) fn numbers(self) -> (u8, u8) {
        match self {
            Self::Delivered => (1, 0),
            Self::DeadLettered(reason) => (2, reason as u8),
            Self::Expired(reason) => (3, reason as u8),
            Self::Cancelled(reason) => (4, reason as u8),
        }
    }

    pub(crate) fn from_numbers(outcome: u8, reason: u8) -> Option<Self> {
        match (outcome, reason) {
            (1, 0) => Some(Self::Delivered),
            (2, reason) => Reason::from_number(reason).map(Self::DeadLettered),
            (3, reason) => Reason::from_number(reason).map(Self::Expired),
            (4, reason) => Reason::from_number(reason).map(Self::Cancelled),
            _ => None,
        }
    }
}

/// The reason for settling an event otherwise than by delivery. Numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    SchemaVersion = 1,
    AttemptsExhausted = 2,
    Rejected = 3,
    Retention = 4,
    DeadLetterBudget = 5,
    Deleted = 6,
    Repointed = 7,
    TooLarge = 8,
    /// The event was matched, and cannot be read again.
    Unreadable = 9,
}

impl Reason {
    pub(crate) const ALL: [Self; 9] = [
        Self::SchemaVersion,
        Self::AttemptsExhausted,
        Self::Rejected,
        Self::Retention,
        Self::DeadLetterBudget,
        Self::Deleted,
        Self::Repointed,
        Self::TooLarge,
        Self::Unreadable,
    ];

    /// The name in the API and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SchemaVersion => "schema_version",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::Rejected => "rejected",
            Self::Retention => "retention",
            Self::DeadLetterBudget => "dead_letter_budget",
            Self::Deleted => "deleted",
            Self::Repointed => "repointed",
            Self::TooLarge => "too_large",
            Self::Unreadable => "unreadable",
        }
    }

    /// The reason stored as `number`; None if this version knows none.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&reason| reason as u8 == number)
    }
}

/// Moves the frontier and cursors. One entry for all subscriptions of the partition; applied whole or refused whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advance {
    /// >= the current frontier, <= the high watermark.
    pub frontier: Offset,
    /// Each subscription at most once. One that is left out matched nothing and settled nothing.
    pub cursors: Vec<CursorAdvance>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorAdvance {
    pub subscription: SubscriptionId,
    pub epoch: u64,
    /// Events newly matched: of old frontier..new frontier, or, catching up, of its old `matched_to` to the new one.
    pub matched: u64,
    /// None for a subscription that the fan-out matches, and for one catching up that counted nothing new.
    /// Some(m), m <= the new frontier, only for one catching up; m == the new frontier joins it to the fan-out.
    pub matched_to: Option<Offset>,
    /// By outcome; numbers are of events.
    pub settled: BTreeMap<Outcome, u64>,
    /// None = nothing pending; the record before is dropped.
    pub record: Option<RecordChange>,
}

/// A new record, told by its difference from the one before: the window is replaced, the parked keys are changed. A
/// record that was dropped, or none yet, has no parked keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordChange {
    /// As in [`CursorRecord`].
    pub read_to: Offset,
    /// As in [`CursorRecord`].
    pub window: Vec<Offset>,
    /// Keys that are parked newly or otherwise than before, strictly ascending by key hash.
    pub parked: Vec<ParkedKey>,
    /// Keys that were parked and are no more, strictly ascending.
    pub released: Vec<KeyHash>,
    /// As in [`CursorRecord`].
    pub outage: Option<SinkOutage>,
}

/// Over the life of a subscription in this partition, through all its epochs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub matched: u64,
    pub settled: BTreeMap<Outcome, u64>,
}

impl Counters {
    /// matched - settled
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.matched - self.settled.values().sum::<u64>()
    }
}

/// The state that delivery begins from; read once when leadership begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryState {
    pub frontier: Offset,
    /// Ascending by subscription.
    pub attachments: Vec<(Attachment, Option<CursorRecord>)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_numbers_of_outcomes_never_change() {
        let numbers: Vec<_> = Reason::ALL.iter().map(|&reason| (reason as u8, reason.name())).collect();
        let expected = [
            (1, "schema_version"),
            (2, "attempts_exhausted"),
            (3, "rejected"),
            (4, "retention"),
            (5, "dead_letter_budget"),
            (6, "deleted"),
            (7, "repointed"),
            (8, "too_large"),
            (9, "unreadable"),
        ];
        assert_eq!(numbers, expected);
        assert_eq!(Outcome::Delivered.numbers(), (1, 0));
        assert_eq!(Outcome::DeadLettered(Reason::Rejected).numbers(), (2, 3));
        assert_eq!(Outcome::Expired(Reason::Retention).numbers(), (3, 4));
        assert_eq!(Outcome::Cancelled(Reason::Deleted).numbers(), (4, 6));
        for (outcome, reason) in
            (0..=u8::MAX).flat_map(|outcome| (0..=10).map(move |reason| (outcome, reason)))
        {
            if let Some(decoded) = Outcome::from_numbers(outcome, reason) {
                assert_eq!(decoded.numbers(), (outcome, reason));
            }
        }
    }
}

//! Outcomes of published events, by their position in the batch.

use fanfare_model::Offset;
use fanfare_partition::{AppendError, Appended};

use crate::refusal::Refusal;

/// Position of a committed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    pub partition: u16,
    pub offset: Offset,
    /// The identity was committed before; the position is the first one's.
    pub duplicate: bool,
}

/// Committed, or the reason why not.
pub type PublishOutcome = Result<Committed, Refusal>;

/// Destination of one event of a batch.
pub(crate) enum Slot {
    /// `position` counts the events of the record batch with index `batch`.
    Routed { batch: usize, position: u32 },
    /// Boxed: a refusal is several times larger than a route, and rare.
    Refused(Box<Refusal>),
}

/// Outcome of every event of a batch.
pub struct BatchOutcome {
    slots: Vec<Slot>,
    partitions: Vec<PartitionOutcome>,
}

/// Answer of one partition to its record batch.
pub(crate) struct PartitionOutcome {
    pub(crate) partition: u16,
    pub(crate) appended: Result<Appended, AppendError>,
}

impl BatchOutcome {
    pub(crate) fn new(slots: Vec<Slot>, partitions: Vec<PartitionOutcome>) -> Self {
        Self { slots, partitions }
    }

    /// Number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Outcome of the event that was added as number `index`.
    ///
    /// # Errors
    /// If the event was refused, or its outcome is unknown.
    ///
    /// # Panics
    /// If the batch has no such event.
    pub fn event(&self, index: usize) -> PublishOutcome {
        match &self.slots[index] {
            Slot::Refused(refusal) => Err(refusal.as_ref().clone()),
            Slot::Routed { batch, position } => self.partitions[*batch].event(*position),
        }
    }

    /// As [`Self::event`], for a producer that resends in order: of a record batch that failed, the first event has the
    /// reason and the others are [`Refusal::Behind`] it.
    ///
    /// # Errors
    /// As [`Self::event`].
    ///
    /// # Panics
    /// As [`Self::event`].
    pub fn event_in_order(&self, index: usize) -> PublishOutcome {
        match (&self.slots[index], self.event(index)) {
            (Slot::Routed { position: 1.., .. }, Err(Refusal::Append(error))) if error.is_retryable() => {
                Err(Refusal::Behind)
            }
            (_, outcome) => outcome,
        }
    }
}

impl PartitionOutcome {
    fn event(&self, position: u32) -> PublishOutcome {
        match &self.appended {
            Ok(appended) => committed(self.partition, appended, position),
            Err(error) => Err(error.clone().into()),
        }
    }
}

/// Outcome of the event at `position` of a record batch that was taken. Duplicates and conflicts take no offset of the
/// batch, so an event's offset counts only the events before it that do.
fn committed(partition: u16, appended: &Appended, position: u32) -> PublishOutcome {
    let offset_in =
        |list: &[(u32, Offset)]| list.iter().find(|(index, _)| *index == position).map(|(_, offset)| *offset);
    if let Some(offset) = offset_in(&appended.duplicates) {
        return Ok(Committed { partition, offset, duplicate: true });
    }
    if let Some(offset) = offset_in(&appended.conflicts) {
        return Err(Refusal::Conflict { partition, offset });
    }
    let before = |list: &[(u32, Offset)]| list.iter().filter(|(index, _)| *index < position).count() as u64;
    let without_offset = before(&appended.duplicates) + before(&appended.conflicts);
    assert!(
        without_offset <= u64::from(position),
        "invariant violation: {without_offset} of {position} events before an event are listed"
    );
    let offset = appended.base.plus(u64::from(position) - without_offset);
    Ok(Committed { partition, offset, duplicate: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_events_take_consecutive_offsets_around_listed_ones() {
        let appended = Appended {
            base: Offset(100),
            duplicates: vec![(1, Offset(7)), (3, Offset(9))],
            conflicts: vec![(4, Offset(8))],
        };
        let outcome = |position| match committed(2, &appended, position) {
            Ok(Committed { partition: 2, offset, duplicate }) => (offset.0, duplicate, false),
            Err(Refusal::Conflict { partition: 2, offset }) => (offset.0, false, true),
            other => panic!("{other:?}"),
        };
        let outcomes: Vec<_> = (0..6).map(outcome).collect();
        assert_eq!(
            outcomes,
            [
                (100, false, false),
                (7, true, false),
                (101, false, false),
                (9, true, false),
                (8, false, true),
                (102, false, false)
            ]
        );
    }
}

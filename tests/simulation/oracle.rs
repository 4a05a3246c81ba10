//! The judge: what producers were told, what readers saw and what the receiver got must agree, whatever happened between.

mod deliveries;

use std::collections::{BTreeMap, BTreeSet};

use fanfare_ingest::{Committed, Refusal};
use xxhash_rust::xxh3::xxh3_64;

use self::deliveries::Deliveries;
use crate::{event::EventName, setup::Route};

/// A place in the stream `events`.
pub(crate) type Place = (u16, u64);

/// An event as a reader sees it.
pub(crate) struct SeenEvent {
    pub(crate) offset: u64,
    pub(crate) name: EventName,
    pub(crate) hash: u64,
}

/// All that was promised, and the first promise that was broken.
#[derive(Default)]
pub(crate) struct Oracle {
    /// Acknowledged or seen by a reader: durable from then on.
    log: BTreeMap<Place, EventName>,
    places: BTreeMap<EventName, Place>,
    pub(crate) acknowledged: u64,
    pub(crate) duplicates: u64,
    /// Never acknowledged, and not published any more: nobody knows if they are stored, until a reader sees them.
    given_up: BTreeSet<EventName>,
    pub(crate) deliveries: Deliveries,
    violation: Option<String>,
}

impl Oracle {
    pub(crate) fn violation(&self) -> Option<&str> {
        self.violation.as_deref().or_else(|| self.deliveries.violation())
    }

    pub(crate) fn violate(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    /// A life of the node begins.
    pub(crate) fn begin_life(&mut self, after_stop: bool, finds_damage: bool) {
        self.deliveries.begin_life(after_stop, finds_damage);
    }

    /// A producer is told that its event is committed.
    pub(crate) fn acknowledged(&mut self, name: EventName, committed: Committed) {
        self.acknowledged += 1;
        self.duplicates += u64::from(committed.duplicate);
        let place = (committed.partition, committed.offset.0);
        if let Some(first) = self.places.get(&name)
            && (*first != place || !committed.duplicate)
        {
            self.violate(format!(
                "{} was acknowledged at {place:?} (duplicate: {}), and before at {first:?}",
                name.id(),
                committed.duplicate
            ));
        }
        self.put(name, place);
    }

    /// A producer does not publish its event any more, which may be stored.
    pub(crate) fn gave_up(&mut self, name: EventName) {
        self.given_up.insert(name);
    }

    /// Events that may be stored although nobody saw them.
    pub(crate) fn uncertain(&self) -> impl Iterator<Item = EventName> {
        self.given_up.iter().copied().filter(|name| !self.is_stored(*name))
    }

    /// True if the event was acknowledged, or seen by a reader.
    pub(crate) fn is_stored(&self, name: EventName) -> bool {
        self.places.contains_key(&name)
    }

    /// A producer is told that another event has its event's id.
    pub(crate) fn conflicted(&mut self, name: EventName, refusal: &Refusal) {
        let Refusal::Conflict { partition, offset } = refusal else { return };
        let place = (*partition, offset.0);
        if self.places.get(&name) != Some(&place) {
            self.violate(format!("{} conflicts with {place:?}, where it never was", name.id()));
        }
    }

    fn put(&mut self, name: EventName, place: Place) {
        if let Some(other) = self.log.insert(place, name).filter(|other| *other != name) {
            self.violate(format!("{place:?} is {} and was {}", name.id(), other.id()));
        }
        if let Some(first) = self.places.insert(name, place).filter(|first| *first != place) {
            self.violate(format!("{} is stored twice, at {first:?} and {place:?}", name.id()));
        }
    }

    /// A reader has read a partition from `log_start` or later up to `end`.
    pub(crate) fn read(&mut self, partition: u16, log_start: u64, events: &[SeenEvent]) {
        let Some(first) = events.first() else { return };
        if first.offset < log_start {
            let offset = first.offset;
            self.violate(format!("({partition}, {offset}) is below the start of the log, {log_start}"));
        }
        let mut expected = first.offset;
        for event in events {
            if event.offset != expected {
                self.violate(format!(
                    "partition {partition} goes on with {} where {expected} was due",
                    event.offset
                ));
            }
            expected = event.offset + 1;
            if event.hash != xxh3_64(&event.name.encode()) {
                self.violate(format!(
                    "({partition}, {}) has other bytes than {}",
                    event.offset,
                    event.name.id()
                ));
            }
            self.put(event.name, (partition, event.offset));
        }
    }

    /// End of what was acknowledged or seen in a partition.
    pub(crate) fn promised_end(&self, partition: u16) -> u64 {
        let newest = self.log.range((partition, 0)..=(partition, u64::MAX)).next_back();
        newest.map_or(0, |((_, newest), _)| newest + 1)
    }

    /// A reader has read the whole partition, in which everything below `promised_end` was acknowledged or seen before:
    /// nothing of it is missing.
    pub(crate) fn read_whole(
        &mut self,
        partition: u16,
        log_start: u64,
        promised_end: u64,
        events: &[SeenEvent],
    ) {
        self.read(partition, log_start, events);
        let first = events.first().map_or(log_start, |first| first.offset);
        let end = events.last().map_or(log_start, |last| last.offset + 1);
        if first != log_start {
            self.violate(format!("partition {partition} begins with {first}, and should with {log_start}"));
        }
        if end < promised_end {
            self.violate(format!("partition {partition} ends at {end}: {promised_end} was promised"));
        }
    }

    /// Every event that is or was in the log, with its place.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (EventName, Place)> {
        self.places.iter().map(|(name, place)| (*name, *place))
    }

    pub(crate) fn request(&mut self, path: &str, id: &str) {
        let Some(name) = EventName::parse(id) else {
            return self.violate(format!("the receiver got an event {id:?} that nobody published"));
        };
        if !Route::of(path).is_some_and(|route| route.matches(name)) {
            self.violate(format!("{path} got {}, which it does not match", name.id()));
        }
        self.deliveries.request(path, name);
    }

    pub(crate) fn answered(&mut self, path: &str, id: &str, status: u16) {
        if let Some(name) = EventName::parse(id) {
            self.deliveries.answered(path, name, status);
        }
    }
}

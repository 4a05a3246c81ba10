//! The judge: what producers were told, what readers saw and what the receiver got must agree, whatever happened between.

mod deliveries;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use fanfare_delivery::DeadLetter;
use fanfare_ingest::{Committed, Refusal};
use fanfare_model::Event;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use self::deliveries::Deliveries;
pub(crate) use self::deliveries::{Answer, LifeStart};
use crate::{event::EventName, retention::Retention, setup::Route};

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
    pub(crate) fn begin_life(&mut self, start: LifeStart) {
        self.deliveries.begin_life(start);
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
                "{name} was acknowledged at {place:?} (duplicate: {}), and before at {first:?}",
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
            self.violate(format!("{name} conflicts with {place:?}, where it never was"));
        }
    }

    fn put(&mut self, name: EventName, place: Place) {
        if let Some(other) = self.log.insert(place, name).filter(|other| *other != name) {
            self.violate(format!("{place:?} is {name} and was {other}"));
        }
        if let Some(first) = self.places.insert(name, place).filter(|first| *first != place) {
            self.violate(format!("{name} is stored twice, at {first:?} and {place:?}"));
        }
    }

    /// End of what was acknowledged or seen in a partition.
    pub(crate) fn promised_end(&self, partition: u16) -> u64 {
        let newest = self.log.range((partition, 0)..=(partition, u64::MAX)).next_back();
        newest.map_or(0, |((_, newest), _)| newest + 1)
    }

    /// The readers of all accounts have read a partition: nothing of `whole` is missing, and nothing was there that is
    /// not as it was published.
    pub(crate) fn read(&mut self, partition: u16, log_start: u64, whole: Range<u64>, events: &[SeenEvent]) {
        let mut offsets = BTreeSet::new();
        for event in events {
            let (name, place) = (event.name, (partition, event.offset));
            if event.offset < log_start {
                self.violate(format!("{place:?} is below the start of the log, {log_start}"));
            }
            if event.hash != xxh3_64(&name.encode()) {
                self.violate(format!("{place:?} has other bytes than {name}"));
            }
            offsets.insert(event.offset);
            self.put(name, place);
        }
        if let Some(missing) = whole.clone().find(|offset| !offsets.contains(offset)) {
            self.violate(format!("({partition}, {missing}) is missing among {whole:?}"));
        }
    }

    /// Every event that is or was in the log, with its place.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (EventName, Place)> {
        self.places.iter().map(|(name, place)| (*name, *place))
    }

    pub(crate) fn request(&mut self, path: &str, id: &str, body: &Value) {
        let Some((route, name)) = named(path, id) else {
            return self.violate(format!("{path} got an event {id:?} that nobody published"));
        };
        if !route.matches(name) {
            self.violate(format!("{path} got {name}, which it does not match"));
        }
        if !name.is_json(body) {
            self.violate(format!("{path} got {name} as {body}"));
        }
        self.deliveries.request(route, name, self.partition(route.account));
    }

    pub(crate) fn answered(&mut self, path: &str, id: &str, answer: Answer) {
        if let Some((route, name)) = named(path, id) {
            self.deliveries.answered(route, name, answer);
        }
    }

    /// The partition of an account, as far as an event of it is known.
    fn partition(&self, account: u32) -> Option<u16> {
        let first = EventName { account, key: 0, number: 0 };
        let (name, (partition, _)) = self.places.range(first..).next()?;
        (name.account == account).then_some(*partition)
    }

    /// A dead letter of `route` must hold the bytes of an event of the route, and tell why that event is one. Gives the
    /// event.
    pub(crate) fn dead_letter(
        &mut self,
        route: Route,
        letter: &DeadLetter,
        retention: Retention,
    ) -> Option<EventName> {
        let event = Event::parse(&letter.event).ok();
        let name = event.and_then(|event| EventName::parse(route.account, event.id));
        let Some(name) = name.filter(|name| route.matches(*name) && letter.event == name.encode()) else {
            self.violate(format!("{} has a dead letter of no event of its own: {letter:?}", route.path));
            return None;
        };
        let place = (letter.partition, letter.offset.0);
        if self.places.get(&name).is_some_and(|known| *known != place) {
            self.violate(format!("the dead letter of {name} names {place:?}"));
        }
        let attempts = self.deliveries.attempts(route, name);
        let age_ms = letter.time.0.saturating_sub(letter.append_time.0);
        let is_right = match letter.reason {
            "rejected" => attempts.rejections > 0,
            "retention" => retention.overtakes(age_ms),
            _ => false,
        };
        if !is_right {
            let Route { path, .. } = route;
            self.violate(format!(
                "{path} gave {name} up for no reason: {attempts:?}, {age_ms} ms, {letter:?}"
            ));
        }
        Some(name)
    }
}

/// The route of a request's path, and the event of its account with this id.
fn named(path: &str, id: &str) -> Option<(Route, EventName)> {
    let route = Route::of(path)?;
    Some((route, EventName::parse(route.account, id)?))
}

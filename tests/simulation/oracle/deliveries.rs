//! The judge of what the receiver gets: nothing skipped, nothing out of its key's order, few repeats after a crash, none
//! after a stop.

use std::collections::{BTreeMap, BTreeSet};

use crate::{event::EventName, node::WINDOW_EVENTS, setup::Route};

/// What a life of the node finds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LifeStart {
    /// The life before ended in order, and without a fault of the disk: all that the receiver took is known.
    pub(crate) after_stop: bool,
    /// The partition with a flipped bit. A leader that cannot read begins anew from the replicated progress, and rightly
    /// repeats up to a window, as after a crash.
    pub(crate) damaged: Option<u16>,
    /// The disk has lost what it said was durable: any event may come again.
    pub(crate) deceived: bool,
}

/// The answer of the receiver to one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// `heard` if nothing keeps the answer from the node.
    Took {
        heard: bool,
    },
    Rejected,
    Failed,
}

#[derive(Default)]
pub(crate) struct Deliveries {
    /// Number of the present life; the first is 1.
    life: u32,
    start: LifeStart,
    /// By path of the subscription, and key.
    keys: BTreeMap<(&'static str, u32), KeyDeliveries>,
    pub(crate) requests: u64,
    /// Events of the present life that an earlier one had delivered, by path. The events of a path are of one partition.
    repeats: BTreeMap<&'static str, u64>,
    pub(crate) repeats_max: u64,
    violation: Option<String>,
}

/// The events of one key, for one subscription.
#[derive(Default)]
struct KeyDeliveries {
    /// By number.
    events: Vec<EventDeliveries>,
    /// The number of the newest request, and its life.
    newest: Option<(u32, u32)>,
}

#[derive(Clone, Copy, Default)]
struct EventDeliveries {
    fate: Fate,
    attempts: Attempts,
    /// The life in which the node heard that the event is taken, if no request came since.
    heard_in: Option<u32>,
}

/// The requests for one event, and the receiver's final refusals among them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attempts {
    pub(super) requests: u32,
    pub(super) rejections: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    Open,
    Taken {
        life: u32,
    },
    /// A later event of the key came before this one was taken: it must be a dead letter by then.
    Passed {
        life: u32,
    },
}

impl Deliveries {
    pub(crate) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    fn violate(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    pub(super) fn begin_life(&mut self, start: LifeStart) {
        self.life += 1;
        self.start = start;
        self.repeats.clear();
    }

    /// `partition` is the event's, if it is known.
    pub(super) fn request(&mut self, route: Route, name: EventName, partition: Option<u16>) {
        self.requests += 1;
        let (life, path) = (self.life, route.path);
        let key = self.keys.entry((path, name.key)).or_default();
        let number = name.number as usize;
        if key.events.len() <= number {
            key.events.resize(number + 1, EventDeliveries::default());
        }
        for event in &mut key.events[..number] {
            if event.fate == Fate::Open {
                event.fate = Fate::Passed { life };
            }
        }
        let event = &mut key.events[number];
        event.attempts.requests += 1;
        let (fate, heard_in) = (event.fate, event.heard_in.take());
        let before = key.newest.filter(|(_, of)| *of == life).map(|(newest, _)| newest);
        key.newest = Some((name.number, life));
        let is_damaged = self.start.damaged.is_some_and(|damaged| partition.is_none_or(|own| own == damaged));
        if self.start.deceived || is_damaged {
            return;
        }
        if before.is_some_and(|newest| newest > name.number) || fate == (Fate::Passed { life }) {
            self.violate(format!("{path} got {name} after {before:?} of the same key"));
        }
        if heard_in == Some(life) || self.start.after_stop && heard_in.is_some_and(|of| of + 1 == life) {
            self.violate(format!("{path} got {name} again, which it had taken, without a crash"));
        }
        if matches!(fate, Fate::Taken { life: of } if of < life) && before != Some(name.number) {
            let repeats = self.repeats.entry(path).or_default();
            *repeats += 1;
        }
    }

    pub(super) fn answered(&mut self, route: Route, name: EventName, answer: Answer) {
        let life = self.life;
        let Some(key) = self.keys.get_mut(&(route.path, name.key)) else { return };
        let Some(event) = key.events.get_mut(name.number as usize) else { return };
        match answer {
            Answer::Took { heard } => {
                event.heard_in = heard.then_some(life);
                if !matches!(event.fate, Fate::Taken { .. }) {
                    event.fate = Fate::Taken { life };
                }
            }
            Answer::Rejected => event.attempts.rejections += 1,
            Answer::Failed => {}
        }
    }

    pub(super) fn attempts(&self, route: Route, name: EventName) -> Attempts {
        self.event(route, name).attempts
    }

    fn event(&self, route: Route, name: EventName) -> EventDeliveries {
        let events = self.keys.get(&(route.path, name.key)).map(|key| &key.events);
        events.and_then(|events| events.get(name.number as usize)).copied().unwrap_or_default()
    }

    /// Compares the repeats of the present life with the window.
    pub(crate) fn check_repeats(&mut self) {
        let most = self.repeats.iter().map(|(path, count)| (*path, *count)).max_by_key(|(_, count)| *count);
        let Some((path, count)) = most else { return };
        self.repeats_max = self.repeats_max.max(count);
        if count > WINDOW_EVENTS as u64 {
            self.violate(format!("{path} got {count} events again after a crash"));
        }
    }

    /// Every event of `due` was taken, or is among `dead_letters`.
    pub(crate) fn check_all(
        &mut self,
        route: Route,
        due: impl Iterator<Item = EventName>,
        dead_letters: &BTreeSet<EventName>,
    ) {
        for name in due {
            let fate = self.event(route, name).fate;
            if !matches!(fate, Fate::Taken { .. }) && !dead_letters.contains(&name) {
                return self.violate(format!("{} never got {name}, which is {fate:?}", route.path));
            }
        }
    }
}

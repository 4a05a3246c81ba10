//! The judge of what the receiver gets: nothing skipped, nothing out of its key's order, few repeats after a crash.

use std::collections::{BTreeMap, BTreeSet};

use crate::{event::EventName, node::WINDOW_EVENTS};

#[derive(Default)]
pub(crate) struct Deliveries {
    life: u32,
    after_stop: bool,
    /// The present life finds damage. A leader that cannot read begins anew from what is replicated, and rightly repeats
    /// up to a window, as after a crash.
    finds_damage: bool,
    keys: BTreeMap<(String, u32), KeyDeliveries>,
    pub(crate) requests: u64,
    /// Events of the present life that an earlier one had delivered, by subscription and key.
    repeats: BTreeMap<(String, u32), u64>,
    pub(crate) repeats_max: u64,
    violation: Option<String>,
}

/// The events of one key, for one subscription.
#[derive(Default)]
struct KeyDeliveries {
    /// By number.
    fates: Vec<Fate>,
    /// The number of the newest request, and its life.
    newest: Option<(u32, u32)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    Open,
    Taken {
        life: u32,
    },
    /// The receiver will never take the event.
    Rejected,
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

    pub(super) fn begin_life(&mut self, after_stop: bool, finds_damage: bool) {
        self.life += 1;
        (self.after_stop, self.finds_damage) = (after_stop, finds_damage);
        self.repeats.clear();
    }

    pub(super) fn request(&mut self, path: &str, name: EventName) {
        self.requests += 1;
        let life = self.life;
        let entry = (path.to_owned(), name.key);
        let key = self.keys.entry(entry.clone()).or_default();
        let number = name.number as usize;
        if key.fates.len() <= number {
            key.fates.resize(number + 1, Fate::Open);
        }
        for fate in &mut key.fates[..number] {
            if *fate == Fate::Open {
                *fate = Fate::Passed { life };
            }
        }
        let fate = key.fates[number];
        let before = key.newest.filter(|(_, of)| *of == life).map(|(newest, _)| newest);
        key.newest = Some((name.number, life));
        if self.finds_damage {
            return;
        }
        if before.is_some_and(|newest| newest > name.number) || fate == (Fate::Passed { life }) {
            self.violate(format!("{path} got {} after {before:?} of the same key", name.id()));
        }
        if matches!(fate, Fate::Taken { life: of } if of < life) && before != Some(name.number) {
            let repeats = self.repeats.entry(entry).or_default();
            *repeats += 1;
            if self.after_stop {
                self.repeats_max = self.repeats_max.max(*repeats);
            }
        }
    }

    pub(super) fn answered(&mut self, path: &str, name: EventName, status: u16) {
        let life = self.life;
        let Some(key) = self.keys.get_mut(&(path.to_owned(), name.key)) else { return };
        let Some(fate) = key.fates.get_mut(name.number as usize) else { return };
        match (status, *fate) {
            (200, Fate::Open | Fate::Rejected | Fate::Passed { .. }) => *fate = Fate::Taken { life },
            (422, Fate::Open | Fate::Passed { .. }) => *fate = Fate::Rejected,
            _ => {}
        }
    }

    /// Compares the repeats of the present life with the window; `partition` tells the partition of a key.
    pub(crate) fn check_repeats(&mut self, partition: impl Fn(u32) -> Option<u16>) {
        let mut repeats: BTreeMap<(&str, u16), u64> = BTreeMap::new();
        for ((path, key), count) in &self.repeats {
            if let Some(partition) = partition(*key) {
                *repeats.entry((path, partition)).or_default() += count;
            }
        }
        let most = repeats.into_iter().max_by_key(|(_, count)| *count);
        let Some(((path, partition), count)) = most else { return };
        self.repeats_max = self.repeats_max.max(count);
        if count > WINDOW_EVENTS as u64 {
            let text = format!("{path} got {count} events of partition {partition} again after a crash");
            self.violate(text);
        }
    }

    /// Every event of `due` was taken, or is among `dead_letters`.
    pub(crate) fn check_all(
        &mut self,
        path: &str,
        due: impl Iterator<Item = EventName>,
        dead_letters: &BTreeSet<EventName>,
    ) {
        for name in due {
            let fates = self.keys.get(&(path.to_owned(), name.key)).map(|key| &key.fates);
            let fate = fates.and_then(|fates| fates.get(name.number as usize)).copied().unwrap_or_default();
            let is_settled = matches!(fate, Fate::Taken { .. }) || dead_letters.contains(&name);
            if !is_settled {
                return self.violate(format!("{path} never got {}, which is {fate:?}", name.id()));
            }
        }
    }
}

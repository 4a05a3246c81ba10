//! Where lines are, by their identities' hash: open addressing, at most seven tenths full: fuller, the runs to look through
//! get long.
//!
//! A slot holds half of the hash, so that neither a search nor growing looks at lines of other identities. Removing
//! leaves no trace: what had to give way is moved back.

use super::seed::Hash;

const SLOTS_MIN: usize = 16;

#[derive(Default)]
pub(super) struct Places {
    slots: Box<[Slot]>,
    taken: usize,
}

/// Free if the tag is zero.
#[derive(Clone, Copy, Default)]
struct Slot {
    tag: u32,
    place: u32,
}

impl Places {
    /// Of the slot in which a search begins.
    pub(super) fn first_tag(&self, hash: Hash) -> u32 {
        self.slots.get(self.home(hash.tag())).map_or(0, |slot| slot.tag)
    }

    pub(super) fn get(&self, hash: Hash, is_same: impl Fn(u32) -> bool) -> Option<u32> {
        let found = self.probe(hash.tag()).find(|&at| {
            let slot = self.slots[at];
            slot.tag == 0 || (slot.tag == hash.tag() && is_same(slot.place))
        })?;
        Some(self.slots[found]).filter(|slot| slot.tag != 0).map(|slot| slot.place)
    }

    /// In the stead of the one that is the same, if there is one.
    pub(super) fn put(&mut self, hash: Hash, place: u32, is_same: impl Fn(u32) -> bool) {
        if (self.taken + 1) * 10 > self.slots.len() * 7 {
            self.grow();
        }
        let tag = hash.tag();
        let mut probe = self.probe(tag);
        let at = probe.find(|&at| {
            let slot = self.slots[at];
            slot.tag == 0 || (slot.tag == tag && is_same(slot.place))
        });
        let slot = &mut self.slots[at.expect("some slots are free")];
        self.taken += usize::from(slot.tag == 0);
        *slot = Slot { tag, place };
    }

    /// Removes exactly this place, if it is there.
    pub(super) fn remove(&mut self, hash: Hash, place: u32) {
        let found =
            self.probe(hash.tag()).find(|&at| self.slots[at].tag == 0 || self.slots[at].place == place);
        let Some(mut hole) = found.filter(|&at| self.slots[at].tag != 0) else { return };
        self.taken -= 1;
        let mut at = hole;
        loop {
            at = self.after(at);
            let Slot { tag, .. } = self.slots[at];
            if tag == 0 {
                break;
            }
            // A search for it begins at or before the hole.
            if self.distance(self.home(tag), at) >= self.distance(hole, at) {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
        }
        self.slots[hole] = Slot::default();
    }

    fn grow(&mut self) {
        let slots = (self.slots.len() + self.slots.len() / 5).max(self.slots.len() + SLOTS_MIN);
        let old = std::mem::replace(&mut self.slots, vec![Slot::default(); slots].into());
        for slot in old.iter().filter(|slot| slot.tag != 0) {
            let at = self.probe(slot.tag).find(|&at| self.slots[at].tag == 0);
            self.slots[at.expect("more slots than before")] = *slot;
        }
    }

    /// The slots in which a tag may be, from its home on.
    fn probe(&self, tag: u32) -> impl Iterator<Item = usize> + use<> {
        let home = self.home(tag);
        (home..self.slots.len()).chain(0..home)
    }

    /// Spreads the tags over any number of slots.
    fn home(&self, tag: u32) -> usize {
        let home = (u64::from(tag) * self.slots.len() as u64) >> 32;
        usize::try_from(home).expect("less than the number of slots")
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        if from <= to { to - from } else { to + self.slots.len() - from }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.taken
    }

    #[cfg(test)]
    pub(super) fn size_bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_table_is_what_a_map_says_however_hashes_collide(
            steps in prop::collection::vec((0_u64..120, any::<bool>()), 1..800),
            spread in prop::sample::select(vec![0_u64, 1, 0x0200_0000, 0xffff_ffff]),
        ) {
            // An identity is its number; its place changes with each step.
            let hash = |number: u64| Hash((number * spread) | (0xffff_fff0 * (number % 2)));
            let (mut places, mut model) = (Places::default(), HashMap::<u64, u32>::new());
            let mut numbers = Vec::new();
            for (number, puts) in steps {
                if puts {
                    let place = u32::try_from(numbers.len()).expect("few");
                    numbers.push(number);
                    places.put(hash(number), place, |place| numbers[place as usize] == number);
                    model.insert(number, place);
                } else if let Some(place) = model.remove(&number) {
                    places.remove(hash(number), place + 1_000_000);
                    places.remove(hash(number), place);
                }
                prop_assert_eq!(places.len(), model.len());
            }
            for number in 0..120 {
                let found = places.get(hash(number), |place| numbers[place as usize] == number);
                prop_assert_eq!(found, model.get(&number).copied());
            }
        }
    }
}

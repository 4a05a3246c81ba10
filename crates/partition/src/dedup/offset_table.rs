//! A table from an identity's hash to the low half of its offset: open addressing with linear probing, at most three
//! quarters full, because probe sequences get long above that, and at least half full once it has grown.
//!
//! A slot holds half of the hash, so neither a lookup nor growing reads the records of other identities. Removing
//! shifts later slots back (Knuth's algorithm R) and leaves no tombstone.

use super::hash_seed::IdentityHash;

const SLOTS_MIN: usize = 16;

#[derive(Default)]
pub(super) struct OffsetTable {
    slots: Box<[Slot]>,
    occupied: usize,
}

/// Free if the tag is zero.
#[derive(Clone, Copy, Default)]
struct Slot {
    tag: u32,
    low: u32,
}

impl OffsetTable {
    /// Tag of the slot in which a lookup begins; zero if that slot is free.
    pub(super) fn home_tag(&self, hash: IdentityHash) -> u32 {
        self.slots.get(self.home(hash.tag())).map_or(0, |slot| slot.tag)
    }

    pub(super) fn get(&self, hash: IdentityHash, is_same: impl Fn(u32) -> bool) -> Option<u32> {
        let at = self.probe(hash.tag()).find(|&at| {
            let slot = self.slots[at];
            slot.tag == 0 || (slot.tag == hash.tag() && is_same(slot.low))
        })?;
        Some(self.slots[at]).filter(|slot| slot.tag != 0).map(|slot| slot.low)
    }

    /// Inserts `low`, replacing the entry of the same identity if present.
    pub(super) fn insert(&mut self, hash: IdentityHash, low: u32, is_same: impl Fn(u32) -> bool) {
        if (self.occupied + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let tag = hash.tag();
        let mut probe = self.probe(tag);
        let at = probe.find(|&at| {
            let slot = self.slots[at];
            slot.tag == 0 || (slot.tag == tag && is_same(slot.low))
        });
        let slot = &mut self.slots
            [at.expect("invariant violation: a table at most three quarters full has no free slot")];
        self.occupied += usize::from(slot.tag == 0);
        *slot = Slot { tag, low };
    }

    /// Removes exactly `low`, if present; an entry of the same identity at another offset stays.
    pub(super) fn remove(&mut self, hash: IdentityHash, low: u32) {
        let slot = self.probe(hash.tag()).find(|&at| self.slots[at].tag == 0 || self.slots[at].low == low);
        let Some(mut hole) = slot.filter(|&at| self.slots[at].tag != 0) else { return };
        self.occupied -= 1;
        let mut at = hole;
        loop {
            at = self.after(at);
            let Slot { tag, .. } = self.slots[at];
            if tag == 0 {
                break;
            }
            // The lookup of this slot begins at or before the hole, so the slot may move there.
            if self.distance(self.home(tag), at) >= self.distance(hole, at) {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
        }
        self.slots[hole] = Slot::default();
    }

    /// By two fifths: each growth moves all slots, and half more would leave so many free that the window's memory would
    /// be above what it counts for an identity.
    fn grow(&mut self) {
        let slots = (self.slots.len() + self.slots.len() * 2 / 5).max(self.slots.len() + SLOTS_MIN);
        let old = std::mem::replace(&mut self.slots, vec![Slot::default(); slots].into());
        for slot in old.iter().filter(|slot| slot.tag != 0) {
            let at = self.probe(slot.tag).find(|&at| self.slots[at].tag == 0);
            self.slots[at.expect("more slots than before")] = *slot;
        }
    }

    /// The slots in which a tag may be, beginning at its home slot.
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
        self.occupied
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

    /// Each growth moves all slots, and a slot more than promised is memory that the budget does not know of.
    #[test]
    fn a_table_grows_in_few_steps_and_is_half_full_from_then_on() {
        let (mut table, mut growths, mut size) = (OffsetTable::default(), 0, 0);
        for low in 0..100_000 {
            let hash = IdentityHash(u64::from(low).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            table.insert(hash, low, |_| false);
            if table.size_bytes() != size {
                (growths, size) = (growths + 1, table.size_bytes());
            }
            let slots = size / size_of::<Slot>();
            assert!(slots <= 2 * table.len() + SLOTS_MIN, "{slots} slots for {} identities", table.len());
        }
        assert!(growths <= 30, "{growths} growths");
    }

    proptest! {
        #[test]
        fn table_equals_a_map_under_any_collisions(
            steps in prop::collection::vec((0_u64..120, any::<bool>()), 1..800),
            spread in prop::sample::select(vec![0_u64, 1, 0x0200_0000, 0xffff_ffff]),
        ) {
            // An identity is its number; its offset changes with each step.
            let hash = |number: u64| IdentityHash((number * spread) | (0xffff_fff0 * (number % 2)));
            let (mut offset_table, mut model) = (OffsetTable::default(), HashMap::<u64, u32>::new());
            let mut numbers = Vec::new();
            for (number, puts) in steps {
                if puts {
                    let low = u32::try_from(numbers.len()).expect("few");
                    numbers.push(number);
                    offset_table.insert(hash(number), low, |low| numbers[low as usize] == number);
                    model.insert(number, low);
                } else if let Some(low) = model.remove(&number) {
                    offset_table.remove(hash(number), low + 1_000_000);
                    offset_table.remove(hash(number), low);
                }
                prop_assert_eq!(offset_table.len(), model.len());
            }
            for number in 0..120 {
                let found = offset_table.get(hash(number), |low| numbers[low as usize] == number);
                prop_assert_eq!(found, model.get(&number).copied());
            }
        }
    }
}

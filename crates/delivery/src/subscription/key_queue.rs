//! Order within a key: one event of a key at a time, the others wait behind it. Pure.
//!
//! A key is known here only while it has an event in the window, and queues only while it has two or more.

use std::collections::{HashMap, VecDeque};

use fanfare_model::{KeyHash, Offset};

#[derive(Debug, Default)]
struct Lane {
    /// Events that were let through and have not left: one, or the consecutive ones of one batch.
    through: usize,
    waiting: VecDeque<Offset>,
}

#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: HashMap<KeyHash, Lane>,
}

impl Lanes {
    /// True if the event may go at once; else it waits for [`Self::leave`] or [`Self::follow`] to name it.
    pub(crate) fn enter(&mut self, key: KeyHash, offset: Offset) -> bool {
        let lane = self.lanes.entry(key).or_default();
        if lane.through == 0 {
            lane.through = 1;
            return true;
        }
        lane.waiting.push_back(offset);
        false
    }

    /// The next event of the key, let through together with the one before it.
    pub(crate) fn follow(&mut self, key: KeyHash) -> Option<Offset> {
        let lane = self.lanes.get_mut(&key)?;
        let next = lane.waiting.pop_front()?;
        lane.through += 1;
        Some(next)
    }

    /// An event that followed another is put back to the head of those that wait.
    pub(crate) fn step_back(&mut self, key: KeyHash, offset: Offset) {
        let lane = self.lanes.get_mut(&key).expect("an event that was let through has a lane");
        assert!(lane.through > 1, "the head of a lane never steps back");
        lane.through -= 1;
        lane.waiting.push_front(offset);
    }

    /// The first event that was let through is settled. The next one that may go, if it was the only one.
    pub(crate) fn leave(&mut self, key: KeyHash) -> Option<Offset> {
        let lane = self.lanes.get_mut(&key)?;
        lane.through -= 1;
        if lane.through > 0 {
            return None;
        }
        match lane.waiting.pop_front() {
            Some(next) => {
                lane.through = 1;
                Some(next)
            }
            None => {
                self.lanes.remove(&key);
                None
            }
        }
    }

    /// The key's events are held elsewhere from now on.
    pub(crate) fn close(&mut self, key: KeyHash) {
        self.lanes.remove(&key);
    }

    pub(crate) fn clear(&mut self) {
        self.lanes.clear();
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: KeyHash = KeyHash(1);
    const L: KeyHash = KeyHash(2);

    #[test]
    fn events_of_one_key_go_one_after_another_and_keys_do_not_wait_for_each_other() {
        let mut lanes = Lanes::default();
        assert!(lanes.enter(K, Offset(1)));
        assert!(!lanes.enter(K, Offset(2)));
        assert!(lanes.enter(L, Offset(3)));
        assert!(!lanes.enter(K, Offset(4)));
        assert_eq!(lanes.leave(K), Some(Offset(2)));
        assert_eq!(lanes.leave(L), None);
        assert_eq!(lanes.leave(K), Some(Offset(4)));
        assert_eq!(lanes.leave(K), None);
        assert!(lanes.is_empty());
    }

    #[test]
    fn followers_of_a_batch_that_failed_wait_again_in_their_old_order() {
        let mut lanes = Lanes::default();
        lanes.enter(K, Offset(1));
        for offset in 2..=4 {
            lanes.enter(K, Offset(offset));
        }
        assert_eq!(lanes.follow(K), Some(Offset(2)));
        assert_eq!(lanes.follow(K), Some(Offset(3)));
        lanes.step_back(K, Offset(3));
        lanes.step_back(K, Offset(2));
        let order: Vec<_> = std::iter::from_fn(|| lanes.leave(K)).collect();
        assert_eq!(order, [Offset(2), Offset(3), Offset(4)]);
    }
}

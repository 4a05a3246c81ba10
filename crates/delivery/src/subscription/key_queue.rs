//! Order within a key: one event of a key at a time, later events wait in the key's queue. Pure.
//!
//! A key is known here only while it has an event in the window, and queues only while it has two or more.

use std::collections::{BTreeMap, VecDeque};

use fanfare_model::{KeyHash, Offset};

#[derive(Debug, Default)]
struct KeyQueue {
    /// Events that were let through and have not left: one, or the consecutive ones of one batch.
    released: usize,
    waiting: VecDeque<Offset>,
}

#[derive(Debug, Default)]
pub(crate) struct KeyQueues {
    queues: BTreeMap<KeyHash, KeyQueue>,
}

impl KeyQueues {
    /// True if the event may go at once; else it waits for [`Self::leave`] or [`Self::follow`] to return it.
    pub(crate) fn enter(&mut self, key: KeyHash, offset: Offset) -> bool {
        let queue = self.queues.entry(key).or_default();
        if queue.released == 0 {
            queue.released = 1;
            return true;
        }
        queue.waiting.push_back(offset);
        false
    }

    /// The next event of the key, let through together with the one before it.
    pub(crate) fn follow(&mut self, key: KeyHash) -> Option<Offset> {
        let queue = self.queues.get_mut(&key)?;
        let next = queue.waiting.pop_front()?;
        queue.released += 1;
        Some(next)
    }

    /// An event that followed another one returns to the head of the queue.
    ///
    /// # Panics
    /// If the event did not follow another one.
    pub(crate) fn step_back(&mut self, key: KeyHash, offset: Offset) {
        let queue = self.queues.get_mut(&key).expect("an event that was let through has a queue");
        assert!(queue.released > 1, "invariant violation: the head of a key queue steps back");
        queue.released -= 1;
        queue.waiting.push_front(offset);
    }

    /// The first event that was let through is settled. The next one that may go, if it was the only one.
    pub(crate) fn leave(&mut self, key: KeyHash) -> Option<Offset> {
        let queue = self.queues.get_mut(&key)?;
        assert!(queue.released > 0, "invariant violation: an event leaves a key queue that let none through");
        queue.released -= 1;
        if queue.released > 0 {
            return None;
        }
        match queue.waiting.pop_front() {
            Some(next) => {
                queue.released = 1;
                Some(next)
            }
            None => {
                self.queues.remove(&key);
                None
            }
        }
    }

    /// The key's events leave the window.
    pub(crate) fn close(&mut self, key: KeyHash) {
        self.queues.remove(&key);
    }

    pub(crate) fn clear(&mut self) {
        self.queues.clear();
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: KeyHash = KeyHash(1);
    const L: KeyHash = KeyHash(2);

    #[test]
    fn events_of_one_key_go_one_after_another_and_keys_do_not_wait_for_each_other() {
        let mut queues = KeyQueues::default();
        assert!(queues.enter(K, Offset(1)));
        assert!(!queues.enter(K, Offset(2)));
        assert!(queues.enter(L, Offset(3)));
        assert!(!queues.enter(K, Offset(4)));
        assert_eq!(queues.leave(K), Some(Offset(2)));
        assert_eq!(queues.leave(L), None);
        assert_eq!(queues.leave(K), Some(Offset(4)));
        assert_eq!(queues.leave(K), None);
        assert!(queues.is_empty());
    }

    #[test]
    fn followers_of_a_failed_batch_wait_again_in_their_old_order() {
        let mut queues = KeyQueues::default();
        queues.enter(K, Offset(1));
        for offset in 2..=4 {
            queues.enter(K, Offset(offset));
        }
        assert_eq!(queues.follow(K), Some(Offset(2)));
        assert_eq!(queues.follow(K), Some(Offset(3)));
        queues.step_back(K, Offset(3));
        queues.step_back(K, Offset(2));
        let order: Vec<_> = std::iter::from_fn(|| queues.leave(K)).collect();
        assert_eq!(order, [Offset(2), Offset(3), Offset(4)]);
    }
}

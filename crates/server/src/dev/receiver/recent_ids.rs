//! Which events were accepted lately: bounded, oldest forgotten first.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
};

const SEEN_MAX: usize = 65_536;

#[derive(Default)]
pub(super) struct RecentIds {
    hasher: RandomState,
    known: Mutex<RecentWindow>,
}

#[derive(Default)]
struct RecentWindow {
    hashes: HashSet<u64>,
    oldest_first: VecDeque<u64>,
}

impl RecentIds {
    pub(super) fn contains(&self, source: &str, id: &str) -> bool {
        let hash = self.hasher.hash_one((source, id));
        self.known.lock().unwrap_or_else(PoisonError::into_inner).hashes.contains(&hash)
    }

    /// Remembers an event; true if it was already known.
    pub(super) fn insert(&self, source: &str, id: &str) -> bool {
        let hash = self.hasher.hash_one((source, id));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.hashes.insert(hash) {
            return true;
        }
        known.oldest_first.push_back(hash);
        if known.oldest_first.len() > SEEN_MAX
            && let Some(oldest) = known.oldest_first.pop_front()
        {
            known.hashes.remove(&oldest);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first_and_memory_is_bounded() {
        let seen = RecentIds::default();
        for number in 0..=SEEN_MAX {
            assert!(!seen.insert("/a", &number.to_string()));
        }
        assert!(!seen.contains("/a", "0"));
        assert!(seen.contains("/a", "1") && seen.insert("/a", &SEEN_MAX.to_string()));
        assert!(!seen.contains("/b", "1"));
        assert_eq!(seen.known.lock().unwrap().oldest_first.len(), SEEN_MAX);
    }
}

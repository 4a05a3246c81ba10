//! One page of a redrive: its letters by key, and their fates.

use std::collections::{BTreeMap, VecDeque};

use fanfare_model::{KeyHash, Offset};
use parking_lot::Mutex;

use crate::dead_letters::{LetterPage, StoredLetter};

/// Fates of the letters of a page so far.
#[derive(Default)]
pub(super) struct Settled {
    settled: Mutex<SettledLetters>,
}

#[derive(Default)]
pub(super) struct SettledLetters {
    /// Not yet replicated.
    pub(super) delivered: Vec<Offset>,
    /// Number of the whole page.
    pub(super) stayed: u64,
    /// Not yet replicated.
    pub(super) last_failure: Option<String>,
}

/// The letters of each key, in their order.
pub(super) fn key_queues(page: LetterPage) -> Vec<VecDeque<StoredLetter>> {
    let mut queues: BTreeMap<KeyHash, VecDeque<StoredLetter>> = BTreeMap::new();
    for letter in page.letters {
        queues.entry(letter.key).or_default().push_back(letter);
    }
    queues.into_values().collect()
}

impl Settled {
    pub(super) fn add_delivered(&self, offset: Offset) {
        self.settled.lock().delivered.push(offset);
    }

    pub(super) fn add_stayed(&self, failure: String) {
        let mut settled = self.settled.lock();
        settled.stayed += 1;
        settled.last_failure = Some(failure);
    }

    /// The delivered letters since the last call, ascending; the number of those that stay remains.
    pub(super) fn take(&self) -> SettledLetters {
        let mut settled = self.settled.lock();
        let mut delivered = std::mem::take(&mut settled.delivered);
        delivered.sort_unstable();
        SettledLetters { delivered, stayed: settled.stayed, last_failure: settled.last_failure.take() }
    }
}

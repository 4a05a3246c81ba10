//! What intake and answers of one stream tell each other: which partitions are held, and how far rounds are settled.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use tokio::sync::watch;

/// Shared by the two halves of one stream.
pub(super) struct Lanes {
    held: Mutex<BTreeSet<u16>>,
    settled_rounds: watch::Sender<u64>,
}

impl Default for Lanes {
    fn default() -> Self {
        Self { held: Mutex::default(), settled_rounds: watch::Sender::new(0) }
    }
}

impl Lanes {
    /// Refuses whatever comes later for these partitions until [`Self::resume`].
    pub(super) fn hold(&self, partitions: impl IntoIterator<Item = u16>) {
        self.held.lock().extend(partitions);
    }

    pub(super) fn held(&self) -> BTreeSet<u16> {
        self.held.lock().clone()
    }

    pub(super) fn resume(&self) {
        self.held.lock().clear();
    }

    /// One more round has its outcome; what it held is held already.
    pub(super) fn settle(&self) {
        self.settled_rounds.send_modify(|rounds| *rounds += 1);
    }

    pub(super) fn settled_rounds(&self) -> watch::Receiver<u64> {
        self.settled_rounds.subscribe()
    }
}

//! How much those who catch up may have under way, so that those who follow do not feel it.
//!
//! Who catches up always has a next event at hand and would take all the time that the processors have. It looks how
//! late it gets its turn again after it gave it away, as that is how late everybody's turn comes, and all who catch up
//! on this node start less at once while that is too long. Against a slow sink the processors are idle and nothing is
//! held back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// A turn that comes later than this is late.
const LAG_MAX: Duration = Duration::from_micros(500);
/// The limit is counted in parts of an attempt.
const PARTS: u32 = 16;
const ATTEMPTS_MAX: u32 = 256;

#[derive(Debug)]
pub(crate) struct Restraint {
    limit: AtomicU32,
    busy: AtomicU32,
}

/// An attempt of someone who catches up, while it is under way.
pub(crate) struct Turn(Arc<Restraint>);

impl Default for Restraint {
    fn default() -> Self {
        Self { limit: AtomicU32::new(ATTEMPTS_MAX * PARTS), busy: AtomicU32::new(0) }
    }
}

impl Restraint {
    /// Whether one who has `own` attempts under way may start another. Everybody may have one, so that nobody has to
    /// be woken by others.
    pub(crate) fn allows(&self, own: usize) -> bool {
        own == 0 || self.busy.load(Ordering::Relaxed) < self.limit.load(Ordering::Relaxed) / PARTS
    }

    pub(crate) fn begin(self: &Arc<Self>) -> Turn {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Turn(self.clone())
    }

    /// Who gave its turn away got it back after this.
    pub(crate) fn felt(&self, lag: Duration) {
        let limit = self.limit.load(Ordering::Relaxed);
        let next = if lag > LAG_MAX {
            (limit - limit / 8).max(PARTS)
        } else {
            (limit + (PARTS * PARTS / limit).max(1)).min(ATTEMPTS_MAX * PARTS)
        };
        // Of two at once either may be lost: there are many.
        self.limit.store(next, Ordering::Relaxed);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_turns_leave_one_attempt_each_and_timely_ones_give_the_others_back() {
        let restraint = Arc::new(Restraint::default());
        let turns: Vec<_> = (0..20).map(|_| restraint.begin()).collect();
        assert!(restraint.allows(20));
        for _ in 0..100 {
            restraint.felt(LAG_MAX * 2);
        }
        assert!(!restraint.allows(1) && restraint.allows(0));
        for _ in 0..10_000 {
            restraint.felt(LAG_MAX / 2);
        }
        assert!(restraint.allows(20));
        drop(turns);
        for _ in 0..100 {
            restraint.felt(LAG_MAX * 2);
        }
        assert!(restraint.allows(1), "nobody has anything under way");
    }
}

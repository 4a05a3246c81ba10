//! How much those who catch up may have under way, so that those who follow do not feel it.
//!
//! Who catches up always has a next event at hand and would take all the time that the processors have. It looks how
//! late it gets its turn again after it gave it away, as that is how late everybody's turn comes, and all who catch up
//! on this node start less at once while that is too long.
//!
//! That says nothing about who takes the time: an attempt that waits for a slow sink takes none, and it may be
//! publishers who take it all. So whoever is held back and comes no nearer to the front may have ever more under way:
//! see [`Headway`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// A turn that comes later than this is late.
const LAG_MAX: Duration = Duration::from_micros(500);
/// The limit is counted in parts of an attempt.
const PARTS: u32 = 16;
const ATTEMPTS_MAX: u32 = 256;
/// Whoever is held back gets on fast enough to be at the front after this: events are kept for longer.
const BEHIND_MAX_S: u64 = 3_600;
/// How long it is held back before that is judged, and judged again.
const JUDGED_AFTER: Duration = Duration::from_secs(1);
/// Most that it may have under way for want of headway.
const OWN_MAX: usize = 256;

#[derive(Debug)]
pub(crate) struct Restraint {
    limit: AtomicU32,
    busy: AtomicU32,
}

/// An attempt of someone who catches up, while it is under way.
pub(crate) struct Turn(Arc<Restraint>);

/// Whether someone who is held back gets on all the same, and what it needs for that.
pub(crate) struct Headway {
    /// What it may have under way however late turns come.
    own: usize,
    /// When it was judged, and the offsets up to the front that were left.
    judged: Option<(Instant, u64)>,
}

impl Default for Restraint {
    fn default() -> Self {
        Self { limit: AtomicU32::new(ATTEMPTS_MAX * PARTS), busy: AtomicU32::new(0) }
    }
}

impl Restraint {
    /// Whether one who has `own` attempts under way may start another. Everybody may have one, so that nobody has to
    /// be woken by others.
    pub(crate) fn allows(&self, own: usize, headway: &Headway) -> bool {
        own < headway.own || self.busy.load(Ordering::Relaxed) < self.limit.load(Ordering::Relaxed) / PARTS
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

impl Default for Headway {
    fn default() -> Self {
        Self { own: 1, judged: None }
    }
}

impl Headway {
    /// It is held back at this moment, with `left` offsets up to the front.
    pub(crate) fn held_back(&mut self, now: Instant, left: u64) {
        let Some((since, before)) = self.judged else {
            self.judged = Some((now, left));
            return;
        };
        let passed = now.duration_since(since);
        if passed < JUDGED_AFTER {
            return;
        }
        let gained = before.saturating_sub(left);
        if gained.saturating_mul(BEHIND_MAX_S) < left.saturating_mul(passed.as_secs()) {
            self.own = (self.own * 2).min(OWN_MAX);
        }
        self.judged = Some((now, left));
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

    fn restrained() -> Arc<Restraint> {
        let restraint = Arc::new(Restraint::default());
        for _ in 0..100 {
            restraint.felt(LAG_MAX * 2);
        }
        restraint
    }

    #[test]
    fn late_turns_leave_one_attempt_each_and_timely_ones_give_the_others_back() {
        let restraint = restrained();
        let headway = Headway::default();
        assert!(restraint.allows(1, &headway), "nobody has anything under way");
        let turns: Vec<_> = (0..20).map(|_| restraint.begin()).collect();
        assert!(!restraint.allows(1, &headway) && restraint.allows(0, &headway));
        for _ in 0..10_000 {
            restraint.felt(LAG_MAX / 2);
        }
        assert!(restraint.allows(20, &headway));
        drop(turns);
    }

    /// How far from the front someone is after an hour whose attempts take 100 ms each, while turns are always late and
    /// `inflow` events are added in that time; and what it may have under way then.
    fn after_an_hour(mut left: u64, inflow: u64) -> (u64, usize) {
        let (restraint, start) = (restrained(), Instant::now());
        let mut headway = Headway::default();
        for tick in 0..36_000 {
            left += inflow;
            let mut turns = Vec::new();
            while left > 0 && restraint.allows(turns.len(), &headway) {
                turns.push(restraint.begin());
                left -= 1;
            }
            if left == 0 {
                break;
            }
            headway.held_back(start + Duration::from_millis(100) * tick, left);
        }
        (left, headway.own)
    }

    #[test]
    fn who_is_held_back_for_ever_catches_up_against_a_slow_sink_with_no_more_than_it_needs() {
        assert_eq!(after_an_hour(20_000, 5), (0, 8), "50 events/s arrive, 8 attempts make 80");
        assert_eq!(after_an_hour(20_000, 10), (0, 16), "100 events/s");
        assert_eq!(after_an_hour(20_000, 0), (0, 1), "10 events/s are enough");
    }

    #[test]
    fn a_large_backlog_that_shrinks_fast_is_held_back_to_one_attempt_all_the_time() {
        let (mut headway, start) = (Headway::default(), Instant::now());
        for second in 0..900 {
            headway.held_back(start + Duration::from_secs(second), 1_000_000 - 1_000 * second);
        }
        assert_eq!(headway.own, 1);
    }
}

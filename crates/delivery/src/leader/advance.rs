//! Replicates progress: the frontier, and what each subscription settled and still has pending, in one entry.
//!
//! An entry has a size. What was newly matched has to go with the frontier that passes it, and the fan-out stops in
//! time for that; who has only settled something may wait, and comes first the next time.

use std::{collections::VecDeque, sync::Arc, sync::atomic::Ordering, time::Duration};

use fanfare_model::Offset;
use fanfare_partition::{Advance, CommandError, CursorAdvance};
use tokio::time::Instant;

use super::{Ended, FRONTIER_INTERVAL, Finished, Scope, cell_of};
use crate::{
    subscription::{Cell, state::Moment},
    worker::ensure_running,
};

/// Of an advance, encoded: an entry of the log.
const ADVANCE_BYTES_MAX: usize = 1 << 20;
/// The part of it for subscriptions with new matches.
pub(super) const MATCHED_BYTES_MAX: usize = ADVANCE_BYTES_MAX / 2;

/// What goes into one advance.
struct Packed {
    cells: Vec<Arc<Cell>>,
    cursors: Vec<CursorAdvance>,
    /// Whoever found no room, in the order of their waiting.
    left: VecDeque<Arc<Cell>>,
}

/// Takes all with new matches, then the others in order while they fit into `bytes_max`, one at least.
fn pack(waiting: impl IntoIterator<Item = Arc<Cell>>, moment: Moment, bytes_max: usize) -> Packed {
    let mut bytes = 0;
    let mut packed = Packed { cells: Vec::new(), cursors: Vec::new(), left: VecDeque::new() };
    let mut others = VecDeque::new();
    for cell in waiting {
        if cell.lock().flight.owes_matches() {
            bytes += packed.take(cell, moment);
        } else {
            others.push_back(cell);
        }
    }
    while let Some(cell) = others.pop_front() {
        bytes += packed.take(cell, moment);
        if bytes >= bytes_max {
            break;
        }
    }
    packed.left = others;
    packed
}

impl Packed {
    /// The bytes that the cell adds, at most.
    fn take(&mut self, cell: Arc<Cell>, moment: Moment) -> usize {
        let mut state = cell.lock();
        state.dirty = false;
        let progress = state.flight.propose(moment);
        drop(state);
        let size_bytes = progress.size_bytes();
        self.cursors.push(CursorAdvance {
            subscription: cell.subscription,
            epoch: cell.epoch,
            matched: progress.matched,
            matched_to: progress.matched_to,
            settled: progress.settled,
            record: progress.record,
        });
        self.cells.push(cell);
        size_bytes
    }
}

impl Scope {
    pub(super) fn advance_is_due(&mut self) -> bool {
        let unreplicated = self.ground.is_dirty() || self.ground.front() > self.commands.frontier;
        if !unreplicated {
            self.commands.waiting_since = None;
            return false;
        }
        if self.commands.waiting_since.is_none() {
            self.commands.waiting_since = Some(Instant::now());
        }
        let urgent = self.ground.urgent.load(Ordering::SeqCst);
        let full = self.commands.matched_bytes >= MATCHED_BYTES_MAX;
        urgent || full || self.draining || self.advance_at().is_some_and(|at| at <= Instant::now())
    }

    pub(super) fn advance_at(&self) -> Option<Instant> {
        let interval = match self.ground.is_dirty() {
            true => Duration::from_millis(self.ground.node.options.advance_interval_ms),
            false => FRONTIER_INTERVAL,
        };
        self.commands.waiting_since.map(|since| since + interval)
    }

    pub(super) fn begin_advance(&mut self) {
        self.ground.urgent.store(false, Ordering::SeqCst);
        self.commands.waiting_since = None;
        let moment = self.ground.moment();
        self.commands.matched_bytes = 0;
        let mut waiting = self.ground.take_dirty();
        waiting.retain(|cell| self.holds(cell));
        let Packed { cells, cursors, left } = pack(waiting, moment, ADVANCE_BYTES_MAX);
        if !left.is_empty() {
            self.ground.put_back(left);
        }
        let frontier = moment.front;
        let advance = Advance { frontier, cursors };
        let (partition, term) = (self.ground.partition.clone(), self.term);
        self.commands.running = Some(Box::pin(async move {
            let result = partition.advance(term, advance).await;
            Finished::Advanced { frontier, cells, result }
        }));
    }

    pub(super) fn advanced(
        &mut self,
        frontier: Offset,
        cells: &[Arc<Cell>],
        result: Result<(), CommandError>,
    ) -> Result<(), Ended> {
        if let Err(error) = result {
            tracing::warn!(partition = %self.ground.partition.id(), %error, "replicate the progress of deliveries");
            return Err(Ended::Failed);
        }
        self.commands.frontier = frontier;
        self.trims.advanced();
        for cell in cells {
            let mut state = cell.lock();
            state.flight.applied();
            if !state.gone && (state.running || !state.flight.is_done()) {
                ensure_running(&self.ground, cell, &mut state.running);
            }
        }
        Ok(())
    }

    /// Whether the cell is the one that is attached, and not one of an earlier epoch.
    fn holds(&self, cell: &Arc<Cell>) -> bool {
        let attached = cell_of(&self.cells, cell.account, cell.subscription);
        attached.is_some_and(|attached| Arc::ptr_eq(attached, cell))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use fanfare_model::{AccountId, KeyHash, SubscriptionId, Timestamp};
    use fanfare_partition::Outcome;
    use fanfare_sinks::Outcome as Answer;

    use super::*;
    use crate::{
        spec::{Choices, tests::attachment},
        subscription::state::tests as flights,
        subscription::window::Held,
    };

    const FRONT: Offset = Offset(10);
    /// Two with nothing unsettled leave some of it.
    const ROOM_FOR_THREE: usize = 300;

    fn moment() -> Moment {
        Moment { now_ms: 0, front: FRONT, random: 1 }
    }

    fn cell(number: u8) -> Arc<Cell> {
        let ids = (SubscriptionId::from_bytes([number; 16]), AccountId::from_bytes([1; 16]), 1);
        let choices = Choices::of(&attachment(&[(0, "order")])).expect("it is a choice");
        Cell::new(ids, flights::following(moment()), choices)
    }

    fn hand_over(cell: &Cell, offset: Offset) {
        let mut state = cell.lock();
        let (key, bytes) = (KeyHash(offset.0), Bytes::from_static(b"event"));
        let held = Held { offset, key, append_time: Timestamp(0), bytes, pin: None };
        assert!(state.flight.counts(offset));
        state.flight.follow(held, moment());
    }

    fn deliver_one(cell: &Cell) {
        let mut state = cell.lock();
        let items = state.flight.next_attempt(0, flights::SINGLE);
        let answers: Vec<_> = items.into_iter().map(|item| (item, Answer::Delivered)).collect();
        assert_eq!(answers.len(), 1);
        state.flight.finish(answers, moment());
    }

    fn apply(packed: &Packed) {
        packed.cells.iter().for_each(|cell| cell.lock().flight.applied());
    }

    fn numbers<'a>(cells: impl IntoIterator<Item = &'a Arc<Cell>>) -> Vec<u8> {
        cells.into_iter().map(|cell| cell.subscription.as_bytes()[0]).collect()
    }

    #[test]
    fn what_is_newly_matched_goes_at_once_and_the_others_take_turns_within_the_size_of_an_entry() {
        let cells: Vec<_> = (0..6).map(cell).collect();
        for cell in &cells {
            hand_over(cell, FRONT);
        }
        let all = pack(cells.iter().cloned(), moment(), 1);
        assert_eq!((numbers(&all.cells), all.left.len()), (vec![0, 1, 2, 3, 4, 5], 0));
        assert!(all.cursors.iter().all(|cursor| cursor.matched == 1));
        apply(&all);
        cells.iter().for_each(|cell| deliver_one(cell));
        hand_over(&cells[4], FRONT.plus(1));

        let first = pack(cells.iter().cloned(), moment(), ROOM_FOR_THREE);
        assert_eq!(numbers(&first.cells), [4, 0, 1], "the one with a new match is the first");
        assert_eq!(numbers(&first.left), [2, 3, 5]);
        apply(&first);
        deliver_one(&cells[4]);
        let waiting = first.left.into_iter().chain([cells[4].clone()]);
        let second = pack(waiting, moment(), ROOM_FOR_THREE);
        assert_eq!(numbers(&second.cells), [2, 3, 5], "who found no room comes first");
        assert_eq!(numbers(&second.left), [4]);
        let delivered = second.cursors.iter().map(|cursor| cursor.settled.get(&Outcome::Delivered).copied());
        assert!(delivered.eq([Some(1); 3]));
    }
}

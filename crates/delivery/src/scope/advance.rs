//! Replicates progress: the frontier, and what each subscription settled and still has pending, in one entry.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use fanfare_model::Offset;
use fanfare_partition::{Advance, CommandError, CursorAdvance};
use tokio::time::Instant;

use super::{Ended, FRONTIER_INTERVAL, Finished, Scope};
use crate::{cell::Cell, task::ensure_running};

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
        urgent || self.draining || self.advance_at().is_some_and(|at| at <= Instant::now())
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
        let mut cells = self.ground.take_dirty();
        cells.retain(|cell| self.holds(cell));
        let cursors = cells.iter().map(|cell| {
            let mut state = cell.lock();
            state.dirty = false;
            let progress = state.flight.propose(moment);
            CursorAdvance {
                subscription: cell.subscription,
                epoch: cell.epoch,
                matched: progress.matched,
                matched_to: progress.matched_to,
                settled: progress.settled,
                record: progress.record,
            }
        });
        let frontier = moment.front;
        let advance = Advance { frontier, cursors: cursors.collect() };
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
        let attached = self.cells.get(&cell.account).and_then(|cells| cells.get(&cell.subscription));
        attached.is_some_and(|attached| Arc::ptr_eq(attached, cell))
    }
}

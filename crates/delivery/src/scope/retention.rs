//! Trims the log where retention wants it, after everything below is settled.

use std::time::Duration;

use fanfare_model::Offset;
use fanfare_partition::{CommandError, Positions};
use tokio::time::Instant;

use super::{Ended, Finished, Scope};
use crate::task::ensure_running;

/// Where the log is to begin, and when it was cut last.
pub(super) struct Trims {
    target: Option<Offset>,
    next_check: Instant,
    trimmed_at: Option<Instant>,
}

impl Default for Trims {
    fn default() -> Self {
        Self { target: None, next_check: Instant::now(), trimmed_at: None }
    }
}

impl Trims {
    pub(super) fn next_check(&self) -> Instant {
        self.next_check
    }
}

impl Scope {
    /// Asks whether retention is due; what is unsettled below its target becomes dead letters.
    pub(super) fn check_retention(&mut self) {
        let now = Instant::now();
        if now < self.trims.next_check {
            return;
        }
        let pace = self.ground.node.pace;
        self.trims.next_check = now + Duration::from_millis(pace.retention_check_ms);
        let interval = Duration::from_millis(pace.trim_interval_ms);
        if self.draining {
            return;
        }
        let lately = self.trims.trimmed_at.is_some_and(|at| now < at + interval);
        let target = self.ground.partition.trim_target();
        self.trims.target = target.filter(|target| !lately || self.frees_much(*target));
        let Some(target) = self.trims.target else { return };
        for cell in self.lead.cells.read().values() {
            let mut state = cell.lock();
            if !state.gone && state.flight.low_water().is_some_and(|oldest| oldest < target) {
                state.flight.expire(target);
                ensure_running(&self.ground, cell, &mut state.running);
            }
        }
    }

    /// A quarter of what is kept is due: the log grows too fast to wait.
    fn frees_much(&self, target: Offset) -> bool {
        let Positions { log_start, high_watermark, .. } = *self.positions.borrow();
        target.since(log_start) >= high_watermark.since(log_start) / 4
    }

    /// Trims if a target is set and everything below it is settled, and known to be by the state machine.
    pub(super) fn begin_trim(&mut self) {
        let Some(target) = self.trims.target else { return };
        let settled = self.commands.frontier >= target
            && !self.ground.is_dirty()
            && self.lead.cells.read().values().all(|cell| {
                let oldest = cell.lock().flight.low_water();
                oldest.is_none_or(|oldest| oldest >= target)
            });
        if !settled {
            return;
        }
        self.trims.target = None;
        let (partition, term) = (self.ground.partition.clone(), self.term);
        let trim = async move { Finished::Trimmed(partition.trim(term, target).await) };
        self.commands.running = Some(Box::pin(trim));
    }

    pub(super) fn trimmed(&mut self, result: Result<Offset, CommandError>) -> Result<(), Ended> {
        match result {
            Ok(log_start) => {
                tracing::debug!(partition = %self.ground.partition.id(), %log_start, "trimmed");
                self.trims.trimmed_at = Some(Instant::now());
                Ok(())
            }
            // Something was matched or put back meanwhile: the next check asks again.
            Err(CommandError::Refused(refusal)) => {
                tracing::debug!(partition = %self.ground.partition.id(), %refusal, "trim");
                Ok(())
            }
            Err(_) => Err(Ended::Failed),
        }
    }
}

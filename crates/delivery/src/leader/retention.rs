//! Trims the log where retention wants it, after everything below is settled.

use std::time::Duration;

use fanfare_model::Offset;
use fanfare_partition::{CommandError, Positions};
use tokio::time::Instant;

use super::{Ended, Finished, Scope};
use crate::worker::ensure_running;

/// Where the log is to begin, and when it was cut last.
pub(super) struct Trims {
    target: Option<Offset>,
    /// What is below the target may have changed since it was looked at.
    look: bool,
    next_check: Instant,
    trimmed_at: Option<Instant>,
    dedup_is_short: bool,
}

impl Default for Trims {
    fn default() -> Self {
        Self {
            target: None,
            look: false,
            next_check: Instant::now(),
            trimmed_at: None,
            dedup_is_short: false,
        }
    }
}

impl Trims {
    pub(super) fn next_check(&self) -> Instant {
        self.next_check
    }

    /// Progress is replicated.
    pub(super) fn advanced(&mut self) {
        self.look = true;
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
        self.tell_dedup();
        let lately = self.trims.trimmed_at.is_some_and(|at| now < at + interval);
        let target = self.ground.partition.trim_target();
        self.trims.target = target.filter(|target| !lately || self.frees_much(*target));
        let Some(target) = self.trims.target else { return };
        self.trims.look = true;
        for cell in self.lead.cells.read().values() {
            let mut state = cell.lock();
            if !state.gone && state.flight.low_water().is_some_and(|oldest| oldest < target) {
                state.flight.expire(target);
                ensure_running(&self.ground, cell, &mut state.running);
            }
        }
    }

    /// Warns when the dedup window begins to be shorter than configured.
    fn tell_dedup(&mut self) {
        let partition = &self.ground.partition;
        let shortened = partition.dedup_shortened_ms();
        if let Some(length_ms) = shortened.filter(|_| !self.trims.dedup_is_short) {
            tracing::warn!(
                partition = %partition.id(),
                length_ms,
                "publish.dedup_bytes is too small for publish.dedup_window: older repeats are taken for new events"
            );
        }
        self.trims.dedup_is_short = shortened.is_some();
    }

    /// A quarter of what is kept is due: the log grows too fast to wait.
    fn frees_much(&self, target: Offset) -> bool {
        let Positions { log_start, high_watermark, .. } = *self.positions.borrow();
        target.since(log_start) >= high_watermark.since(log_start) / 4
    }

    /// Trims if a target is set and everything below it is settled. What is settled here and not replicated yet makes
    /// the state machine refuse; waiting for a moment without any of that would be waiting for deliveries to cease.
    pub(super) fn begin_trim(&mut self) {
        let Some(target) = self.trims.target.filter(|_| self.trims.look) else { return };
        self.trims.look = false;
        let settled = self.commands.frontier >= target
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
            // Something below is not replicated as settled: the next check asks again.
            Err(CommandError::Refused(refusal)) => {
                tracing::debug!(partition = %self.ground.partition.id(), %refusal, "trim");
                Ok(())
            }
            Err(_) => Err(Ended::Failed),
        }
    }
}

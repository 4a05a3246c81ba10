//! Trims the log where retention wants it, after everything below is settled.

use std::time::Duration;

use fanfare_environment::{Bug, planted};
use fanfare_model::Offset;
use fanfare_partition::{CommandError, Positions};
use tokio::time::Instant;

use super::{Exit, Finished, PartitionLeader};
use crate::subscription::event::SubscriptionEvent;

/// Where the log is to begin, and when it was cut last.
pub(super) struct Trims {
    target: Option<Offset>,
    /// True if events below the target may have changed since the last look.
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

impl PartitionLeader {
    /// Asks whether retention is due; what is unsettled below its target becomes dead letters.
    pub(super) fn check_retention(&mut self) {
        let now = Instant::now();
        if now < self.trims.next_check {
            return;
        }
        let intervals = self.context.delivery.intervals;
        self.trims.next_check = now + Duration::from_millis(intervals.retention_check_ms);
        let interval = Duration::from_millis(intervals.trim_interval_ms);
        if self.draining {
            return;
        }
        self.tell_dedup();
        let lately = self.trims.trimmed_at.is_some_and(|at| now < at + interval);
        let target = self.context.partition.decide_trim(self.context.protected_from());
        self.trims.target = target.filter(|target| !lately || self.frees_much(*target));
        let Some(target) = self.trims.target else { return };
        self.trims.look = true;
        for subscription in self.context.subscriptions().iter() {
            if subscription.lock().machine.low_water().is_some_and(|oldest| oldest < target) {
                self.context.update(subscription, |machine, inputs, actions| {
                    machine.on(SubscriptionEvent::ExpireBelow(target), inputs, actions);
                });
            }
        }
    }

    /// Warns when the dedup window begins to be shorter than configured.
    fn tell_dedup(&mut self) {
        let partition = &self.context.partition;
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
        let settled = self.pipeline.frontier >= target
            && self.context.subscriptions().iter().all(|subscription| {
                let oldest = subscription.lock().machine.low_water();
                oldest.is_none_or(|oldest| oldest >= target)
            });
        if !settled && !planted(Bug::TrimOverUnsettled) {
            return;
        }
        self.trims.target = None;
        let (partition, term) = (self.context.partition.clone(), self.term);
        let trim = async move { Finished::Trimmed(partition.trim(term, target).await) };
        self.pipeline.running = Some(Box::pin(trim));
    }

    pub(super) fn trimmed(&mut self, result: Result<Offset, CommandError>) -> Result<(), Exit> {
        match result {
            Ok(log_start) => {
                self.pipeline.check_trim(log_start);
                tracing::debug!(partition = %self.context.partition.id(), %log_start, "trimmed");
                self.trims.trimmed_at = Some(Instant::now());
                Ok(())
            }
            // Something below is not replicated as settled: the next check asks again.
            Err(CommandError::Refused(refusal)) => {
                tracing::debug!(partition = %self.context.partition.id(), %refusal, "trim was refused; retrying with the next check");
                Ok(())
            }
            Err(_) => Err(Exit::Failed),
        }
    }
}

//! Order among appends that are handed over without waiting for each other.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// The order of one producer in one partition: after an append of it fails in a way that a retry may cure, or with an
/// unknown outcome, every later one is refused as [`AppendError::Behind`](crate::AppendError::Behind), those that are
/// queued already included, until the producer reopens the lane and begins again from there.
#[derive(Debug, Default)]
pub struct Lane {
    /// An append was refused where it was handed over: what was queued before it is in order and goes on.
    refused: bool,
    ticket: Ticket,
}

/// What an append of the lane carries; the writer voids it when one of them fails. Shared by all appends between two reopenings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ticket(Arc<AtomicBool>);

impl Lane {
    /// Whether the next append has a chance.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.refused && !self.ticket.is_void()
    }

    /// For what is handed over from now on. What failed, and what was behind it, stays refused.
    pub fn reopen(&mut self) {
        self.refused = false;
        if self.ticket.is_void() {
            self.ticket = Ticket::default();
        }
    }

    pub(crate) fn refuse(&mut self) {
        self.refused = true;
    }

    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket.clone()
    }
}

impl Ticket {
    pub(crate) fn is_void(&self) -> bool {
        // The writer alone decides by it; others only learn of it earlier or later.
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn void(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

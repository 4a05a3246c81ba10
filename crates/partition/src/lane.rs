//! Order among appends that are handed over without waiting for each other.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// The order of one producer in one partition: after an append of it fails in a way that a retry may cure, or with an
/// unknown outcome, every later one is refused as [`AppendError::EarlierFailed`](crate::AppendError::EarlierFailed), those that are
/// queued already included, until the producer reopens the lane and begins again from there.
#[derive(Debug, Default)]
pub struct AppendOrder {
    /// An append was refused where it was handed over: what was queued before it is in order and goes on.
    refused: bool,
    ticket: OrderToken,
}

/// What an append of the lane carries; the writer voids it when one of them fails. Shared by all appends between two reopenings.
#[derive(Clone, Debug, Default)]
pub(crate) struct OrderToken(Arc<AtomicBool>);

impl AppendOrder {
    /// Whether the next append has a chance.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.refused && !self.ticket.is_void()
    }

    /// For what is handed over from now on. What failed, and what was behind it, stays refused.
    pub fn reopen(&mut self) {
        self.refused = false;
        if self.ticket.is_void() {
            self.ticket = OrderToken::default();
        }
    }

    pub(crate) fn refuse(&mut self) {
        self.refused = true;
    }

    pub(crate) fn ticket(&self) -> OrderToken {
        self.ticket.clone()
    }
}

impl OrderToken {
    pub(crate) fn is_void(&self) -> bool {
        // The writer alone decides by it; others only learn of it earlier or later.
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn void(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

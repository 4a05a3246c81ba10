//! Order among appends that are handed over without waiting for each other.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// The order of one producer's appends in one partition.
///
/// After an append fails in a way that a retry may cure, or with an unknown outcome, every later append of the order,
/// queued ones included, is refused as [`AppendError::EarlierFailed`](crate::AppendError::EarlierFailed) until the
/// producer reopens the order and repeats from the failed append.
#[derive(Debug, Default)]
pub struct AppendOrder {
    /// An append was refused at the hand-over; appends queued before it are in order and go on.
    refused: bool,
    token: OrderToken,
}

/// The mark of an order on each of its appends, shared by all appends between two reopenings. The writer voids it when
/// one of them fails.
#[derive(Clone, Debug, Default)]
pub(crate) struct OrderToken(Arc<AtomicBool>);

impl AppendOrder {
    /// False if the next append is certain to be refused.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.refused && !self.token.is_void()
    }

    /// Opens the order for appends handed over from now on. The failed append and those behind it stay refused.
    pub fn reopen(&mut self) {
        self.refused = false;
        if self.token.is_void() {
            self.token = OrderToken::default();
        }
    }

    pub(crate) fn refuse(&mut self) {
        self.refused = true;
    }

    pub(crate) fn token(&self) -> OrderToken {
        self.token.clone()
    }
}

impl OrderToken {
    pub(crate) fn is_void(&self) -> bool {
        // Relaxed is enough: the writer is the only one to decide by the mark, and the only one to set it.
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn void(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

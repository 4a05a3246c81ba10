//! Dead letters of one subscription on their way to the stream. Pure.

use std::collections::VecDeque;

use super::buffered_event::DeadLetterRequest;

/// Requests not yet begun, and requests of the window's events that failed and wait for another try.
#[derive(Debug, Default)]
pub(super) struct DeadLetterQueue {
    ready: VecDeque<DeadLetterRequest>,
    delayed: Vec<DelayedRequest>,
}

#[derive(Debug)]
struct DelayedRequest {
    retry_at_ms: u64,
    request: DeadLetterRequest,
}

impl DeadLetterQueue {
    pub(super) fn push(&mut self, request: DeadLetterRequest) {
        self.ready.push_back(request);
    }

    pub(super) fn pop(&mut self) -> Option<DeadLetterRequest> {
        self.ready.pop_front()
    }

    pub(super) fn delay(&mut self, request: DeadLetterRequest, retry_at_ms: u64) {
        self.delayed.push(DelayedRequest { retry_at_ms, request });
    }

    /// Requests whose time to try again has come.
    pub(super) fn take_due(&mut self, now_ms: u64) -> impl Iterator<Item = DeadLetterRequest> {
        self.delayed
            .extract_if(.., move |delayed| delayed.retry_at_ms <= now_ms)
            .map(|delayed| delayed.request)
    }

    /// Forgets the delayed requests: their events are attempted again.
    pub(super) fn drop_delayed(&mut self) {
        self.delayed.clear();
    }

    pub(super) fn retry_at_ms(&self) -> Option<u64> {
        self.delayed.iter().map(|delayed| delayed.retry_at_ms).min()
    }
}

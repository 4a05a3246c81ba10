//! Bound on the bytes of events that the node holds between reading a request and answering it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::refusal::Refusal;

/// Refuses at once when full: a queue here would only add latency to requests that are refused later.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    free_bytes: Arc<Semaphore>,
    limit_bytes: u32,
}

impl Admission {
    pub(crate) fn new(limit_bytes: u32) -> Self {
        let permits = usize::try_from(limit_bytes).expect("u32 fits in usize on this platform");
        Self { free_bytes: Arc::new(Semaphore::new(permits)), limit_bytes }
    }

    /// Takes `size_bytes` until the permit is dropped. A request larger than the limit is admitted alone.
    pub(crate) fn admit(&self, size_bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let permits = u32::try_from(size_bytes).unwrap_or(u32::MAX).clamp(1, self.limit_bytes);
        self.free_bytes.clone().try_acquire_many_owned(permits).map_err(|_| Refusal::Overloaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_above_the_limit_are_refused_until_a_permit_is_dropped() {
        let admission = Admission::new(100);
        let first = admission.admit(60).unwrap();
        assert!(matches!(admission.admit(41), Err(Refusal::Overloaded)));
        let second = admission.admit(40).unwrap();
        assert!(matches!(admission.admit(1), Err(Refusal::Overloaded)));
        drop((first, second));
        assert!(admission.admit(1_000).is_ok(), "one oversized request alone is let in");
    }
}

//! Limits of connections: their number, and the bytes that each may send before they are read.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// HTTP/2's own smallest connection window.
const WINDOW_MIN: usize = 65_535;
const FRAME_MIN: usize = 16 << 10;
const FRAME_MAX: usize = 1 << 20;
/// More than this in flight on one connection only adds latency.
const CONNECTION_BYTES_MAX: usize = 5 << 20;
/// Smallest share of a connection.
pub const CONNECTION_BYTES_MIN: usize = WINDOW_MIN + FRAME_MIN;
/// A connection gets this part of the free bytes, so that late connections get a good share, too.
const PART_OF_FREE: usize = 32;

/// Permits for connections. Each has a share of the memory for bytes that were received and not read.
#[derive(Clone)]
pub(super) struct ConnectionLimiter {
    permits: Arc<Semaphore>,
    /// Bytes beyond the smallest share of every connection that no connection has.
    extra_free: Arc<Mutex<usize>>,
}

/// Permit of one connection; given back when dropped.
pub(super) struct ConnectionPermit {
    _permit: OwnedSemaphorePermit,
    extra_free: Arc<Mutex<usize>>,
    extra: usize,
}

impl ConnectionLimiter {
    /// `bytes_max` holds at least [`CONNECTION_BYTES_MIN`] for each of `connections_max`.
    pub(super) fn new(connections_max: usize, bytes_max: usize) -> Self {
        let extra_free = bytes_max.saturating_sub(connections_max.saturating_mul(CONNECTION_BYTES_MIN));
        Self {
            permits: Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS))),
            extra_free: Arc::new(Mutex::new(extra_free)),
        }
    }

    /// None if as many connections are open as there may be.
    pub(super) fn acquire(&self) -> Option<ConnectionPermit> {
        let permit = self.permits.clone().try_acquire_owned().ok()?;
        let mut extra_free = self.extra_free.lock();
        let extra = (*extra_free / PART_OF_FREE).min(CONNECTION_BYTES_MAX - CONNECTION_BYTES_MIN);
        *extra_free -= extra;
        Some(ConnectionPermit { _permit: permit, extra_free: self.extra_free.clone(), extra })
    }
}

impl ConnectionPermit {
    /// Largest frame: HTTP/2 buffers a frame whole before it is read.
    pub(super) fn frame_bytes_max(&self) -> usize {
        (self.share() / 5).clamp(FRAME_MIN, FRAME_MAX)
    }

    /// HTTP/2 credit of the connection.
    pub(super) fn window_bytes(&self) -> usize {
        self.share() - self.frame_bytes_max()
    }

    /// HTTP/2 credit of one stream: a stream that is not read must not hold up the others.
    pub(super) fn stream_window_bytes(&self) -> usize {
        (self.window_bytes() / 2).max(WINDOW_MIN)
    }

    fn share(&self) -> usize {
        CONNECTION_BYTES_MIN + self.extra
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        *self.extra_free.lock() += self.extra;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_connections_together_never_get_more_than_there_is() {
        for (connections_max, bytes_max) in [(512, 256 << 20), (10, 1 << 20), (3, 3 * CONNECTION_BYTES_MIN)] {
            let limiter = ConnectionLimiter::new(connections_max, bytes_max);
            let permits: Vec<ConnectionPermit> = std::iter::from_fn(|| limiter.acquire()).collect();
            assert_eq!(permits.len(), connections_max);
            let granted: usize =
                permits.iter().map(|permit| permit.window_bytes() + permit.frame_bytes_max()).sum();
            assert!(granted <= bytes_max, "{granted} of {bytes_max}");
            for permit in &permits {
                assert!(permit.window_bytes() >= WINDOW_MIN && permit.stream_window_bytes() >= WINDOW_MIN);
                assert!((FRAME_MIN..=FRAME_MAX).contains(&permit.frame_bytes_max()));
            }
        }
    }

    #[test]
    fn a_dropped_permit_gives_its_whole_share_back() {
        let limiter = ConnectionLimiter::new(2, 256 << 20);
        let window = limiter.acquire().map(|permit| permit.window_bytes());
        assert_eq!(window, Some(4 << 20));
        let both = (limiter.acquire(), limiter.acquire());
        assert!(both.0.is_some() && both.1.is_some() && limiter.acquire().is_none());
        drop(both);
        assert_eq!(limiter.acquire().map(|permit| permit.window_bytes()), window);
    }
}

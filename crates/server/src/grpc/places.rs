//! How many connections and requests there may be, and what each may send before it is read.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// HTTP/2's own smallest connection window.
const WINDOW_MIN: usize = 65_535;
const FRAME_MIN: usize = 16 << 10;
const FRAME_MAX: usize = 1 << 20;
/// More than this in flight on one connection only adds latency.
const SHARE_MAX: usize = 5 << 20;
/// The least that a connection is given.
pub(crate) const SHARE_MIN: usize = WINDOW_MIN + FRAME_MIN;
/// A connection gets this part of what is left, so that late ones get a good share too.
const PART_OF_FREE: usize = 32;

/// Places for connections. Each comes with a share of the memory for bytes that were received and not read.
#[derive(Clone)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    shares: Arc<Mutex<Shares>>,
}

struct Shares {
    /// Above what every connection gets at least.
    extra_free: usize,
}

/// A connection's place; free again when dropped.
pub(super) struct Place {
    _place: OwnedSemaphorePermit,
    shares: Arc<Mutex<Shares>>,
    extra: usize,
}

impl Places {
    /// `bytes_max` holds at least [`SHARE_MIN`] for each of `connections_max`.
    pub(super) fn new(connections_max: usize, bytes_max: usize) -> Self {
        let extra_free = bytes_max.saturating_sub(connections_max.saturating_mul(SHARE_MIN));
        Self {
            free: Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS))),
            shares: Arc::new(Mutex::new(Shares { extra_free })),
        }
    }

    /// None when all are taken.
    pub(super) fn take(&self) -> Option<Place> {
        let place = self.free.clone().try_acquire_owned().ok()?;
        let mut shares = self.shares.lock();
        let extra = (shares.extra_free / PART_OF_FREE).min(SHARE_MAX - SHARE_MIN);
        shares.extra_free -= extra;
        Some(Place { _place: place, shares: self.shares.clone(), extra })
    }
}

impl Place {
    /// The largest frame: it is buffered whole before it is looked at.
    pub(super) fn frame_bytes_max(&self) -> usize {
        (self.share() / 5).clamp(FRAME_MIN, FRAME_MAX)
    }

    /// HTTP/2 credit of the connection.
    pub(super) fn window_bytes(&self) -> usize {
        self.share() - self.frame_bytes_max()
    }

    /// HTTP/2 credit of one stream: one that is not read must not hold up the others.
    pub(super) fn stream_window_bytes(&self) -> usize {
        (self.window_bytes() / 2).max(WINDOW_MIN)
    }

    fn share(&self) -> usize {
        SHARE_MIN + self.extra
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shares.lock().extra_free += self.extra;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_connections_together_never_get_more_than_there_is() {
        for (connections_max, bytes_max) in [(512, 256 << 20), (10, 1 << 20), (3, 3 * SHARE_MIN)] {
            let places = Places::new(connections_max, bytes_max);
            let taken: Vec<Place> = std::iter::from_fn(|| places.take()).collect();
            assert_eq!(taken.len(), connections_max);
            let granted: usize =
                taken.iter().map(|place| place.window_bytes() + place.frame_bytes_max()).sum();
            assert!(granted <= bytes_max, "{granted} of {bytes_max}");
            for place in &taken {
                assert!(place.window_bytes() >= WINDOW_MIN && place.stream_window_bytes() >= WINDOW_MIN);
                assert!((FRAME_MIN..=FRAME_MAX).contains(&place.frame_bytes_max()));
            }
        }
    }

    #[test]
    fn a_place_that_is_left_is_as_good_as_new() {
        let places = Places::new(2, 256 << 20);
        let window = places.take().map(|place| place.window_bytes());
        assert_eq!(window, Some(4 << 20));
        let both = (places.take(), places.take());
        assert!(both.0.is_some() && both.1.is_some() && places.take().is_none());
        drop(both);
        assert_eq!(places.take().map(|place| place.window_bytes()), window);
    }
}

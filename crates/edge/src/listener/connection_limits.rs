//! Limits of connections: their number, and the bytes that each may send before they are read.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fanfare_fairness::{FairLimiter, FairPermit};
use fanfare_model::AccountId;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

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

/// Longest wait for the place of a connection that was closed for another one.
const EVICTION_WAIT_MAX: Duration = Duration::from_secs(1);

/// Permits for connections. Each has a share of the memory for bytes that were received and not read.
///
/// A connection without a key gives way, the oldest first, when there is no place for a new one; a client that has a
/// key shows it with its first call. Accounts leave a quarter of all places to connections without a key.
#[derive(Clone)]
pub(super) struct ConnectionLimiter(Arc<Places>);

struct Places {
    permits: Arc<Semaphore>,
    /// Bytes beyond the smallest share of every connection that no connection has.
    extra_free: Mutex<usize>,
    accounts: FairLimiter<AccountId>,
    keyless: Mutex<KeylessConnections>,
}

/// Connections that have not shown a key, in the order in which they were accepted.
#[derive(Default)]
struct KeylessConnections {
    next: u64,
    evictions: BTreeMap<u64, CancellationToken>,
}

/// Permit of one connection; given back when dropped.
pub(super) struct ConnectionPermit {
    places: Arc<Places>,
    number: u64,
    evicted: CancellationToken,
    extra: usize,
    account: Mutex<Option<FairPermit<AccountId>>>,
    _permit: OwnedSemaphorePermit,
}

impl ConnectionLimiter {
    /// `bytes_max` holds at least [`CONNECTION_BYTES_MIN`] for each of `connections_max`.
    pub(super) fn new(connections_max: usize, bytes_max: usize) -> Self {
        let connections_max = connections_max.min(Semaphore::MAX_PERMITS);
        let extra_free = bytes_max.saturating_sub(connections_max.saturating_mul(CONNECTION_BYTES_MIN));
        let accounts_max = (connections_max - connections_max / 4).max(1);
        Self(Arc::new(Places {
            permits: Arc::new(Semaphore::new(connections_max)),
            extra_free: Mutex::new(extra_free),
            accounts: FairLimiter::new(accounts_max, accounts_max),
            keyless: Mutex::default(),
        }))
    }

    /// None if as many connections are open as there may be, all of them with a key.
    pub(super) async fn acquire(&self) -> Option<Arc<ConnectionPermit>> {
        let Places { permits, extra_free, keyless, .. } = &*self.0;
        let permit = match permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let (_, oldest) = keyless.lock().evictions.pop_first()?;
                oldest.cancel();
                timeout(EVICTION_WAIT_MAX, permits.clone().acquire_owned()).await.ok()?.ok()?
            }
        };
        let extra = {
            let mut extra_free = extra_free.lock();
            let extra = (*extra_free / PART_OF_FREE).min(CONNECTION_BYTES_MAX - CONNECTION_BYTES_MIN);
            *extra_free -= extra;
            extra
        };
        let evicted = CancellationToken::new();
        let mut keyless = keyless.lock();
        let number = keyless.next;
        keyless.next += 1;
        keyless.evictions.insert(number, evicted.clone());
        drop(keyless);
        let (places, account) = (self.0.clone(), Mutex::default());
        Some(Arc::new(ConnectionPermit { places, number, evicted, extra, account, _permit: permit }))
    }
}

impl ConnectionPermit {
    /// A call with a key of `account` arrived. False if the account has its share of the connections without this one.
    pub(super) fn belongs_to(&self, account: AccountId) -> bool {
        let mut held = self.account.lock();
        if held.is_none() {
            *held = self.places.accounts.try_acquire(account, 1);
            if held.is_some() {
                self.places.keyless.lock().evictions.remove(&self.number);
            }
        }
        held.is_some()
    }

    /// Ends when the connection must give way to another one.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

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
        *self.places.extra_free.lock() += self.extra;
        self.places.keyless.lock().evictions.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(number: u8) -> AccountId {
        AccountId::from_bytes([number; 16])
    }

    async fn with_key(limiter: &ConnectionLimiter, number: u8) -> Option<Arc<ConnectionPermit>> {
        let permit = limiter.acquire().await?;
        permit.belongs_to(account(number)).then_some(permit)
    }

    #[tokio::test]
    async fn all_connections_together_never_get_more_than_there_is() {
        for (connections_max, bytes_max) in [(512, 256 << 20), (10, 1 << 20), (3, 3 * CONNECTION_BYTES_MIN)] {
            let limiter = ConnectionLimiter::new(connections_max, bytes_max);
            let mut permits = Vec::new();
            for _ in 0..connections_max {
                permits.push(limiter.acquire().await.unwrap());
            }
            let granted: usize =
                permits.iter().map(|permit| permit.window_bytes() + permit.frame_bytes_max()).sum();
            assert!(granted <= bytes_max, "{granted} of {bytes_max}");
            for permit in &permits {
                assert!(permit.window_bytes() >= WINDOW_MIN && permit.stream_window_bytes() >= WINDOW_MIN);
                assert!((FRAME_MIN..=FRAME_MAX).contains(&permit.frame_bytes_max()));
            }
        }
    }

    #[tokio::test]
    async fn a_dropped_permit_gives_its_whole_share_back() {
        let limiter = ConnectionLimiter::new(2, 256 << 20);
        let window = limiter.acquire().await.map(|permit| permit.window_bytes());
        assert_eq!(window, Some(4 << 20));
        let both = (limiter.acquire().await, limiter.acquire().await);
        assert!(both.0.is_some() && both.1.is_some());
        drop(both);
        assert_eq!(limiter.acquire().await.map(|permit| permit.window_bytes()), window);
        assert!(limiter.0.keyless.lock().evictions.is_empty());
    }

    #[tokio::test]
    async fn connections_of_one_account_leave_room_for_others() {
        let limiter = ConnectionLimiter::new(512, 256 << 20);
        let mut held = Vec::new();
        while let Some(permit) = with_key(&limiter, 1).await {
            held.push(permit);
        }
        assert_eq!(held.len(), 192);
        assert!(with_key(&limiter, 2).await.is_some());
    }

    #[tokio::test]
    async fn connections_without_a_key_give_way_to_the_newest() {
        let limiter = ConnectionLimiter::new(4, 4 * CONNECTION_BYTES_MIN);
        let keyed = with_key(&limiter, 1).await.unwrap();
        let mut keyless = Vec::new();
        for _ in 0..3 {
            keyless.push(limiter.acquire().await.unwrap());
        }
        let oldest = keyless.remove(0);
        let (newest, ()) = tokio::join!(with_key(&limiter, 2), async {
            oldest.evicted().await;
            drop(oldest);
        });
        assert!(newest.is_some() && !keyed.evicted.is_cancelled());
    }
}

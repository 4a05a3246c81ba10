//! Events of one kind, the receiver that takes them, and the account of what became of each.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use super::{
    event_pool::EventPool,
    ledger::{Balance, DeliveryLedger},
    load::{self, Load, LoadResult, Signals},
    receiver::{Receiver, ReceiverState},
};
use fanfare_client::Client;

use crate::failure::Failure;

pub(super) struct DeliveryRun {
    pool: Arc<EventPool>,
    pub(super) ledger: Arc<DeliveryLedger>,
    pub(super) signals: Signals,
    account: Arc<ReceiverState>,
    receiver: Receiver,
}

impl DeliveryRun {
    /// Takes the events of `pool`, no more than `load` has, but those of the first `failing_keys` keys.
    pub(super) async fn start(pool: EventPool, load: &Load, failing_keys: usize) -> Result<Self, Failure> {
        let (pool, signals) = (Arc::new(pool), Signals::new());
        let events = load.requests() * u64::from(load.batch);
        let ledger = Arc::new(DeliveryLedger::new(events, Instant::now()));
        (0..events)
            .filter(|number| pool.key(*number) < failing_keys)
            .for_each(|number| ledger.refused(number));
        let account = ReceiverState::open(&pool, &ledger, &signals, failing_keys);
        let receiver = Receiver::start(account.clone()).await?;
        Ok(Self { pool, ledger, signals, account, receiver })
    }

    /// True while the receiver refuses every request.
    pub(super) fn refuse(&self, refuses: bool) {
        self.account.refuses.store(refuses, Ordering::Release);
    }

    /// Requests that were refused for their keys.
    pub(super) fn failed_requests(&self) -> u64 {
        self.account.failed_requests.load(Ordering::Acquire)
    }

    pub(super) fn url(&self) -> String {
        self.receiver.url()
    }

    pub(super) async fn drive(&self, clients: &[Client], load: Load) -> Result<LoadResult, Failure> {
        load::drive(clients, load, self.pool.clone(), Some(self.ledger.clone()), &self.signals).await
    }

    pub(super) async fn finish(self) -> Balance {
        self.receiver.stop().await;
        self.ledger.balance()
    }
}

//! Works on the redrives of one partition of `dead-letters` while this node leads it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use fanfare_model::{Offset, RedriveId};
use fanfare_partition::{CommandError, Partition, Redrive, RedriveKind, RedriveProgress, RedriveState};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    filter::DeadLetterFilter,
    letter::{LetterFate, LetterSender},
    page::{Settled, SettledLetters, key_queues},
};
use crate::{
    context::DeliveryContext,
    dead_letters::{DeadLetterError, LetterPage},
    leadership,
};

/// Interval between looks for redrives, besides those that are told.
const LOOK: Duration = Duration::from_secs(1);
/// Interval at which the progress within a page is replicated, and a cancellation is noticed.
const PROGRESS: Duration = Duration::from_millis(200);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Redrives of a partition that are worked on at once; others wait.
const AT_ONCE_MAX: usize = 16;

/// Reason why the work on a redrive pauses.
#[derive(Debug, thiserror::Error)]
enum WorkError {
    #[error(transparent)]
    Letters(#[from] DeadLetterError),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Choice(#[from] fanfare_codec::Malformed),
}

/// The work on one redrive.
struct RedriveWork {
    context: Arc<DeliveryContext>,
    partition: Partition,
    term: u64,
    id: RedriveId,
}

/// Runs until `cancel`, or until delivery drains.
pub(crate) async fn run(context: Arc<DeliveryContext>, partition: Partition, cancel: CancellationToken) {
    let mut role = partition.role();
    loop {
        let Some(term) = leadership::gained(&mut role, &context, &cancel).await else { return };
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = leadership::lost(&mut role, term) => {}
            () = work_on_all(&context, &partition, term) => return,
        }
    }
}

/// Ends when delivery drains, after the progress of each redrive is replicated.
async fn work_on_all(context: &Arc<DeliveryContext>, partition: &Partition, term: u64) {
    let mut running = FuturesUnordered::new();
    let mut known = BTreeSet::new();
    while !context.draining.is_cancelled() || !running.is_empty() {
        let is_draining = context.draining.is_cancelled();
        let redrives = if is_draining { Vec::new() } else { partition.redrives().running() };
        for redrive in redrives {
            let id = redrive.start.id;
            if known.len() < AT_ONCE_MAX && known.insert(id) {
                let work = RedriveWork { context: context.clone(), partition: partition.clone(), term, id };
                running.push(work.run());
            }
        }
        tokio::select! {
            biased;
            Some(ended) = running.next(), if !running.is_empty() => {
                known.remove(&ended);
            }
            () = context.draining.cancelled(), if !is_draining => {}
            () = context.redrive_started.notified() => {}
            () = sleep(LOOK) => {}
        }
    }
}

impl RedriveWork {
    async fn run(self) -> RedriveId {
        while !self.context.draining.is_cancelled()
            && let Some(redrive) = self.running()
        {
            if let Err(error) = self.work_on_page(&redrive).await {
                let (id, partition) = (self.id, self.partition.id());
                tracing::warn!(redrive = %id, %partition, %error, "failed to go on with a redrive; retrying in a second");
                self.context.draining.run_until_cancelled(sleep(RETRY)).await;
                break;
            }
        }
        self.id
    }

    fn running(&self) -> Option<Redrive> {
        self.partition.redrives().get(self.id).filter(|redrive| redrive.state == RedriveState::Running)
    }

    async fn work_on_page(&self, redrive: &Redrive) -> Result<(), WorkError> {
        let start = &redrive.start;
        let filter = DeadLetterFilter::decode(&start.filter)?;
        let takes = |letter: &_| filter.takes(letter);
        let letters = &self.context.dead_letters;
        let page = letters.page(&self.partition, start, redrive.position..redrive.end, takes).await?;
        match start.kind {
            RedriveKind::Purge => {
                let withdrawn = page.letters.iter().map(|stored| stored.offset).collect();
                self.advance(page.next, SettledLetters { delivered: withdrawn, ..SettledLetters::default() })
                    .await
            }
            RedriveKind::Deliver => {
                let view = self.context.catalog.view();
                let account = view.account(start.account);
                if account.is_none_or(|account| !account.subscriptions.contains_key(&start.subscription)) {
                    self.partition.redrives().cancel(self.id, start.account).await?;
                    return Ok(());
                }
                self.deliver(redrive, page).await
            }
        }
    }

    /// Sends the letters of a page, one of each key at a time, and replicates their fates.
    async fn deliver(&self, redrive: &Redrive, page: LetterPage) -> Result<(), WorkError> {
        let (next, stop, settled) = (page.next, CancellationToken::new(), Settled::default());
        let sender =
            LetterSender { context: &self.context, redrive, lease: self.partition.lease(), stop: &stop };
        let mut keys: FuturesUnordered<_> = key_queues(page)
            .into_iter()
            .map(|queue| async {
                for stored in queue {
                    match sender.send(&stored).await {
                        LetterFate::Delivered => settled.add_delivered(stored.offset),
                        LetterFate::Stays(why) => settled.add_stayed(why),
                        LetterFate::Unsettled => return,
                    }
                }
            })
            .collect();
        let mut ticks = interval(PROGRESS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                ended = keys.next() => if ended.is_none() {
                    break;
                },
                _ = ticks.tick() => {
                    if self.context.draining.is_cancelled() || self.running().is_none() {
                        stop.cancel();
                        continue;
                    }
                    let so_far = settled.take();
                    if !so_far.delivered.is_empty() {
                        self.advance(redrive.position, SettledLetters { stayed: 0, ..so_far }).await?;
                    }
                }
            }
        }
        let rest = settled.take();
        if stop.is_cancelled() {
            // Letters that were taken leave the list; all others are sent again, or stay if the redrive is cancelled.
            return self.advance(redrive.position, SettledLetters { stayed: 0, ..rest }).await;
        }
        self.advance(next, rest).await
    }

    async fn advance(&self, position: Offset, settled: SettledLetters) -> Result<(), WorkError> {
        let SettledLetters { delivered, stayed, last_failure } = settled;
        let progress = RedriveProgress { id: self.id, position, withdrawn: delivered, stayed, last_failure };
        Ok(self.partition.redrives().advance(self.term, progress).await?)
    }
}

//! Replicates progress: the frontier, and what each subscription settled and still has pending, in one entry.
//!
//! An entry has a size. A newly matched event has to go with the frontier that passes it, and the fan-out stops in
//! time for that; a subscription that has only settled events may wait, and comes first the next time.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use fanfare_model::{Offset, SubscriptionId};
use fanfare_partition::{Advance, CommandError, CursorAdvance};
use tokio::time::Instant;

use super::{Exit, FRONTIER_INTERVAL, Finished, PartitionLeader};
use crate::subscription::{
    InputValues, Subscription,
    event::{Actions, SubscriptionEvent},
};

/// Encoded size of an advance: an entry of the log.
const ADVANCE_BYTES_MAX: usize = 1 << 20;
/// The part of an advance for subscriptions with new matches.
pub(super) const MATCHED_BYTES_MAX: usize = ADVANCE_BYTES_MAX / 2;

/// The content of one advance.
struct AdvanceBatch {
    subscriptions: Vec<Arc<Subscription>>,
    cursors: Vec<CursorAdvance>,
    /// Subscriptions that found no room, in the order of their waiting.
    unfit: VecDeque<Arc<Subscription>>,
    lost: Vec<LostEvents>,
}

/// Matched events that a damaged log no longer has.
struct LostEvents {
    subscription: SubscriptionId,
    count: u64,
}

impl AdvanceBatch {
    /// Takes all subscriptions with new matches, then the others in order while they fit into `bytes_max`, one at
    /// least.
    fn pack(
        waiting: impl IntoIterator<Item = Arc<Subscription>>,
        values: InputValues,
        bytes_max: usize,
    ) -> Self {
        let mut bytes = 0;
        let mut batch =
            Self { subscriptions: Vec::new(), cursors: Vec::new(), unfit: VecDeque::new(), lost: Vec::new() };
        let mut others = VecDeque::new();
        for subscription in waiting {
            if subscription.lock().machine.has_unproposed_matches() {
                bytes += batch.add(subscription, values);
            } else {
                others.push_back(subscription);
            }
        }
        while let Some(subscription) = others.pop_front() {
            bytes += batch.add(subscription, values);
            if bytes >= bytes_max {
                break;
            }
        }
        batch.unfit = others;
        batch
    }

    /// Upper bound of the bytes that the subscription adds.
    fn add(&mut self, subscription: Arc<Subscription>, values: InputValues) -> usize {
        let mut locked = subscription.lock();
        locked.progress_queued = false;
        let progress =
            locked.run(values, &mut Actions::default(), |machine, inputs, _| machine.propose(inputs));
        drop(locked);
        if progress.lost > 0 {
            self.lost.push(LostEvents { subscription: subscription.id, count: progress.lost });
        }
        progress.check(values.fan_out_offset);
        let size_bytes = progress.size_bytes();
        self.cursors.push(CursorAdvance {
            subscription: subscription.id,
            epoch: subscription.epoch,
            matched: progress.matched,
            matched_to: progress.matched_to,
            settled: progress.settled,
            record: progress.record,
        });
        self.subscriptions.push(subscription);
        size_bytes
    }
}

impl PartitionLeader {
    pub(super) fn advance_is_due(&mut self) -> bool {
        let unreplicated =
            !self.context.progress.is_empty() || self.context.fan_out_offset() > self.pipeline.frontier;
        if !unreplicated {
            self.pipeline.waiting_since = None;
            return false;
        }
        if self.pipeline.waiting_since.is_none() {
            self.pipeline.waiting_since = Some(Instant::now());
        }
        let urgent = self.context.progress.is_urgent();
        let full = self.pipeline.matched_bytes >= MATCHED_BYTES_MAX;
        urgent || full || self.draining || self.advance_at().is_some_and(|at| at <= Instant::now())
    }

    pub(super) fn advance_at(&self) -> Option<Instant> {
        let interval = match !self.context.progress.is_empty() {
            true => Duration::from_millis(self.context.delivery.options.advance_interval_ms),
            false => FRONTIER_INTERVAL,
        };
        self.pipeline.waiting_since.map(|since| since + interval)
    }

    pub(super) fn begin_advance(&mut self) {
        self.pipeline.waiting_since = None;
        self.pipeline.matched_bytes = 0;
        let mut waiting = self.context.progress.take();
        waiting.retain(|subscription| self.is_attached(subscription));
        // The fan-out runs in this task: the frontier stays while the batch is packed.
        let values = self.context.input_values();
        let frontier = values.fan_out_offset;
        let batch = AdvanceBatch::pack(waiting, values, ADVANCE_BYTES_MAX);
        let AdvanceBatch { subscriptions, cursors, unfit, lost } = batch;
        for LostEvents { subscription, count } in lost {
            tracing::error!(
                partition = %self.context.partition.id(), %subscription, count,
                "matched events are missing in the log after a restart; counted as cancelled"
            );
        }
        if !unfit.is_empty() {
            self.context.progress.put_back(unfit);
        }
        self.pipeline.check_advance(frontier);
        let advance = Advance { frontier, cursors };
        let (partition, term) = (self.context.partition.clone(), self.term);
        self.pipeline.running = Some(Box::pin(async move {
            let result = partition.advance(term, advance).await;
            Finished::Advanced { frontier, subscriptions, result }
        }));
    }

    pub(super) fn advanced(
        &mut self,
        frontier: Offset,
        subscriptions: &[Arc<Subscription>],
        result: Result<(), CommandError>,
    ) -> Result<(), Exit> {
        if let Err(error) = result {
            let partition = self.context.partition.id();
            tracing::warn!(%partition, %error, "failed to replicate progress; restarting the partition's delivery");
            return Err(Exit::Failed);
        }
        // Only now: a frontier that may be lost again must not let the log be trimmed.
        self.pipeline.frontier = frontier;
        self.trims.advanced();
        for subscription in subscriptions {
            self.context.update(subscription, |machine, inputs, actions| {
                machine.on(SubscriptionEvent::Advanced, inputs, actions);
            });
        }
        Ok(())
    }

    /// The subscription is attached, and is not one of an earlier epoch.
    fn is_attached(&self, subscription: &Arc<Subscription>) -> bool {
        let subscriptions = self.context.subscriptions();
        let attached = subscriptions.get(subscription.account, subscription.id);
        attached.is_some_and(|attached| Arc::ptr_eq(attached, subscription))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use fanfare_model::{AccountId, KeyHash, SubscriptionId, Timestamp};
    use fanfare_partition::Outcome;
    use fanfare_sinks::Outcome as Answer;

    use super::*;
    use crate::{
        filter::{AttachedFilters, tests::attachment},
        subscription::{
            buffered_event::{BufferedEvent, SchemaCheck},
            event::{Action, AttemptResult},
            state::tests as machines,
        },
    };

    const START: Offset = Offset(10);
    /// Two subscriptions with nothing unsettled leave some of it.
    const ROOM_FOR_THREE: usize = 380;

    fn values() -> InputValues {
        InputValues { now_ms: 0, fan_out_offset: START.plus(2), random: 1 }
    }

    fn subscription(number: u8) -> Arc<Subscription> {
        let (id, account) = (SubscriptionId::from_bytes([number; 16]), AccountId::from_bytes([1; 16]));
        let filters = AttachedFilters::of(&attachment(&[(0, "order")])).expect("a filter");
        Subscription::new(id, account, 1, machines::live(START), filters)
    }

    fn on(subscription: &Subscription, event: SubscriptionEvent) -> Vec<Action> {
        let mut actions = Actions::default();
        subscription.lock().run(values(), &mut actions, |machine, inputs, actions| {
            machine.on(event, inputs, actions);
        });
        actions.work
    }

    fn hand_over(subscription: &Subscription, offset: Offset) {
        let (key, bytes) = (KeyHash(offset.0), Bytes::from_static(b"event"));
        let schema = SchemaCheck::Passed(None);
        let event = BufferedEvent { offset, key, append_time: Timestamp(0), bytes, schema };
        on(subscription, SubscriptionEvent::Matched(event));
    }

    fn deliver_one(subscription: &Subscription) {
        let actions = on(subscription, SubscriptionEvent::PermitGranted(machines::SINGLE));
        let [Action::StartAttempt { items, .. }] = <[Action; 1]>::try_from(actions).unwrap() else {
            panic!("an attempt starts")
        };
        let results =
            items.into_iter().map(|item| AttemptResult { item, outcome: Answer::Delivered }).collect();
        on(subscription, SubscriptionEvent::AttemptFinished { results, atomic: false });
    }

    fn apply(batch: &AdvanceBatch) {
        for subscription in &batch.subscriptions {
            on(subscription, SubscriptionEvent::Advanced);
        }
    }

    fn numbers<'a>(subscriptions: impl IntoIterator<Item = &'a Arc<Subscription>>) -> Vec<u8> {
        subscriptions.into_iter().map(|subscription| subscription.id.as_bytes()[0]).collect()
    }

    #[test]
    fn new_matches_go_at_once_and_other_subscriptions_take_turns_within_the_size_of_an_entry() {
        let subscriptions: Vec<_> = (0..6).map(subscription).collect();
        for subscription in &subscriptions {
            hand_over(subscription, START);
        }
        let all = AdvanceBatch::pack(subscriptions.iter().cloned(), values(), 1);
        assert_eq!((numbers(&all.subscriptions), all.unfit.len()), (vec![0, 1, 2, 3, 4, 5], 0));
        assert!(all.cursors.iter().all(|cursor| cursor.matched == 1));
        apply(&all);
        subscriptions.iter().for_each(|subscription| deliver_one(subscription));
        hand_over(&subscriptions[4], START.plus(1));

        let first = AdvanceBatch::pack(subscriptions.iter().cloned(), values(), ROOM_FOR_THREE);
        assert_eq!(numbers(&first.subscriptions), [4, 0, 1], "the one with a new match is the first");
        assert_eq!(numbers(&first.unfit), [2, 3, 5]);
        apply(&first);
        deliver_one(&subscriptions[4]);
        let waiting = first.unfit.into_iter().chain([subscriptions[4].clone()]);
        let second = AdvanceBatch::pack(waiting, values(), ROOM_FOR_THREE);
        assert_eq!(numbers(&second.subscriptions), [2, 3, 5], "subscriptions that found no room come first");
        assert_eq!(numbers(&second.unfit), [4]);
        let delivered = second.cursors.iter().map(|cursor| cursor.settled.get(&Outcome::Delivered).copied());
        assert!(delivered.eq([Some(1); 3]));
    }
}

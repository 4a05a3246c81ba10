//! The work behind a worker's actions: an attempt's deliveries, reads, dead letters.

use std::sync::Arc;

use fanfare_model::Timestamp;
use fanfare_partition::{AppendError, ReadError};
use fanfare_sinks::Delivery;

use super::super::LeaderContext;
use crate::{
    backlog_reader::{BacklogReader, FoundEvents},
    dead_letters::{DeadLetterKey, DeadLetterRecord},
    filter::FilterHistory,
    judgement::AttemptTicket,
    subscription::{
        Subscription,
        buffered_event::{BufferedEvent, DeadLetterRequest, SchemaCheck},
        event::{AttemptResult, ReadAction, ReloadedEvent, SubscriptionEvent},
    },
};

/// A finished action.
pub(super) enum Completion {
    Attempt { results: Vec<AttemptResult>, atomic: bool, ticket: AttemptTicket },
    Read { read: ReadAction, result: Result<ReadResult, ReadError> },
    DeadLetter { request: DeadLetterRequest, result: Result<(), AppendError> },
}

pub(super) enum ReadResult {
    Events(FoundEvents),
    Reloaded(Vec<ReloadedEvent>),
}

pub(super) fn delivery(event: &BufferedEvent, partition: u16) -> Delivery {
    let dataschema = match &event.schema {
        SchemaCheck::Passed(dataschema) => dataschema.clone(),
        SchemaCheck::Unchecked(_) | SchemaCheck::Failed(_) => {
            unreachable!("an event is attempted only after its schema was checked")
        }
    };
    Delivery {
        bytes: event.bytes.clone(),
        offset: event.offset,
        partition,
        key: event.key,
        append_time: event.append_time,
        dataschema,
    }
}

/// Reads for a subscription from the partition's log.
pub(super) async fn read(
    context: Arc<LeaderContext>,
    subscription: Arc<Subscription>,
    read: ReadAction,
    filters: Arc<FilterHistory>,
) -> Completion {
    let reader = BacklogReader {
        partition: &context.partition,
        account: subscription.account,
        filters: &filters,
        chunk_bytes: context.delivery.options.fanout_chunk_bytes,
    };
    let result = match &read {
        ReadAction::Reload(offsets) => reader.reload(offsets).await.map(|events| {
            let reloaded = events.into_iter().map(|(offset, event)| ReloadedEvent { offset, event });
            ReadResult::Reloaded(reloaded.collect())
        }),
        ReadAction::Backlog { from, end } => reader.read_range(*from, *end).await.map(ReadResult::Events),
        ReadAction::ScanKey { key, from, end } => {
            reader.scan_key(*key, *from, *end).await.map(ReadResult::Events)
        }
    };
    Completion::Read { read, result }
}

/// Checks the schemas of events that were read, outside of the lock.
pub(super) fn read_event(read: ReadAction, result: ReadResult) -> SubscriptionEvent {
    let check = |event: &mut BufferedEvent| event.schema = event.schema.checked(&event.bytes);
    match (read, result) {
        (_, ReadResult::Reloaded(mut events)) => {
            events.iter_mut().filter_map(|reloaded| reloaded.event.as_mut()).for_each(check);
            SubscriptionEvent::EventsReloaded(events)
        }
        (ReadAction::ScanKey { key, .. }, ReadResult::Events(FoundEvents { mut events, end })) => {
            events.iter_mut().for_each(check);
            SubscriptionEvent::KeyScanned { key, events, scanned_to: end }
        }
        (
            ReadAction::Backlog { .. } | ReadAction::Reload(_),
            ReadResult::Events(FoundEvents { mut events, end }),
        ) => {
            events.iter_mut().for_each(check);
            SubscriptionEvent::BacklogRead { events, end }
        }
    }
}

pub(super) async fn write_dead_letter(
    context: &LeaderContext,
    subscription: &Subscription,
    request: &DeadLetterRequest,
) -> Result<(), AppendError> {
    let event = &request.item.event;
    let key = DeadLetterKey {
        subscription: subscription.id,
        epoch: subscription.epoch,
        partition: context.partition.id().index,
        offset: event.offset,
    };
    let record = DeadLetterRecord {
        key,
        append_time: event.append_time,
        time: Timestamp(context.delivery.clock.unix_ms()),
        attempts: request.attempts,
        reason: request.reason,
        detail: &request.detail,
        event: &event.bytes,
    };
    let dead_letters = &context.delivery.dead_letters;
    match dead_letters.append(subscription.account, event.key, &record).await {
        // An earlier leader may have written the dead letter without replicating the progress: the event is settled
        // as dead-lettered then, and not a second time as over quota.
        Err(AppendError::OverQuota { .. })
            if event.offset < context.inherited_below
                && dead_letters.contains(subscription.account, &key).await =>
        {
            Ok(())
        }
        result => result,
    }
}

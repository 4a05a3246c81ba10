//! The work behind a worker's actions: an attempt's deliveries, reads, dead letters.

use std::{sync::Arc, time::Duration};

use fanfare_model::Offset;
use fanfare_partition::{AppendError, ReadError, Reason};
use fanfare_sinks::Delivery;
use tokio::time::sleep;

use super::super::LeaderContext;
use crate::{
    backlog_reader::{BacklogReader, FoundEvents},
    dead_letters::{DeadLetterKey, DeadLetterRecord},
    filter::FilterHistory,
    judgement::AttemptTicket,
    subscription::{
        Subscription,
        buffered_event::{BufferedEvent, DeadLetterRequest, SchemaCheck},
        event::{AttemptResult, CheckedEvent, ReadAction, ReloadedEvent, ScannedKey, SubscriptionEvent},
    },
};

/// Pause after a look for a dead letter that failed.
const LOOK_RETRY: Duration = Duration::from_secs(1);

/// A finished action.
pub(super) enum Completion {
    Attempt { results: Vec<AttemptResult>, atomic: bool, ticket: AttemptTicket },
    Read { read: ReadAction, result: Result<ReadResult, ReadError> },
    DeadLetter { request: DeadLetterRequest, result: Result<(), AppendError> },
    Checked(Vec<CheckedEvent>),
}

pub(super) enum ReadResult {
    Events(FoundEvents),
    Reloaded(Vec<ReloadedEvent>),
    /// The error is that of the keys marked as failed.
    Keys {
        keys: Vec<ScannedKey>,
        error: Option<ReadError>,
    },
}

impl ReadResult {
    fn events_mut(&mut self) -> Vec<&mut BufferedEvent> {
        match self {
            Self::Events(found) => found.events.iter_mut().collect(),
            Self::Reloaded(events) => {
                events.iter_mut().filter_map(|reloaded| reloaded.event.as_mut()).collect()
            }
            Self::Keys { keys, .. } => keys.iter_mut().flat_map(|key| &mut key.events).collect(),
        }
    }
}

pub(super) fn delivery(event: &BufferedEvent, partition: u16) -> Delivery {
    let dataschema = match &event.schema {
        SchemaCheck::Passed(dataschema) => dataschema.clone(),
        SchemaCheck::Unchecked(_) | SchemaCheck::Failed(_) | SchemaCheck::DeadLettered(_) => {
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
    let mut result = match &read {
        ReadAction::Reload(offsets) => reader.reload(offsets).await.map(|events| {
            let reloaded = events.into_iter().map(|(offset, event)| ReloadedEvent { offset, event });
            ReadResult::Reloaded(reloaded.collect())
        }),
        ReadAction::Backlog { from, end } => reader.read_range(*from, *end).await.map(ReadResult::Events),
        ReadAction::ScanKeys { keys, end, bytes_max } => {
            let (keys, error) = reader.scan_keys(keys, *end, *bytes_max).await;
            Ok(ReadResult::Keys { keys, error })
        }
    };
    for event in result.iter_mut().flat_map(ReadResult::events_mut) {
        if let Some(reason) = written_reason(&context, &subscription, event.offset).await {
            event.schema = SchemaCheck::DeadLettered(reason);
        }
    }
    Completion::Read { read, result }
}

/// Checks events of the window, and looks for dead letters that an earlier leader wrote.
pub(super) async fn check_inherited(
    context: Arc<LeaderContext>,
    subscription: Arc<Subscription>,
    events: Vec<BufferedEvent>,
) -> Completion {
    let mut checked = Vec::with_capacity(events.len());
    for BufferedEvent { offset, bytes, schema, .. } in events {
        let written = written_reason(&context, &subscription, offset).await;
        let schema = written.map_or_else(|| schema.checked(&bytes), SchemaCheck::DeadLettered);
        checked.push(CheckedEvent { offset, schema });
    }
    Completion::Checked(checked)
}

/// The reason of the event's dead letter, if an earlier leader wrote one and could not replicate that. Delivered after
/// that, the event would be counted as delivered and be listed among the dead letters. Waits until the stream can be read.
async fn written_reason(
    context: &LeaderContext,
    subscription: &Subscription,
    offset: Offset,
) -> Option<Reason> {
    if !context.may_have_letter(offset) || !subscription.take_letter_look() {
        return None;
    }
    let key = letter_key(context, subscription, offset);
    loop {
        match context.delivery.dead_letters.reason_of(subscription.account, &key).await {
            Ok(reason) => return reason,
            Err(error) => {
                let id = subscription.id;
                tracing::warn!(subscription = %id, %offset, %error, "failed to look for a dead letter; trying again in a second");
                sleep(LOOK_RETRY).await;
            }
        }
    }
}

fn letter_key(context: &LeaderContext, subscription: &Subscription, offset: Offset) -> DeadLetterKey {
    DeadLetterKey {
        subscription: subscription.id,
        epoch: subscription.epoch,
        partition: context.partition.id().index,
        offset,
    }
}

/// Checks the schemas of events that were read, outside of the lock.
pub(super) fn read_event(mut result: ReadResult) -> SubscriptionEvent {
    for event in result.events_mut() {
        event.schema = event.schema.checked(&event.bytes);
    }
    match result {
        ReadResult::Reloaded(events) => SubscriptionEvent::EventsReloaded(events),
        ReadResult::Keys { keys, .. } => SubscriptionEvent::KeysScanned(keys),
        ReadResult::Events(FoundEvents { events, end }) => SubscriptionEvent::BacklogRead { events, end },
    }
}

/// Writes the dead letter, unless it is written already: then the reason of `request` becomes the written one.
pub(super) async fn write_dead_letter(
    context: &LeaderContext,
    subscription: &Subscription,
    request: &mut DeadLetterRequest,
) -> Result<(), AppendError> {
    let event = &request.item.event;
    // Settled as it was written, and not a second time, as over quota or for another reason.
    if let Some(reason) = written_reason(context, subscription, event.offset).await {
        request.reason = reason;
        return Ok(());
    }
    let record = DeadLetterRecord {
        key: letter_key(context, subscription, event.offset),
        append_time: event.append_time,
        time: context.partition.now(),
        attempts: request.attempts,
        reason: request.reason,
        detail: &request.detail,
        event: &event.bytes,
    };
    context.delivery.dead_letters.append(subscription.account, event.key, &record).await
}

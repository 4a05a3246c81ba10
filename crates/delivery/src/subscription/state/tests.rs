//! The state machine against a model of the log.

mod batches;
mod dead_letters;
mod endings;
mod outage_matrix;
mod properties;
mod sinks;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fanfare_model::AccountId;
use fanfare_partition::{ParkedKey, RecordChange};
use fanfare_sinks::{Abilities, Failure, Outcome as Answer};

use self::world::{How, Work, World};
use super::{
    super::{
        buffered_event::DeadLetterRequest,
        event::{Action, AttemptResult, DeadLetterFailure, KeyScan},
    },
    *,
};
use crate::{
    RetryPolicy,
    judgement::{CircuitBreaker, Outage},
};

const WINDOW: usize = 6;
pub(crate) const SINGLE: Abilities = Abilities {
    batch_events_max: 1,
    batch_bytes_max: 1 << 20,
    event_bytes_max: 1 << 20,
    keeps_key_order_in_batch: true,
    atomic_batch: true,
};

fn options() -> Arc<DeliveryOptions> {
    let retry = RetryPolicy {
        initial_ms: 10,
        max_ms: 50,
        factor: 2.0,
        attempts_max: Some(3),
        rejections_min: 3,
        rejected_for_min_ms: 100,
        probe_initial_ms: 10,
        probe_max_ms: 40,
    };
    Arc::new(DeliveryOptions {
        window_events: WINDOW,
        window_bytes: 1 << 20,
        advance_interval_ms: 50,
        sink_concurrency: 4,
        retry,
        parked_keys_max: 2,
        fanout_chunk_bytes: 1 << 10,
    })
}

fn attachment(matched_to: Option<Offset>) -> Attachment {
    Attachment {
        subscription: SubscriptionId::from_bytes([1; 16]),
        account: AccountId::from_bytes([2; 16]),
        epoch: 1,
        from: Offset::ZERO,
        filters: [].into(),
        matched_to,
    }
}

/// A live subscription with nothing pending, where the fan-out stands at `fan_out_offset`.
pub(crate) fn live(fan_out_offset: Offset) -> SubscriptionState {
    let values = InputValues { now_ms: 0, fan_out_offset, random: 1 };
    SubscriptionState::restore(options(), &attachment(None), Counters::default(), None, values)
}

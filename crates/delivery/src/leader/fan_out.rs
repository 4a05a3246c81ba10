//! Reads each entry once and hands each subscription the events it matches. Never waits for a subscription.
//!
//! A match has to be replicated with the frontier that passes the event, in one entry. So the fan-out stops when an
//! entry's worth of subscriptions has matches, until these are on their way.

use std::{cell::OnceCell, collections::HashSet, sync::Arc};

use bytes::Bytes;
use fanfare_model::{AccountId, Event, Offset};
use fanfare_partition::{ReadChunk, ReadError, StoredBatch, StoredEvent};

use super::{PartitionLeader, advance::MATCHED_BYTES_MAX};
use crate::{
    filter::{AccountIndex, SchemaPin, SlotId},
    subscription::{
        Subscription,
        buffered_event::{BufferedEvent, detached},
        event::SubscriptionEvent,
    },
};

/// Matches after which those of a subscription are handed over, under one lock.
const MATCHES_MAX: usize = 256;

/// A chunk, and the accounts it was read for.
pub(super) struct FollowedRead {
    pub(super) chunk: Result<ReadChunk, ReadError>,
    pub(super) followed: Arc<HashSet<AccountId>>,
}

/// An event that at least one subscription matches.
struct Chosen {
    event: StoredEvent,
    /// One copy for all subscriptions.
    bytes: OnceCell<Bytes>,
}

/// A subscription that matches an event.
struct Match<'a> {
    slot: SlotId,
    /// Index among the chosen events.
    event: usize,
    pin: &'a Option<Arc<SchemaPin>>,
}

impl PartitionLeader {
    pub(super) fn fan_out(&mut self, read: &FollowedRead, chunk: &ReadChunk) {
        // An account that nobody followed when the reading began was left out of it.
        if chunk.next <= self.context.fan_out_offset() || !Arc::ptr_eq(&read.followed, self.index.followed())
        {
            return;
        }
        let mut matched_bytes = self.pipeline.matched_bytes;
        let mut end = chunk.next;
        for batch in &chunk.batches {
            if let Some(filters) = self.index.account(batch.account) {
                let passed = self.hand_over(batch, filters, &mut matched_bytes);
                if matched_bytes >= MATCHED_BYTES_MAX {
                    end = passed;
                    break;
                }
            }
        }
        self.context.set_fan_out_offset(end);
        self.pipeline.matched_bytes = matched_bytes;
    }

    /// Hands the batch over from its first event on; gives the end of what was.
    fn hand_over(
        &self,
        batch: &StoredBatch,
        filters: &AccountIndex<Arc<Subscription>>,
        matched_bytes: &mut usize,
    ) -> Offset {
        let mut chosen: Vec<Chosen> = Vec::new();
        let mut matches: Vec<Match<'_>> = Vec::new();
        for event in batch.events() {
            let end = event.offset.plus(1);
            let Ok(event_type) = Event::type_of(&event.bytes) else { continue };
            let before = matches.len();
            filters.match_event(event_type, event.offset, |found| {
                matches.push(Match { slot: found.slot, event: chosen.len(), pin: &found.pin });
            });
            if matches.len() == before {
                continue;
            }
            chosen.push(Chosen { event, bytes: OnceCell::new() });
            if matches.len() >= MATCHES_MAX {
                self.context.set_fan_out_offset(end);
                *matched_bytes += self.deliver(batch, filters, &chosen, &mut matches);
                chosen.clear();
                if *matched_bytes >= MATCHED_BYTES_MAX {
                    return end;
                }
            }
        }
        self.context.set_fan_out_offset(batch.end());
        *matched_bytes += self.deliver(batch, filters, &chosen, &mut matches);
        batch.end()
    }

    /// Empties `matches`: each subscription gets its events in order. What they add to the next advance, in bytes.
    fn deliver(
        &self,
        batch: &StoredBatch,
        filters: &AccountIndex<Arc<Subscription>>,
        chosen: &[Chosen],
        matches: &mut Vec<Match<'_>>,
    ) -> usize {
        let mut added = 0;
        // By slot, so that the order does not depend on the lists of the index. Stable: the events of a subscription stay
        // in their order.
        matches.sort_by_key(|found| found.slot);
        for group in matches.chunk_by(|one, other| one.slot == other.slot) {
            let subscription = filters.subscription(group[0].slot);
            added += self.context.update(subscription, |machine, inputs, actions| {
                for Match { event, pin, .. } in group {
                    let Chosen { event, bytes } = &chosen[*event];
                    let StoredEvent { offset, append_time, header, .. } = *event;
                    if !machine.takes(offset) {
                        machine.on(SubscriptionEvent::MatchedBehind(offset), inputs, actions);
                        continue;
                    }
                    let bytes = bytes.get_or_init(|| detached(&event.bytes, batch.size_bytes())).clone();
                    let schema = self.context.check_of(offset, (*pin).clone());
                    let buffered = BufferedEvent { offset, key: header.key, append_time, bytes, schema };
                    machine.on(SubscriptionEvent::Matched(buffered), inputs, actions);
                }
                machine.newly_matched_bytes(group.len())
            });
        }
        matches.clear();
        added
    }
}

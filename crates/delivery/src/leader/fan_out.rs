//! Reads each entry once and hands each subscription the events it matches. Never waits for a subscription.
//!
//! A match has to be replicated with the frontier that passes the event, in one entry. So the fan-out stops when an
//! entry's worth of subscriptions has matches, until these are on their way.

use std::{cell::OnceCell, collections::HashSet, ops::Range, sync::Arc};

use bytes::Bytes;
use fanfare_model::{AccountId, Event, Offset};
use fanfare_partition::{ReadChunk, ReadError, StoredBatch, StoredEvent};

use super::{PartitionLeader, advance::MATCHED_BYTES_MAX};
use crate::{
    index::{Choices, MatchIndex},
    schema_pin::Pin,
    subscription::{
        Subscription,
        buffered_event::{BufferedEvent, SchemaCheck, detached},
        event::SubscriptionEvent,
    },
};

pub(super) type Index = MatchIndex<Arc<Subscription>, Wish>;

/// Events of one type that a subscription wants: among those of a part of the log, at this schema version.
pub(super) struct Wish {
    pub(super) span: Range<Offset>,
    pub(super) pin: Option<Arc<Pin>>,
}

/// Matches after which those of a subscription are handed over, under one lock.
const MATCHES_MAX: usize = 256;

/// A chunk, and the accounts it was read for.
pub(super) struct FollowedRead {
    pub(super) chunk: Result<ReadChunk, ReadError>,
    pub(super) followed: Arc<HashSet<AccountId>>,
}

/// An event that somebody chose.
struct Chosen {
    event: StoredEvent,
    /// Copied for those who hold it.
    bytes: OnceCell<Bytes>,
}

/// (place of the subscription, place of the event, at which schema version)
type Match<'a> = (usize, usize, &'a Option<Arc<Pin>>);

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
            if let Some(choices) = self.index.account(batch.account) {
                let passed = self.hand_over(batch, choices, &mut matched_bytes);
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
        choices: &Choices<Arc<Subscription>, Wish>,
        matched_bytes: &mut usize,
    ) -> Offset {
        let mut chosen: Vec<Chosen> = Vec::new();
        let mut matches: Vec<Match<'_>> = Vec::new();
        for event in batch.events() {
            let end = event.offset.plus(1);
            let Ok(parsed) = Event::parse(&event.bytes) else { continue };
            let targets = choices.targets(parsed.event_type).iter();
            let targets = targets.filter(|target| target.wish.span.contains(&event.offset));
            let before = matches.len();
            matches.extend(targets.map(|target| (target.place, chosen.len(), &target.wish.pin)));
            if matches.len() == before {
                continue;
            }
            chosen.push(Chosen { event, bytes: OnceCell::new() });
            if matches.len() >= MATCHES_MAX {
                self.context.set_fan_out_offset(end);
                *matched_bytes += self.deliver(batch, choices.subscriptions(), &chosen, &mut matches);
                chosen.clear();
                if *matched_bytes >= MATCHED_BYTES_MAX {
                    return end;
                }
            }
        }
        self.context.set_fan_out_offset(batch.end());
        *matched_bytes += self.deliver(batch, choices.subscriptions(), &chosen, &mut matches);
        batch.end()
    }

    /// Empties `matches`: each subscription gets its events in order. What they add to the next advance, in bytes.
    fn deliver(
        &self,
        batch: &StoredBatch,
        subscriptions: &[Arc<Subscription>],
        chosen: &[Chosen],
        matches: &mut Vec<Match<'_>>,
    ) -> usize {
        let mut added = 0;
        // Stable: the events of a subscription stay in their order.
        matches.sort_by_key(|(place, _, _)| *place);
        for group in matches.chunk_by(|(one, ..), (other, ..)| one == other) {
            let subscription = &subscriptions[group[0].0];
            added += self.context.update(subscription, |machine, inputs, actions| {
                for (_, place, pin) in group {
                    let Chosen { event, bytes } = &chosen[*place];
                    let StoredEvent { offset, append_time, header, .. } = *event;
                    if !machine.takes(offset) {
                        machine.on(SubscriptionEvent::MatchedBehind(offset), inputs, actions);
                        continue;
                    }
                    let bytes = bytes.get_or_init(|| detached(&event.bytes, batch.size_bytes())).clone();
                    let schema = SchemaCheck::of((*pin).clone());
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

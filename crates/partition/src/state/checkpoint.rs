//! The accumulated state as bytes: versioned, self-contained, the same on every replica of the same log.
//!
//! ```text
//! version u16 | stream u8 (1 events, 2 dead letters) | log start u64 | frontier u64 | last time u64 | anchor? (position 24, next offset u64)
//! count u32, per attached, ascending: subscription 16, account 16, epoch u64, from u64,
//!            count u32, per filter, ascending: from u64, revision u64, size u32, filter
//!            matched_to?, counters, record?
//! count u32, per detached, in order: subscription 16, epoch u64, counters
//! retained bytes as in [`super::usage`]
//! count u32, per redrive, ascending: start as in [`crate::command`], state u8, created u64, updated u64, position u64,
//!            end u64, withdrawn u64, stayed u64, failure text
//! count u32, per range of withdrawn dead letters, ascending: start u64, end u64
//! count u32, per subscription, ascending: subscription 16, redriven u64, purged u64
//! ```
//! Counters and records are encoded as in [`crate::command`]. State derived from the log is not part of it, except the
//! last time, which may stem from an entry that is no longer kept.

use fanfare_codec::{Malformed, Reader, Writer};
use fanfare_model::{AccountId, Offset, Stream, SubscriptionId, Timestamp};
use fanfare_raft::Anchor;

use super::{
    DetachedCounters, PartitionState, SubscriptionLedger, cursor_ledger::CursorLedger, redrives::Redrives,
    usage::RetainedBytes,
};
use crate::{
    AttachedFilter, Attachment, CodecError,
    command::{
        decode_counters, decode_position, decode_record, encode_counters, encode_position, encode_record,
    },
};

const VERSION: u16 = 4;

impl PartitionState {
    pub(crate) fn checkpoint(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u16(VERSION)
            .u8(stream_number(self.retained.stream()))
            .u64(self.log_start.0)
            .u64(self.frontier.0)
            .u64(self.derived.last_time.0);
        out.optional(self.anchor, |out, anchor| {
            encode_position(out, anchor.position);
            out.u64(anchor.next_offset);
        });
        out.count(self.ledgers.len());
        for ledger in self.ledgers.values() {
            encode_attachment(&mut out, &ledger.attachment);
            encode_counters(&mut out, &ledger.counters);
            out.optional(ledger.record().as_ref(), encode_record);
        }
        out.count(self.detached.len());
        for detached in &self.detached {
            out.bytes(detached.subscription.as_bytes()).u64(detached.epoch);
            encode_counters(&mut out, &detached.counters);
        }
        self.retained.encode(&mut out);
        self.redrives.encode(&mut out);
        out.finish()
    }

    /// The state that [`Self::checkpoint`] wrote; derived state begins at the anchor.
    pub(crate) fn restored(bytes: &[u8], stream: Stream) -> Result<Self, CodecError> {
        let mut fields = Reader::new(bytes, "checkpoint");
        match fields.u16()? {
            VERSION => {}
            version => return Err(CodecError::Version { what: "checkpoint", version, known: VERSION }),
        }
        if fields.u8()? != stream_number(stream) {
            return Err(CodecError::Value("stream"));
        }
        let mut state = Self::new(stream);
        state.log_start = Offset(fields.u64()?);
        state.frontier = Offset(fields.u64()?);
        state.derived.last_time = Timestamp(fields.u64()?);
        state.anchor = fields.optional(|fields| {
            Ok::<_, Malformed>(Anchor { position: decode_position(fields)?, next_offset: fields.u64()? })
        })?;
        if let Some(anchor) = state.anchor {
            state.derived.next_offset = Offset(anchor.next_offset);
            state.derived.last_index = anchor.position.index;
        }
        for _ in 0..fields.count(78)? {
            let ledger = SubscriptionLedger {
                attachment: decode_attachment(&mut fields)?,
                counters: decode_counters(&mut fields)?,
                cursor: fields.optional(decode_cursor)?,
            };
            let subscription = ledger.attachment.subscription;
            if state.ledgers.last_key_value().is_some_and(|(last, _)| *last >= subscription) {
                return Err(CodecError::Value("order of subscriptions"));
            }
            if ledger.attachment.filters.len() > 1 {
                state.several_filters.insert(subscription);
            }
            state.ledgers.insert(subscription, ledger);
        }
        let detached = fields.list(36, |fields| {
            Ok::<_, CodecError>(DetachedCounters {
                subscription: SubscriptionId::from_bytes(fields.array()?),
                epoch: fields.u64()?,
                counters: decode_counters(fields)?,
            })
        })?;
        state.detached = detached.into();
        state.retained = RetainedBytes::decode(&mut fields, stream)?;
        state.redrives = Redrives::decode(&mut fields)?;
        fields.finish()?;
        if state.log_start > state.frontier || state.derived.next_offset > state.frontier {
            return Err(CodecError::Value("order of positions"));
        }
        Ok(state)
    }
}

fn stream_number(stream: Stream) -> u8 {
    match stream {
        Stream::Events => 1,
        Stream::DeadLetters => 2,
    }
}

fn decode_cursor(fields: &mut Reader<'_>) -> Result<CursorLedger, CodecError> {
    CursorLedger::restored(decode_record(fields)?)
}

fn encode_attachment(out: &mut Writer, attachment: &Attachment) {
    out.bytes(attachment.subscription.as_bytes()).bytes(attachment.account.as_bytes());
    out.u64(attachment.epoch).u64(attachment.from.0).count(attachment.filters.len());
    for filter in attachment.filters.iter() {
        out.u64(filter.from.0).u64(filter.revision).byte_string(&filter.filter);
    }
    out.optional(attachment.matched_to, |out, offset| {
        out.u64(offset.0);
    });
}

fn decode_attachment(fields: &mut Reader<'_>) -> Result<Attachment, CodecError> {
    Ok(Attachment {
        subscription: SubscriptionId::from_bytes(fields.array()?),
        account: AccountId::from_bytes(fields.array()?),
        epoch: fields.u64()?,
        from: Offset(fields.u64()?),
        filters: decode_filters(fields)?.into(),
        matched_to: fields.optional(|fields| fields.u64().map(Offset))?,
    })
}

fn decode_filters(fields: &mut Reader<'_>) -> Result<Vec<AttachedFilter>, CodecError> {
    let filters = fields.list(20, |fields| {
        Ok::<_, Malformed>(AttachedFilter {
            from: Offset(fields.u64()?),
            revision: fields.u64()?,
            filter: fields.byte_string()?.into(),
        })
    })?;
    if filters.is_empty() || !filters.is_sorted_by(|one, other| one.from < other.from) {
        return Err(CodecError::Value("filters"));
    }
    Ok(filters)
}

//! Control commands: the changes of a partition's accumulated state, each one frame of the log.
//!
//! ```text
//! version u16 | command u8 | fields, little-endian
//! 1 attach   subscription 16 | account 16 | epoch u64 | filter revision u64 | size u32, filter |
//!            start (1 next, 2 earliest, 3 time u64 offset u64)
//! 2 detach   subscription 16 | epoch u64 | reason u8
//! 3 advance  term u64 | frontier u64 | count u32 | per cursor: subscription 16, epoch u64, matched u64,
//!            matched_to?, settled count u32 and (outcome u8, reason u8, events u64) ascending, change?
//!   change   record with the changed keys | count u32, released keys u64
//!   record   read_to u64 | count u32, offsets u64 | count u32, (key u64, from u64, attempts u32, retry_in_ms u64, pending u64) |
//!            outage? (sink revision u64, reason u8, age_ms u64, probes u32, retry_after_ms u64)
//! 4 trim     term u64 | to u64 | position (term u64, leader u64, index u64)
//! 5 start redrive   id 16 | account 16 | subscription 16 | kind u8 | size u32, filter
//! 6 advance redrive term u64 | id 16 | position u64 | count u32, offsets u64 | stayed u64 | failure text?
//! 7 cancel redrive  id 16 | account 16
//! ```
//! `x?` is a byte 0, or a byte 1 and x.

use std::{collections::BTreeMap, sync::Arc};

use fanfare_codec::{Malformed, Reader, Writer};
use fanfare_log::Position;
use fanfare_model::{AccountId, KeyHash, Offset, RedriveId, SubscriptionId, Timestamp};

use crate::{
    Advance, CodecError, Counters, CursorAdvance, CursorRecord, OutageReason, Outcome, ParkedKey, Reason,
    RecordChange, RedriveKind, RedriveProgress, SinkOutage, StartRedrive,
};

/// Kind of the frames that hold a control command.
pub(crate) const KIND: u8 = 2;
const VERSION: u16 = 3;
/// Encoded size of a parked key.
const PARKED_BYTES: usize = 36;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Attach {
        subscription: SubscriptionId,
        account: AccountId,
        epoch: u64,
        filter_revision: u64,
        filter: Arc<[u8]>,
        start: Start,
    },
    Detach {
        subscription: SubscriptionId,
        epoch: u64,
        reason: Reason,
    },
    /// Valid only in an entry of `term`.
    Advance {
        term: u64,
        advance: Advance,
    },
    /// Valid only in an entry of `term`. `to` is the end of the entry at `position`.
    Trim {
        term: u64,
        to: Offset,
        position: Position,
    },
    Redrive(RedriveCommand),
}

/// A change of the redrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RedriveCommand {
    Start(StartRedrive),
    /// Valid only in an entry of `term`.
    Advance {
        term: u64,
        progress: RedriveProgress,
    },
    Cancel {
        id: RedriveId,
        account: AccountId,
    },
}

/// Start of an attachment. A time comes with the offset that the leader resolved it to, which is clamped when applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Next,
    Earliest,
    Time { time: Timestamp, offset: Offset },
}

impl Command {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u16(VERSION);
        match self {
            Self::Attach { subscription, account, epoch, filter_revision, filter, start } => {
                out.u8(1).bytes(subscription.as_bytes()).bytes(account.as_bytes());
                out.u64(*epoch).u64(*filter_revision).byte_string(filter);
                match start {
                    Start::Next => out.u8(1),
                    Start::Earliest => out.u8(2),
                    Start::Time { time, offset } => out.u8(3).u64(time.0).u64(offset.0),
                };
            }
            Self::Detach { subscription, epoch, reason } => {
                out.u8(2).bytes(subscription.as_bytes()).u64(*epoch).u8(*reason as u8);
            }
            Self::Advance { term, advance } => {
                out.u8(3).u64(*term).u64(advance.frontier.0).count(advance.cursors.len());
                advance.cursors.iter().for_each(|cursor| encode_cursor(&mut out, cursor));
            }
            Self::Trim { term, to, position } => {
                out.u8(4).u64(*term).u64(to.0);
                encode_position(&mut out, *position);
            }
            Self::Redrive(RedriveCommand::Start(start)) => encode_start(out.u8(5), start),
            Self::Redrive(RedriveCommand::Advance { term, progress }) => {
                encode_progress(out.u8(6).u64(*term), progress);
            }
            Self::Redrive(RedriveCommand::Cancel { id, account }) => {
                out.u8(7).bytes(id.as_bytes()).bytes(account.as_bytes());
            }
        }
        out.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut fields = Reader::new(bytes, "command");
        match fields.u16()? {
            VERSION => {}
            version => return Err(CodecError::Version { what: "command", version, known: VERSION }),
        }
        let command = match fields.u8()? {
            1 => Self::Attach {
                subscription: SubscriptionId::from_bytes(fields.array()?),
                account: AccountId::from_bytes(fields.array()?),
                epoch: fields.u64()?,
                filter_revision: fields.u64()?,
                filter: fields.byte_string()?.into(),
                start: match fields.u8()? {
                    1 => Start::Next,
                    2 => Start::Earliest,
                    3 => Start::Time { time: Timestamp(fields.u64()?), offset: Offset(fields.u64()?) },
                    _ => return Err(CodecError::Value("start")),
                },
            },
            2 => Self::Detach {
                subscription: SubscriptionId::from_bytes(fields.array()?),
                epoch: fields.u64()?,
                reason: Reason::from_number(fields.u8()?).ok_or(CodecError::Value("reason"))?,
            },
            3 => Self::Advance {
                term: fields.u64()?,
                advance: Advance {
                    frontier: Offset(fields.u64()?),
                    cursors: fields.list(38, decode_cursor)?,
                },
            },
            4 => Self::Trim {
                term: fields.u64()?,
                to: Offset(fields.u64()?),
                position: decode_position(&mut fields)?,
            },
            5 => Self::Redrive(RedriveCommand::Start(decode_start(&mut fields)?)),
            6 => Self::Redrive(RedriveCommand::Advance {
                term: fields.u64()?,
                progress: decode_progress(&mut fields)?,
            }),
            7 => Self::Redrive(RedriveCommand::Cancel {
                id: RedriveId::from_bytes(fields.array()?),
                account: AccountId::from_bytes(fields.array()?),
            }),
            _ => return Err(CodecError::Value("command")),
        };
        fields.finish()?;
        Ok(command)
    }
}

fn encode_cursor(out: &mut Writer, cursor: &CursorAdvance) {
    out.bytes(cursor.subscription.as_bytes()).u64(cursor.epoch).u64(cursor.matched);
    out.optional(cursor.matched_to, |out, offset| {
        out.u64(offset.0);
    });
    encode_settled(out, &cursor.settled);
    out.optional(cursor.record.as_ref(), encode_change);
}

fn decode_cursor(fields: &mut Reader<'_>) -> Result<CursorAdvance, CodecError> {
    Ok(CursorAdvance {
        subscription: SubscriptionId::from_bytes(fields.array()?),
        epoch: fields.u64()?,
        matched: fields.u64()?,
        matched_to: fields.optional(|fields| fields.u64().map(Offset))?,
        settled: decode_settled(fields)?,
        record: fields.optional(decode_change)?,
    })
}

fn encode_settled(out: &mut Writer, settled: &BTreeMap<Outcome, u64>) {
    out.count(settled.len());
    for (outcome, events) in settled {
        let (outcome, reason) = outcome.numbers();
        out.u8(outcome).u8(reason).u64(*events);
    }
}

fn decode_settled(fields: &mut Reader<'_>) -> Result<BTreeMap<Outcome, u64>, CodecError> {
    let mut settled = BTreeMap::new();
    for _ in 0..fields.count(10)? {
        let outcome =
            Outcome::from_numbers(fields.u8()?, fields.u8()?).ok_or(CodecError::Value("outcome"))?;
        if settled.last_key_value().is_some_and(|(last, _)| *last >= outcome) {
            return Err(CodecError::Value("order of outcomes"));
        }
        settled.insert(outcome, fields.u64()?);
    }
    Ok(settled)
}

pub(crate) fn encode_counters(out: &mut Writer, counters: &Counters) {
    out.u64(counters.matched);
    encode_settled(out, &counters.settled);
}

/// Refuses counters that settled more than they matched.
pub(crate) fn decode_counters(fields: &mut Reader<'_>) -> Result<Counters, CodecError> {
    let counters = Counters { matched: fields.u64()?, settled: decode_settled(fields)? };
    let settled = counters.settled.values().try_fold(0_u64, |sum, &events| sum.checked_add(events));
    match settled {
        Some(settled) if settled <= counters.matched => Ok(counters),
        _ => Err(CodecError::Value("counters")),
    }
}

pub(crate) fn encode_record(out: &mut Writer, record: &CursorRecord) {
    encode_named(out, record.read_to, &record.window, &record.parked);
    out.optional(record.outage, encode_outage);
}

pub(crate) fn decode_record(fields: &mut Reader<'_>) -> Result<CursorRecord, CodecError> {
    Ok(CursorRecord {
        read_to: Offset(fields.u64()?),
        window: fields.list(8, |fields| fields.u64().map(Offset))?,
        parked: fields.list(PARKED_BYTES, decode_parked)?,
        outage: fields.optional(decode_outage)?,
    })
}

fn encode_change(out: &mut Writer, change: &RecordChange) {
    encode_named(out, change.read_to, &change.window, &change.parked);
    out.optional(change.outage, encode_outage);
    out.count(change.released.len());
    for key in &change.released {
        out.u64(key.0);
    }
}

fn decode_change(fields: &mut Reader<'_>) -> Result<RecordChange, CodecError> {
    let CursorRecord { read_to, window, parked, outage } = decode_record(fields)?;
    let released = fields.list(8, |fields| fields.u64().map(KeyHash))?;
    Ok(RecordChange { read_to, window, parked, released, outage })
}

fn encode_named(out: &mut Writer, read_to: Offset, window: &[Offset], parked: &[ParkedKey]) {
    out.u64(read_to.0);
    out.count(window.len());
    for offset in window {
        out.u64(offset.0);
    }
    out.count(parked.len());
    for parked in parked {
        out.u64(parked.key.0).u64(parked.from.0).u32(parked.attempts);
        out.u64(parked.retry_in_ms).u64(parked.pending);
    }
}

fn decode_parked(fields: &mut Reader<'_>) -> Result<ParkedKey, Malformed> {
    Ok(ParkedKey {
        key: KeyHash(fields.u64()?),
        from: Offset(fields.u64()?),
        attempts: fields.u32()?,
        retry_in_ms: fields.u64()?,
        pending: fields.u64()?,
    })
}

pub(crate) fn encode_start(out: &mut Writer, start: &StartRedrive) {
    out.bytes(start.id.as_bytes()).bytes(start.account.as_bytes()).bytes(start.subscription.as_bytes());
    out.u8(start.kind as u8).byte_string(&start.filter);
}

pub(crate) fn decode_start(fields: &mut Reader<'_>) -> Result<StartRedrive, CodecError> {
    Ok(StartRedrive {
        id: RedriveId::from_bytes(fields.array()?),
        account: AccountId::from_bytes(fields.array()?),
        subscription: SubscriptionId::from_bytes(fields.array()?),
        kind: RedriveKind::from_number(fields.u8()?).ok_or(CodecError::Value("kind of a redrive"))?,
        filter: fields.byte_string()?.into(),
    })
}

fn encode_progress(out: &mut Writer, progress: &RedriveProgress) {
    out.bytes(progress.id.as_bytes()).u64(progress.position.0).count(progress.withdrawn.len());
    for offset in &progress.withdrawn {
        out.u64(offset.0);
    }
    out.u64(progress.stayed).optional(progress.last_failure.as_ref(), |out, failure| {
        out.text(failure);
    });
}

fn decode_progress(fields: &mut Reader<'_>) -> Result<RedriveProgress, Malformed> {
    Ok(RedriveProgress {
        id: RedriveId::from_bytes(fields.array()?),
        position: Offset(fields.u64()?),
        withdrawn: fields.list(8, |fields| fields.u64().map(Offset))?,
        stayed: fields.u64()?,
        last_failure: fields.optional(|fields| fields.text().map(str::to_owned))?,
    })
}

fn encode_outage(out: &mut Writer, outage: SinkOutage) {
    let SinkOutage { sink_revision, reason, age_ms, probes, retry_after_ms } = outage;
    out.u64(sink_revision).u8(reason as u8).u64(age_ms).u32(probes).u64(retry_after_ms);
}

fn decode_outage(fields: &mut Reader<'_>) -> Result<SinkOutage, CodecError> {
    Ok(SinkOutage {
        sink_revision: fields.u64()?,
        reason: OutageReason::from_number(fields.u8()?).ok_or(CodecError::Value("outage"))?,
        age_ms: fields.u64()?,
        probes: fields.u32()?,
        retry_after_ms: fields.u64()?,
    })
}

pub(crate) fn encode_position(out: &mut Writer, position: Position) {
    out.u64(position.term).u64(position.leader).u64(position.index);
}

pub(crate) fn decode_position(fields: &mut Reader<'_>) -> Result<Position, Malformed> {
    Ok(Position { term: fields.u64()?, leader: fields.u64()?, index: fields.u64()? })
}

#[cfg(test)]
mod tests;

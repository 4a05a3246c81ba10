//! A dead letter: its key and its stored form.
//!
//! ```text
//! magic "FFDL" | version u8 = 2 | subscription 16 | epoch u64 | partition u16 | offset u64 | append_time u64
//! | time u64 | attempts u32 | reason u8 | detail length u32, UTF-8 | event, to the end
//! ```
//! Fields as in `fanfare-codec`, numbers little-endian. The log's checksums cover the record.

use bytes::Bytes;
use fanfare_codec::{Malformed, Reader, Writer};
use fanfare_model::{EventIdHash, Offset, SubscriptionId, Timestamp};
use fanfare_partition::Reason;

const MAGIC: &[u8; 4] = b"FFDL";
const VERSION: u8 = 2;
const FIXED_BYTES: usize = 4 + 1 + 16 + 8 + 2 + 8 + 8 + 8 + 4 + 1 + 4;
const DETAIL_BYTES_MAX: usize = 1024;

/// An event that a subscription could not deliver, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// 32 hex digits; the same for every repeat of the same dead letter.
    pub id: String,
    pub subscription: SubscriptionId,
    /// As in the API and in metrics, e.g. schema_version.
    pub reason: &'static str,
    /// As stored.
    pub(crate) settled_as: Reason,
    /// For people: the failing JSON pointer, or the sink's last answer.
    pub detail: String,
    pub attempts: u32,
    /// Time of the decision that the event is not delivered.
    pub time: Timestamp,
    /// The partition of the stream `events` that stored the event.
    pub partition: u16,
    /// The event's offset in `partition`.
    pub offset: Offset,
    pub append_time: Timestamp,
    /// The producer's bytes.
    pub event: Bytes,
}

/// The identity of a dead letter: one event of one epoch of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeadLetterKey {
    pub(crate) subscription: SubscriptionId,
    pub(crate) epoch: u64,
    pub(crate) partition: u16,
    pub(crate) offset: Offset,
}

impl DeadLetterKey {
    pub(crate) fn id(&self) -> EventIdHash {
        let Self { subscription, epoch, partition, offset } = self;
        EventIdHash::of(&subscription.to_string(), &format!("{epoch}/{partition}/{offset}"))
    }
}

/// A dead letter to be stored.
#[derive(Clone, Debug)]
pub(crate) struct DeadLetterRecord<'a> {
    pub(crate) key: DeadLetterKey,
    pub(crate) append_time: Timestamp,
    pub(crate) time: Timestamp,
    pub(crate) attempts: u32,
    pub(crate) reason: Reason,
    /// Cut to 1 KiB.
    pub(crate) detail: &'a str,
    pub(crate) event: &'a [u8],
}

/// The reason that stored bytes are no dead letter that this program can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("the dead letter has version {0}, this program reads version {VERSION}")]
    Version(u8),
    #[error("the dead letter has the unknown reason {0}")]
    Reason(u8),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl DeadLetterRecord<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let detail = &self.detail[..self.detail.floor_char_boundary(DETAIL_BYTES_MAX)];
        let mut writer = Writer::with_capacity(FIXED_BYTES + detail.len() + self.event.len());
        writer
            .bytes(MAGIC)
            .u8(VERSION)
            .bytes(self.key.subscription.as_bytes())
            .u64(self.key.epoch)
            .u16(self.key.partition)
            .u64(self.key.offset.0)
            .u64(self.append_time.0)
            .u64(self.time.0)
            .u32(self.attempts)
            .u8(self.reason as u8)
            .text(detail)
            .bytes(self.event);
        writer.finish()
    }
}

impl DeadLetter {
    /// The event of the result shares the memory of `bytes`.
    ///
    /// # Errors
    /// If the bytes are malformed, or of a version or with a reason that this program does not know.
    pub(super) fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, "dead letter");
        if reader.array()? != *MAGIC {
            return Err(Malformed("dead letter").into());
        }
        match reader.u8()? {
            VERSION => {}
            version => return Err(DecodeError::Version(version)),
        }
        let key = DeadLetterKey {
            subscription: SubscriptionId::from_bytes(reader.array()?),
            epoch: reader.u64()?,
            partition: reader.u16()?,
            offset: Offset(reader.u64()?),
        };
        let append_time = Timestamp(reader.u64()?);
        let time = Timestamp(reader.u64()?);
        let attempts = reader.u32()?;
        let reason = reader.u8()?;
        let reason = Reason::from_number(reason).ok_or(DecodeError::Reason(reason))?;
        let detail = reader.text()?.to_owned();
        Ok(Self {
            id: format!("{:032x}", key.id().0),
            subscription: key.subscription,
            reason: reason.name(),
            settled_as: reason,
            detail,
            attempts,
            time,
            partition: key.partition,
            offset: key.offset,
            append_time,
            event: bytes.slice_ref(reader.rest()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> DeadLetterRecord<'static> {
        let subscription = SubscriptionId::from_bytes([0xd1; 16]);
        DeadLetterRecord {
            key: DeadLetterKey { subscription, epoch: 7, partition: 3, offset: Offset(258) },
            append_time: Timestamp(1_000),
            time: Timestamp(2_000),
            attempts: 10,
            reason: Reason::AttemptsExhausted,
            detail: "http_status 503: busy",
            event: b"event",
        }
    }

    #[test]
    fn stored_form_is_the_golden_one() {
        let expected = [
            "4646444c02",
            "d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1",
            "0700000000000000",
            "0300",
            "0201000000000000",
            "e803000000000000",
            "d007000000000000",
            "0a000000",
            "02",
            "15000000",
            "687474705f737461747573203530333a2062757379",
            "6576656e74",
        ];
        let hex: String = record().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected.concat());
        assert_eq!(record().key.id(), EventIdHash::of("DFd1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1", "7/3/258"));
    }

    #[test]
    fn dead_letter_is_read_back_and_cut_or_foreign_bytes_are_refused() {
        let bytes = Bytes::from(record().encode());
        let letter = DeadLetter::decode(&bytes).unwrap();
        assert_eq!((letter.reason, letter.attempts, letter.offset), ("attempts_exhausted", 10, Offset(258)));
        assert_eq!((letter.detail.as_str(), letter.event.as_ref()), ("http_status 503: busy", &b"event"[..]));
        let event_at = FIXED_BYTES + record().detail.len();
        let malformed = DecodeError::Malformed(Malformed("dead letter"));
        for length in 0..event_at {
            assert_eq!(DeadLetter::decode(&bytes.slice(..length)), Err(malformed), "{length} bytes");
        }
        let reason_at = FIXED_BYTES - 5;
        for (at, value, error) in
            [(0, b'X', malformed), (4, 3, DecodeError::Version(3)), (reason_at, 99, DecodeError::Reason(99))]
        {
            let mut foreign = bytes.to_vec();
            foreign[at] = value;
            assert_eq!(DeadLetter::decode(&foreign.into()), Err(error), "byte {at}");
        }
    }

    #[test]
    fn every_reason_is_read_back() {
        for number in 1..=u8::MAX {
            let Some(reason) = Reason::from_number(number) else { continue };
            let bytes = Bytes::from(DeadLetterRecord { reason, ..record() }.encode());
            assert_eq!(DeadLetter::decode(&bytes).map(|letter| letter.reason), Ok(reason.name()));
        }
    }
}

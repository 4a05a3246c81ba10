//! A dead letter: its identity and its stored form.
//!
//! ```text
//! magic "FFDL" | version u8 = 1 | subscription 16 | epoch u64 | partition u16 | offset u64 | append_time u64
//! | time u64 | attempts u32 | reason u8 | detail length u16, UTF-8 | event, to the end
//! ```
//! Numbers are little-endian. The log's checksums cover it.

use bytes::{Buf, BufMut, Bytes};
use fanfare_model::{EventIdHash, Offset, SubscriptionId, Timestamp};
use fanfare_partition::Reason;

const MAGIC: &[u8; 4] = b"FFDL";
const VERSION: u8 = 1;
const FIXED_BYTES: usize = 4 + 1 + 16 + 8 + 2 + 8 + 8 + 8 + 4 + 1 + 2;
const DETAIL_BYTES_MAX: usize = 1024;

/// An event that a subscription could not deliver, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// 32 hex digits; the same for every repeat of the same letter.
    pub id: String,
    pub subscription: SubscriptionId,
    /// As in the API and in metrics, e.g. schema_version.
    pub reason: &'static str,
    /// For people: the failing pointer, or the sink's last answer.
    pub detail: String,
    pub attempts: u32,
    /// When it was given up.
    pub time: Timestamp,
    /// Where the event is, or was, stored.
    pub partition: u16,
    pub offset: Offset,
    pub append_time: Timestamp,
    /// As the producer sent it.
    pub event: Bytes,
}

/// What a letter is about; its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) subscription: SubscriptionId,
    pub(crate) epoch: u64,
    pub(crate) partition: u16,
    pub(crate) offset: Offset,
}

impl Origin {
    pub(crate) fn id(&self) -> EventIdHash {
        let Self { subscription, epoch, partition, offset } = self;
        EventIdHash::of(&subscription.to_string(), &format!("{epoch}/{partition}/{offset}"))
    }
}

/// A letter to be stored.
#[derive(Clone, Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) origin: Origin,
    pub(crate) append_time: Timestamp,
    pub(crate) time: Timestamp,
    pub(crate) attempts: u32,
    pub(crate) reason: Reason,
    pub(crate) detail: &'a str,
    pub(crate) event: &'a [u8],
}

impl Draft<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let detail = &self.detail[..self.detail.floor_char_boundary(DETAIL_BYTES_MAX)];
        let mut bytes = Vec::with_capacity(FIXED_BYTES + detail.len() + self.event.len());
        bytes.put_slice(MAGIC);
        bytes.put_u8(VERSION);
        bytes.put_slice(self.origin.subscription.as_bytes());
        bytes.put_u64_le(self.origin.epoch);
        bytes.put_u16_le(self.origin.partition);
        bytes.put_u64_le(self.origin.offset.0);
        bytes.put_u64_le(self.append_time.0);
        bytes.put_u64_le(self.time.0);
        bytes.put_u32_le(self.attempts);
        bytes.put_u8(self.reason as u8);
        bytes.put_u16_le(u16::try_from(detail.len()).expect("a detail is cut to less"));
        bytes.put_slice(detail.as_bytes());
        bytes.put_slice(self.event);
        bytes
    }
}

impl DeadLetter {
    /// None if the bytes are not a letter of a version and reason known here.
    pub(crate) fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.len() < FIXED_BYTES || !bytes.starts_with(MAGIC) || bytes[MAGIC.len()] != VERSION {
            return None;
        }
        bytes.advance(MAGIC.len() + 1);
        let mut subscription = [0; 16];
        bytes.copy_to_slice(&mut subscription);
        let origin = Origin {
            subscription: SubscriptionId::from_bytes(subscription),
            epoch: bytes.get_u64_le(),
            partition: bytes.get_u16_le(),
            offset: Offset(bytes.get_u64_le()),
        };
        let append_time = Timestamp(bytes.get_u64_le());
        let time = Timestamp(bytes.get_u64_le());
        let attempts = bytes.get_u32_le();
        let reason = Reason::from_number(bytes.get_u8())?.name();
        let detail_bytes = usize::from(bytes.get_u16_le());
        if bytes.len() < detail_bytes {
            return None;
        }
        let detail = String::from_utf8(bytes.split_to(detail_bytes).to_vec()).ok()?;
        Some(Self {
            id: format!("{:032x}", origin.id().0),
            subscription: origin.subscription,
            reason,
            detail,
            attempts,
            time,
            partition: origin.partition,
            offset: origin.offset,
            append_time,
            event: bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> Draft<'static> {
        let subscription = SubscriptionId::from_bytes([0xd1; 16]);
        Draft {
            origin: Origin { subscription, epoch: 7, partition: 3, offset: Offset(258) },
            append_time: Timestamp(1_000),
            time: Timestamp(2_000),
            attempts: 10,
            reason: Reason::AttemptsExhausted,
            detail: "http_status 503: busy",
            event: b"event",
        }
    }

    #[test]
    fn the_stored_form_never_changes() {
        let expected = [
            "4646444c01",
            "d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1",
            "0700000000000000",
            "0300",
            "0201000000000000",
            "e803000000000000",
            "d007000000000000",
            "0a000000",
            "02",
            "1500",
            "687474705f737461747573203530333a2062757379",
            "6576656e74",
        ];
        let hex: String = draft().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected.concat());
        assert_eq!(draft().origin.id(), EventIdHash::of("DFd1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1", "7/3/258"));
    }

    #[test]
    fn a_letter_is_read_back_and_everything_cut_or_foreign_is_refused() {
        let bytes = draft().encode();
        let letter = DeadLetter::decode(bytes.clone().into()).unwrap();
        assert_eq!((letter.reason, letter.attempts, letter.offset), ("attempts_exhausted", 10, Offset(258)));
        assert_eq!((letter.detail.as_str(), letter.event.as_ref()), ("http_status 503: busy", &b"event"[..]));
        let text = FIXED_BYTES + draft().detail.len();
        for length in 0..text {
            assert_eq!(DeadLetter::decode(Bytes::copy_from_slice(&bytes[..length])), None, "{length} bytes");
        }
        for (at, value) in [(0, b'X'), (4, 2), (text - 24, 99)] {
            let mut foreign = bytes.clone();
            foreign[at] = value;
            assert_eq!(DeadLetter::decode(foreign.into()), None, "byte {at}");
        }
    }
}

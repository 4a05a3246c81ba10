//! Fillers: entries that stand in the place of lost ones, so that no offset ever names another event.
//!
//! A filler takes the offsets of the lost entry and holds no event. Readers pass over it; delivery settles what a
//! subscription had pending there as unreadable.

use fanfare_model::{AccountId, EventIdHash, KeyHash, Offset};

use crate::RecordHeader;

/// Kind of the frames of fillers.
pub(crate) const KIND: u8 = 3;
/// Owner of lost events. No account has the all-zero id.
pub(crate) const NO_ACCOUNT: AccountId = AccountId::from_bytes([0; 16]);

/// One made-up identity per lost offset: the dedup window is as dense as offsets are.
pub(crate) fn records(base: Offset, count: u32) -> impl ExactSizeIterator<Item = RecordHeader> {
    (0..count).map(move |index| {
        let id = EventIdHash(u128::from(base.plus(index.into()).0));
        RecordHeader { id, key: KeyHash(0), checksum: 0, length: 0 }
    })
}

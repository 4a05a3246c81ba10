//! Keys of the log's secondary index: an entry is found by each account in it and by each event. Keys are stored in index
//! files, so a change needs another version. A key only leads to candidate entries; the reader checks the entry.

use fanfare_log::{Frame, IndexKey, IndexKeys};
use fanfare_model::{AccountId, EventIdHash};
use xxhash_rust::xxh3::xxh3_64;

use crate::entry::{self, Entry};

pub(crate) const INDEX_KEYS: IndexKeys = IndexKeys { version: 1, keys_of };

pub(crate) fn account_key(account: AccountId) -> IndexKey {
    IndexKey(xxh3_64(account.as_bytes()))
}

pub(crate) fn event_key(account: AccountId, id: EventIdHash) -> IndexKey {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(account.as_bytes());
    bytes[16..].copy_from_slice(&id.0.to_le_bytes());
    IndexKey(xxh3_64(&bytes))
}

fn keys_of(frame: &Frame, keys: &mut Vec<IndexKey>) {
    if frame.header.kind != entry::KIND {
        return;
    }
    let Ok(entry) = Entry::decode(&frame.payload, frame.header.count) else {
        // Every lookup leads to this entry, so that the reader learns that it cannot be decoded.
        keys.push(IndexKey::ANY);
        return;
    };
    for section in entry.sections() {
        keys.push(account_key(section.account));
        keys.extend(section.records().map(|record| event_key(section.account, record.id)));
    }
}

#[cfg(test)]
mod tests {
    use fanfare_log::{FrameHeader, Payload, Position};
    use fanfare_model::Offset;

    use super::*;
    use crate::{batch::tests::batch, entry::EntryBuilder};

    fn frame(kind: u8, count: u32, payload: Payload) -> Frame {
        let payload_bytes = u32::try_from(payload.len()).unwrap();
        let position = Position::default();
        let header =
            FrameHeader { kind, position, base_offset: Offset(0).0, count, time_ms: 0, payload_bytes };
        Frame { header, payload }
    }

    fn collected(frame: &Frame) -> Vec<IndexKey> {
        let mut keys = Vec::new();
        keys_of(frame, &mut keys);
        keys
    }

    #[test]
    fn entry_is_found_by_its_accounts_and_by_their_events() {
        let mut entry = EntryBuilder::default();
        entry.push(batch(1, &["a", "b"]));
        entry.push(batch(2, &["a"]));
        let built = entry.finish();
        let (one, two) = (AccountId::from_bytes([1; 16]), AccountId::from_bytes([2; 16]));
        let id = |event| EventIdHash::of("/test", event);
        let expected = [
            account_key(one),
            event_key(one, id("a")),
            event_key(one, id("b")),
            account_key(two),
            event_key(two, id("a")),
        ];
        assert_eq!(collected(&frame(entry::KIND, 3, built.payload.clone())), expected);
        assert_eq!(
            collected(&frame(entry::KIND, 4, built.payload.clone())),
            [IndexKey::ANY],
            "it cannot be read"
        );
        assert_eq!(collected(&frame(entry::KIND + 1, 3, built.payload)), [] as [IndexKey; 0]);
    }

    #[test]
    fn stored_keys_never_change() {
        let account = AccountId::from_bytes([7; 16]);
        assert_eq!(account_key(account), IndexKey(18_341_613_086_114_368_115));
        assert_eq!(event_key(account, EventIdHash(1)), IndexKey(14_854_245_466_674_360_306));
    }
}

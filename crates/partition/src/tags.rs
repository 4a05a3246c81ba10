//! By what the log finds an entry: each account in it, and each event. Stored in index files, so this never changes
//! without another version. Tags only lead to entries; whoever follows them looks at what is there.

use fanfare_log::{Frame, IndexKey, IndexKeys};
use fanfare_model::{AccountId, EventIdHash};
use xxhash_rust::xxh3::xxh3_64;

use crate::entry::{self, Entry};

pub(crate) const TAGGER: IndexKeys = IndexKeys { version: 1, keys_of: tags };

pub(crate) fn account_tag(account: AccountId) -> IndexKey {
    IndexKey(xxh3_64(account.as_bytes()))
}

pub(crate) fn event_tag(account: AccountId, id: EventIdHash) -> IndexKey {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(account.as_bytes());
    bytes[16..].copy_from_slice(&id.0.to_le_bytes());
    IndexKey(xxh3_64(&bytes))
}

fn tags(frame: &Frame, tags: &mut Vec<IndexKey>) {
    if frame.header.kind != entry::KIND {
        return;
    }
    let Ok(entry) = Entry::decode(&frame.payload, frame.header.count) else {
        // Whoever looks for something here must learn that it cannot be read.
        tags.push(IndexKey::ANY);
        return;
    };
    for section in entry.sections() {
        tags.push(account_tag(section.account));
        tags.extend(section.records().map(|record| event_tag(section.account, record.id)));
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

    fn tags_of(frame: &Frame) -> Vec<IndexKey> {
        let mut found = Vec::new();
        tags(frame, &mut found);
        found
    }

    #[test]
    fn an_entry_is_found_by_its_accounts_and_by_each_accounts_events() {
        let mut entry = EntryBuilder::default();
        entry.push(batch(1, &["a", "b"]));
        entry.push(batch(2, &["a"]));
        let built = entry.finish();
        let (one, two) = (AccountId::from_bytes([1; 16]), AccountId::from_bytes([2; 16]));
        let id = |event| EventIdHash::of("/test", event);
        let expected = [
            account_tag(one),
            event_tag(one, id("a")),
            event_tag(one, id("b")),
            account_tag(two),
            event_tag(two, id("a")),
        ];
        assert_eq!(tags_of(&frame(entry::KIND, 3, built.payload.clone())), expected);
        assert_eq!(
            tags_of(&frame(entry::KIND, 4, built.payload.clone())),
            [IndexKey::ANY],
            "it cannot be read"
        );
        assert_eq!(tags_of(&frame(entry::KIND + 1, 3, built.payload)), [] as [IndexKey; 0]);
    }

    #[test]
    fn tags_are_what_they_have_always_been() {
        let account = AccountId::from_bytes([7; 16]);
        assert_eq!(account_tag(account), IndexKey(18_341_613_086_114_368_115));
        assert_eq!(event_tag(account, EventIdHash(1)), IndexKey(14_854_245_466_674_360_306));
    }
}

use std::collections::BTreeMap;

use fanfare_catalog::{Account, EventType, EventTypeStatus, Schema, SchemaVersion, Shard};
use fanfare_model::{AccountId, SubscriptionId, Timestamp};
use fanfare_partition::AttachedFilter;

use super::*;

/// An attachment with one event type per span.
pub(crate) fn attachment(spans: &[(u64, &str)]) -> Attachment {
    let filters = spans.iter().zip(1..).map(|((from, event_type), revision)| AttachedFilter {
        from: Offset(*from),
        revision,
        filter: FilterRecord::from_iter([((*event_type).to_owned(), None)]).encode(),
    });
    Attachment {
        subscription: SubscriptionId::from_bytes([1; 16]),
        account: AccountId::from_bytes([2; 16]),
        epoch: 1,
        from: Offset::ZERO,
        filters: filters.collect(),
        matched_to: None,
    }
}

fn history(attached: &AttachedFilters) -> FilterHistory {
    let spans = attached.spans.iter();
    let spans = spans.map(|(from, record)| (*from, Filter::from_record(record, |_, _| None)));
    FilterHistory { revision: attached.revision, spans: spans.collect() }
}

/// Those of the types "a" to "f" that are matched at each offset.
fn matched(attached: &AttachedFilters, offsets: &[u64]) -> Vec<String> {
    let history = history(attached);
    let matches = |offset: &u64| {
        let filter = history.at(Offset(*offset));
        ["a", "b", "c", "d", "e", "f"].into_iter().filter(|name| filter.match_type(name).is_some()).collect()
    };
    offsets.iter().map(matches).collect()
}

#[test]
fn each_offset_has_the_filter_of_the_time_of_publishing() {
    let attached = AttachedFilters::of(&attachment(&[(3, "a"), (10, "b"), (20, "c")])).unwrap();
    assert_eq!(matched(&attached, &[3, 9, 10, 19, 20, 99]), ["a", "a", "b", "b", "c", "c"]);
    assert_eq!(attached.revision(), 3);
    let history = history(&attached);
    let spans_from = |offset: u64| -> Vec<(u64, u64)> {
        history.from(Offset(offset)).map(|(span, _)| (span.start.0, span.end.0)).collect()
    };
    let expected: [(u64, Vec<_>); 4] = [
        (0, vec![(3, 10), (10, 20), (20, u64::MAX)]),
        (9, vec![(3, 10), (10, 20), (20, u64::MAX)]),
        (10, vec![(10, 20), (20, u64::MAX)]),
        (20, vec![(20, u64::MAX)]),
    ];
    for (offset, spans) in expected {
        assert_eq!(spans_from(offset), spans, "{offset}");
    }
}

#[test]
fn needed_filters_stay_after_the_partition_has_dropped_them() {
    let mut attached = AttachedFilters::of(&attachment(&[(0, "a")])).unwrap();
    attached.change(&attachment(&[(0, "a"), (10, "b")]), Offset(3)).unwrap();
    attached.change(&attachment(&[(10, "b"), (20, "c")]), Offset(9)).unwrap();
    assert_eq!(matched(&attached, &[9, 10, 20]), ["a", "b", "c"]);
    attached.change(&attachment(&[(10, "b"), (20, "c"), (30, "d")]), Offset(20)).unwrap();
    assert_eq!(attached.spans.len(), 2);
    assert_eq!(matched(&attached, &[20, 30]), ["c", "d"]);
    attached.change(&attachment(&[(10, "b"), (20, "c"), (30, "e")]), Offset(20)).unwrap();
    assert_eq!(matched(&attached, &[20, 30]), ["c", "e"], "a filter that never took effect is replaced");
    for at in 4..200 {
        attached.change(&attachment(&[(at * 10, "f")]), Offset(20)).unwrap();
    }
    assert_eq!(attached.spans.len(), FILTERS_MAX);
}

#[test]
fn longest_matching_pattern_decides_and_exact_types_go_first() {
    let record: FilterRecord = [("a.b.c".to_owned(), None)].into_iter().collect();
    let filter = Filter::from_record(&record.with_prefixes(&["a.b.", "x."]), |_, _| None);
    for (event_type, is_matched) in
        [("a.b.c", true), ("a.b.d", true), ("a.b.", false), ("a.b", false), ("a.bc", false), ("x.y.z", true)]
    {
        assert_eq!(filter.match_type(event_type).is_some(), is_matched, "{event_type}");
    }
}

fn account() -> AccountView {
    AccountView {
        account: Account {
            id: AccountId::from_bytes([2; 16]),
            name: "acme".to_owned(),
            shard: Shard { epoch: 1, partitions: vec![0] },
            created: Timestamp(0),
        },
        event_types: BTreeMap::new(),
        schemas: BTreeMap::new(),
        sinks: BTreeMap::new(),
        subscriptions: BTreeMap::new(),
        keys: BTreeMap::new(),
        requests: BTreeMap::new(),
    }
}

#[test]
fn history_is_current_until_a_filter_or_a_span_changes() {
    let mut attached = AttachedFilters::of(&attachment(&[(0, "a")])).unwrap();
    let history = history(&attached);
    let account = account();
    assert!(history.is_current(&attached, &account));
    attached.change(&attachment(&[(0, "a"), (10, "b")]), Offset(3)).unwrap();
    assert!(!history.is_current(&attached, &account));
}

#[test]
fn history_is_current_until_a_pinned_schema_changes() {
    let cache = Arc::new(SchemaCache::new(1 << 20));
    let record = FilterRecord::from_iter([("order".to_owned(), Some(1))]);
    let attached = AttachedFilters { revision: 1, spans: vec![(Offset::ZERO, record)] };
    let mut account = account();
    let unpinned = FilterHistory::new(&attached, &account, &cache);
    assert!(unpinned.is_current(&attached, &account));
    account.event_types.insert("order".to_owned(), Arc::new(event_type("order", "orders")));
    account.schemas.insert("orders".to_owned(), Arc::new(schema("orders")));
    assert!(!unpinned.is_current(&attached, &account), "the version exists now");
    let pinned = FilterHistory::new(&attached, &account, &cache);
    assert!(pinned.is_current(&attached, &account.clone()));
    account.event_types.insert("order".to_owned(), Arc::new(event_type("order", "others")));
    account.schemas.insert("others".to_owned(), Arc::new(schema("others")));
    assert!(!pinned.is_current(&attached, &account), "the type has another schema");
}

fn event_type(name: &str, schema: &str) -> EventType {
    EventType {
        name: name.to_owned(),
        description: String::new(),
        schema: Some(schema.to_owned()),
        status: EventTypeStatus::Available,
        created: Timestamp(0),
        updated: Timestamp(0),
        revision: 1,
    }
}

fn schema(id: &str) -> Schema {
    let version = SchemaVersion { document: "{}".into(), created: Timestamp(0) };
    Schema {
        id: id.to_owned(),
        description: String::new(),
        versions: vec![version],
        created: Timestamp(0),
        revision: 1,
    }
}

//! Which choices of a subscription are kept.

use super::*;
use crate::state::subscription_ledger::FILTERS_MAX;

#[test]
fn filter_is_kept_until_all_below_its_end_is_settled() {
    let mut bench = Bench::new();
    let changed =
        |bench: &mut Bench, revision: u64| filters(&bench.attach(1, 1, revision, Start::Next).unwrap()).len();
    let kept = |bench: &Bench| bench.state.attachment(subscription(1)).unwrap().filters[0].revision;
    assert_eq!(changed(&mut bench, 1), 1);
    bench.append(10);
    assert_eq!(changed(&mut bench, 2), 2);
    bench.append(10);
    assert_eq!(changed(&mut bench, 3), 3);
    let steps = [
        (9, vec![cursor(2, 2, None)], 1, "the fan-out has not matched all of it"),
        (12, vec![], 2, "matched and settled"),
        (15, vec![cursor(2, 0, record(12, &[], &[]))], 2, "unread"),
        (20, vec![cursor(2, 1, record(20, &[13, 17], &[(7, 14, 1)]))], 2, "in the window"),
        (20, vec![cursor(0, 2, record(20, &[], &[(7, 14, 1)]))], 2, "parked"),
        (20, vec![cursor(0, 1, None)], 3, "all settled"),
    ];
    for (frontier, cursors, revision, why) in steps {
        bench.advance(frontier, cursors).unwrap();
        assert_eq!(kept(&bench), revision, "{why}");
        let restored = PartitionState::restored(&bench.state.checkpoint(), Stream::Events).unwrap();
        assert_eq!(restored.several_filters, bench.state.several_filters, "{why}");
    }
    bench.append(5);
    assert_eq!(changed(&mut bench, 4), 2);
    bench.advance(25, vec![]).unwrap();
    assert_eq!(kept(&bench), 4, "the frontier alone");
    assert!(bench.state.several_filters.is_empty());
}

#[test]
fn equal_or_unused_filter_takes_no_room() {
    let mut bench = Bench::new();
    let mut change = |revision, filter: &str, events| {
        let attachment = bench.attach_filter(1, (1, revision), filter.as_bytes(), Start::Next).unwrap();
        bench.append(events);
        filters(&attachment)
            .into_iter()
            .map(|(from, revision, filter)| (from, revision, filter.to_owned()))
            .collect()
    };
    let filter = |from, revision, filter: &str| (from, revision, filter.to_owned());
    let steps: [(_, _, _, Vec<_>); 7] = [
        (1, "a", 3, vec![filter(0, 1, "a")]),
        (2, "a", 3, vec![filter(0, 2, "a")]),
        (3, "b", 0, vec![filter(0, 2, "a"), filter(6, 3, "b")]),
        (4, "c", 0, vec![filter(0, 2, "a"), filter(6, 4, "c")]),
        (5, "a", 0, vec![filter(0, 5, "a")]),
        (6, "b", 1, vec![filter(0, 5, "a"), filter(6, 6, "b")]),
        (4, "d", 1, vec![filter(0, 5, "a"), filter(6, 6, "b")]),
    ];
    for (revision, text, events, expected) in steps {
        let found: Vec<(u64, u64, String)> = change(revision, text, events);
        assert_eq!(found, expected, "{revision}");
    }
}

#[test]
fn more_or_larger_specs_than_are_kept_are_refused_and_change_nothing() {
    let mut bench = Bench::new();
    let large = vec![b'x'; FILTER_BYTES_MAX + 1];
    assert_eq!(bench.attach_filter(1, (1, 1), &large, Start::Next), Err(Refusal::Filter));
    assert_eq!(bench.state.attachment(subscription(1)), None);
    bench.attach_filter(1, (1, 1), &large[1..], Start::Next).unwrap();
    for revision in 2..=FILTERS_MAX as u64 {
        bench.append(1);
        bench.attach(1, 1, revision, Start::Next).unwrap();
    }
    bench.append(1);
    let before = bench.state.attachment(subscription(1)).unwrap();
    assert_eq!(before.filters.len(), FILTERS_MAX);
    assert_eq!(bench.attach(1, 1, 99, Start::Next), Err(Refusal::Filter));
    assert_eq!(bench.attach_filter(1, (1, 99), &large, Start::Next), Err(Refusal::Filter));
    assert_eq!(bench.state.attachment(subscription(1)), Some(before));
    bench.advance(1, vec![]).unwrap();
    bench.attach(1, 1, 99, Start::Next).unwrap();
}

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::filter::FilterRecord;

const ONE: AccountId = AccountId::from_bytes([1; 16]);
const OTHER: AccountId = AccountId::from_bytes([2; 16]);
const ALL: Range<Offset> = Offset::ZERO..Offset(u64::MAX);

fn id(number: u8) -> SubscriptionId {
    SubscriptionId::from_bytes([number; 16])
}

fn filter(types: &[&str], prefixes: &[&str]) -> Filter {
    let record: FilterRecord = types.iter().map(|name| ((*name).to_owned(), None)).collect();
    Filter::from_record(&record.with_prefixes(prefixes), |_, _| None)
}

fn matching<S: Copy + Ord>(
    index: &FilterIndex<S>,
    account: AccountId,
    event_type: &str,
    offset: u64,
) -> Vec<S> {
    let Some(index) = index.account(account) else { return Vec::new() };
    let mut subscriptions = Vec::new();
    index.match_event(event_type, Offset(offset), |found| {
        subscriptions.push(*index.subscription(found.slot));
    });
    subscriptions.sort_unstable();
    subscriptions
}

#[test]
fn event_matches_subscriptions_of_its_account_and_type() {
    let mut index = FilterIndex::default();
    index.insert(ONE, id(1), "a", [(ALL, &Filter::of_types(["x", "y"]))]);
    index.insert(ONE, id(2), "b", [(ALL, &Filter::of_types(["y"]))]);
    index.insert(OTHER, id(3), "c", [(ALL, &Filter::of_types(["x"]))]);
    assert_eq!(matching(&index, ONE, "x", 0), ["a"]);
    assert_eq!(matching(&index, ONE, "y", 0), ["a", "b"]);
    assert_eq!(matching(&index, OTHER, "x", 0), ["c"]);
    assert!(matching(&index, OTHER, "y", 0).is_empty());
    index.insert(ONE, id(2), "b", [(ALL, &Filter::of_types(["x"]))]);
    index.remove(ONE, id(1));
    assert_eq!(matching(&index, ONE, "x", 0), ["b"]);
    assert!(matching(&index, ONE, "y", 0).is_empty());
}

#[test]
fn most_specific_pattern_of_a_subscription_matches_once() {
    let mut index = FilterIndex::default();
    index.insert(ONE, id(1), 1, [(ALL, &filter(&["a.b.c"], &["", "a.", "a.b."]))]);
    index.insert(ONE, id(2), 2, [(ALL, &filter(&[], &["a."]))]);
    for (event_type, subscriptions) in
        [("a.b.c", &[1, 2][..]), ("a.b.d", &[1, 2]), ("a.x", &[1, 2]), ("a", &[1]), ("b", &[1]), ("", &[])]
    {
        assert_eq!(matching(&index, ONE, event_type, 0), subscriptions, "{event_type}");
    }
    let account = index.account(ONE).unwrap();
    account.match_event("a.b.c", Offset(0), |found| {
        let pattern = &account.slot(found.slot).entries[found.entry as usize].pattern;
        let specific = if *account.subscription(found.slot) == 1 {
            TypePattern::Exact("a.b.c".into())
        } else {
            TypePattern::Prefix("a.".into())
        };
        assert_eq!(*pattern, specific);
    });
}

#[test]
fn set_of_followed_accounts_is_another_object_after_a_change() {
    let mut index = FilterIndex::default();
    index.insert(ONE, id(1), (), [(ALL, &Filter::of_types(["x"]))]);
    let earlier = index.followed().clone();
    index.insert(ONE, id(2), (), [(ALL, &Filter::of_types(["y"]))]);
    index.remove(ONE, id(1));
    assert!(Arc::ptr_eq(&earlier, index.followed()));
    index.insert(OTHER, id(3), (), [(ALL, &Filter::of_types(["x"]))]);
    assert!(!Arc::ptr_eq(&earlier, index.followed()));
    assert_eq!((earlier.len(), index.followed().len()), (1, 2));
    index.insert(OTHER, id(3), (), [(ALL, &Filter::default())]);
    assert_eq!(**index.followed(), HashSet::from([ONE]));
}

#[derive(Clone, Debug)]
enum Change {
    /// From the offset on, the second filter replaces the first.
    Insert(u8, Patterns, Patterns),
    Remove(u8),
}

/// Exact types and prefixes.
type Patterns = (Vec<String>, Vec<String>);

const TYPES: [&str; 8] = ["a", "a.b", "a.b.c", "a.b.d", "a.c", "b", "b.a", "ab.c"];
const PREFIXES: [&str; 5] = ["", "a.", "a.b.", "b.", "a.b.c."];
const CHANGE_AT: u64 = 10;

fn patterns() -> impl Strategy<Value = Patterns> {
    let names = |names: &'static [&'static str]| {
        vec(proptest::sample::select(names), 0..4)
            .prop_map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    (names(&TYPES), names(&PREFIXES))
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (0..6u8, patterns(), patterns()).prop_map(|(id, early, late)| Change::Insert(id, early, late)),
        1 => (0..6u8).prop_map(Change::Remove),
    ]
}

fn filter_of((types, prefixes): &Patterns) -> Filter {
    let types: Vec<&str> = types.iter().map(String::as_str).collect();
    let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    filter(&types, &prefixes)
}

proptest! {
    #[test]
    fn index_equals_a_scan_of_all_filters(changes in vec(change(), 1..40)) {
        let mut index = FilterIndex::default();
        let mut model: BTreeMap<u8, (Filter, Filter)> = BTreeMap::new();
        for change in changes {
            match change {
                Change::Insert(number, early, late) => {
                    let (early, late) = (filter_of(&early), filter_of(&late));
                    let spans = [(Offset(0)..Offset(CHANGE_AT), &early), (Offset(CHANGE_AT)..ALL.end, &late)];
                    index.insert(ONE, id(number), number, spans);
                    model.insert(number, (early, late));
                }
                Change::Remove(number) => {
                    index.remove(ONE, id(number));
                    model.remove(&number);
                }
            }
            for offset in [CHANGE_AT - 1, CHANGE_AT] {
                for event_type in TYPES.iter().chain(&["c", "a.b.c.d", "a."]) {
                    let matches = |(early, late): &(Filter, Filter)| {
                        let filter = if offset < CHANGE_AT { early } else { late };
                        filter.match_type(event_type).is_some()
                    };
                    let scanned: Vec<u8> =
                        model.iter().filter(|(_, filters)| matches(filters)).map(|(number, _)| *number).collect();
                    prop_assert_eq!(matching(&index, ONE, event_type, offset), scanned);
                }
            }
        }
        for number in 0..6 {
            index.remove(ONE, id(number));
        }
        prop_assert!(index.account(ONE).is_none() && index.followed().is_empty());
    }

    #[test]
    fn removed_patterns_leave_nothing_behind(first in patterns(), second in patterns()) {
        let mut index = FilterIndex::default();
        index.insert(ONE, id(1), 1, [(ALL, &Filter::of_types(["stays"]))]);
        index.insert(ONE, id(2), 2, [(ALL, &filter_of(&first))]);
        index.insert(ONE, id(2), 2, [(ALL, &filter_of(&second))]);
        index.remove(ONE, id(2));
        let account = index.account(ONE).expect("one subscription is left");
        prop_assert_eq!(account.exact.len(), 1);
        prop_assert!(account.prefixes.is_empty());
    }
}

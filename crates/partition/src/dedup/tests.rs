use proptest::prelude::*;

use super::*;
use crate::{batch::tests::batch, filler};

const LIMITS: DedupLimits = DedupLimits { window_ms: 100, bytes_max: 1 << 20 };

fn seed() -> HashSeed {
    HashSeed::new(fanfare_environment::Environment::system().random().as_ref())
}

fn insert(window: &mut DedupWindow, account: u8, base: u64, time: u64, events: &[&str]) {
    let records = batch(account, events).records;
    window
        .insert(AccountId::from_bytes([account; 16]), Offset(base), Timestamp(time), records.into_iter())
        .unwrap();
}

fn get(window: &DedupWindow, account: u8, event: &str) -> Option<u64> {
    let window = window.account(AccountId::from_bytes([account; 16]))?;
    let [unknown, id] = ["/other", "/test"].map(|source| EventIdHash::of(source, event));
    let found = window.get(id);
    let listed: Vec<_> = found.into_iter().map(|committed| (1, committed)).collect();
    assert_eq!(window.get_all([unknown, id].into_iter()), listed, "alone and among others");
    found.map(|committed| committed.offset.0)
}

#[test]
fn identity_is_remembered_within_its_account_and_window_only() {
    let mut window = DedupWindow::new(LIMITS, seed());
    insert(&mut window, 1, 0, 1_000, &["a", "b"]);
    insert(&mut window, 2, 2, 1_050, &["a"]);
    assert_eq!(
        [get(&window, 1, "a"), get(&window, 1, "b"), get(&window, 2, "a")],
        [Some(0), Some(1), Some(2)]
    );
    assert_eq!((get(&window, 2, "b"), get(&window, 3, "a")), (None, None));
    assert_eq!(window.first_offset(Timestamp(1_100)), Some(Offset(0)));
    assert_eq!(window.first_offset(Timestamp(1_101)), Some(Offset(2)));
    assert_eq!(window.first_offset(Timestamp(9_999)), None);
    insert(&mut window, 2, 3, 1_101, &["c"]);
    assert_eq!([get(&window, 1, "a"), get(&window, 1, "b")], [None, None]);
    assert_eq!([get(&window, 2, "a"), get(&window, 2, "c")], [Some(2), Some(3)]);
    assert_eq!(window.shortened_ms(), None, "all that the window asks for");
}

#[test]
fn identity_outlives_a_jump_of_the_clock_and_not_the_window_after() {
    let mut window = DedupWindow::new(LIMITS, seed());
    insert(&mut window, 1, 0, 1_000, &["a"]);
    let jumped = 1_000 + 2 * 86_400_000;
    insert(&mut window, 1, 1, jumped, &["b"]);
    assert_eq!(get(&window, 1, "a"), Some(0));
    insert(&mut window, 1, 2, jumped + 99, &["c"]);
    assert_eq!([get(&window, 1, "a"), get(&window, 1, "b")], [None, Some(1)]);
}

#[test]
fn identity_committed_again_has_its_last_offset() {
    let mut window = DedupWindow::new(LIMITS, seed());
    insert(&mut window, 1, 0, 1_000, &["a"]);
    insert(&mut window, 1, 1, 1_090, &["a"]);
    insert(&mut window, 1, 2, 1_150, &["b"]);
    assert_eq!(get(&window, 1, "a"), Some(1));
}

#[test]
fn budget_shortens_the_window_and_reports_it() {
    let mut window = DedupWindow::new(
        DedupLimits { window_ms: 100, bytes_max: 3 * (SECTION_BYTES + IDENTITY_BYTES) },
        seed(),
    );
    for (offset, time) in (0..10).zip((1_000..).step_by(10)) {
        insert(&mut window, 1, offset, time, &[&offset.to_string()]);
    }
    let remembered: Vec<_> = (0..10).filter_map(|offset: u64| get(&window, 1, &offset.to_string())).collect();
    assert_eq!(remembered, [7, 8, 9]);
    assert_eq!(window.shortened_ms(), Some(29));
    assert!(window.bytes <= window.limits.bytes_max);
}

#[test]
fn flood_of_one_account_pushes_out_no_identity_of_another() {
    let bytes_max = 100 * (SECTION_BYTES + IDENTITY_BYTES);
    let mut window = DedupWindow::new(DedupLimits { window_ms: 10_000, bytes_max }, seed());
    insert(&mut window, 1, 0, 1_000, &["a", "b"]);
    for number in 0..1_000 {
        insert(&mut window, 2, 2 + number, 1_001 + number, &[&number.to_string()]);
        assert!(window.bytes + window.retained.bytes() <= bytes_max);
    }
    assert_eq!([get(&window, 1, "a"), get(&window, 1, "b")], [Some(0), Some(1)]);
    assert_eq!((get(&window, 2, "0"), get(&window, 2, "999")), (None, Some(1_001)));
    insert(&mut window, 1, 1_002, 2_100, &["c"]);
    assert_eq!([get(&window, 1, "a"), get(&window, 1, "c")], [Some(0), Some(1_002)]);
    // The window has passed.
    insert(&mut window, 2, 1_003, 11_001, &["last"]);
    assert_eq!((get(&window, 1, "a"), window.retained.bytes()), (None, 0));
    assert_eq!(get(&window, 1, "c"), Some(1_002));
}

proptest! {
    #[test]
    fn window_equals_a_list_of_the_last_sections(
        sections in prop::collection::vec((0_u8..4, 0_u64..40, prop::collection::vec(0_u32..50, 1..4)), 1..60)
    ) {
        let mut window = DedupWindow::new(LIMITS, seed());
        let (mut time, mut next, mut all) = (0, 0, Vec::new());
        for (account, wait, ids) in sections {
            time += wait;
            let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
            insert(&mut window, account, next, time, &ids.iter().map(String::as_str).collect::<Vec<_>>());
            for id in ids {
                all.push((account, id, time, next));
                next += 1;
            }
        }
        for account in 0..4 {
            for id in (0..50).map(|id: u32| id.to_string()) {
                let expected = all.iter().rev().find(|(a, i, t, _)| *a == account && *i == id && time - t <= 100);
                prop_assert_eq!(get(&window, account, &id), expected.map(|(.., offset)| *offset));
            }
        }
        let remembered = usize::try_from(window.identities.len()).expect("few");
        prop_assert_eq!(remembered, all.iter().filter(|(.., t, _)| time - t <= 100).count());
        prop_assert!(window.tables.iter().map(OffsetTable::len).sum::<usize>() <= remembered);
        prop_assert_eq!(window.accounts.iter().flatten().count(), window.account_numbers.len());
    }
}

#[test]
fn full_window_stays_within_its_budget() {
    for eighths in 8..16 {
        let mut window = full((1 << 20) * eighths / 4);
        assert_within_budget(&window);
        let half = u32::try_from(window.limits.identities_max() / 2).expect("a small window");
        let end = lose(&mut window, 0, half);
        assert_within_budget(&window);
        assert_eq!(window.identities.end(), end);
    }
}

#[test]
fn section_above_the_budget_is_skipped_and_the_next_is_remembered() {
    for lost in [300_000, u32::MAX] {
        let mut window = full(1 << 20);
        let next = lose(&mut window, 1_000, lost);
        assert_within_budget(&window);
        assert_eq!(
            (window.shortened_ms(), window.first_offset(Timestamp(1_000))),
            (Some(0), None),
            "{lost} are lost"
        );
        insert(&mut window, 1, next.0, 1_030, &["after"]);
        assert_eq!((get(&window, 1, "after"), get(&window, 1, "0")), (Some(next.0), None));
        assert_eq!((window.shortened_ms(), window.first_offset(Timestamp(1_030))), (Some(29), Some(next)));
    }
}

/// A window that has forgotten many for want of room.
fn full(bytes_max: u64) -> DedupWindow {
    let limits = DedupLimits { window_ms: u64::MAX, bytes_max };
    let mut window = DedupWindow::new(limits, seed());
    let (account, mut base) = (AccountId::from_bytes([1; 16]), 0);
    while base < 4 * limits.identities_max() {
        let records = (base..base + 100).map(|number| RecordHeader {
            id: EventIdHash::of("/test", &number.to_string()),
            key: fanfare_model::KeyHash(0),
            checksum: 0,
            length: 0,
        });
        window.insert(account, Offset(base), Timestamp(0), records.collect::<Vec<_>>().into_iter()).unwrap();
        base += 100;
    }
    window
}

/// The next `count` events are lost. Returns the offset after them.
fn lose(window: &mut DedupWindow, time: u64, count: u32) -> Offset {
    let base = window.identities.end();
    window.insert(filler::NO_ACCOUNT, base, Timestamp(time), filler::records(base, count)).unwrap();
    base.plus(count.into())
}

fn assert_within_budget(window: &DedupWindow) {
    let tables: usize = window.tables.iter().map(OffsetTable::size_bytes).sum();
    let order = window.sections.capacity() * size_of::<Section>();
    let taken = (window.identities.size_bytes() + tables + order) as u64;
    let bytes_max = window.limits.bytes_max;
    assert!(taken <= bytes_max, "{taken} of {bytes_max} for {}", window.identities.len());
}

#[test]
fn the_last_of_all_times_is_a_time_like_others() {
    let end = u64::MAX;
    let limits = DedupLimits { window_ms: 100, bytes_max: 2 * (SECTION_BYTES + IDENTITY_BYTES) };
    let mut window = DedupWindow::new(limits, seed());
    for (offset, event) in (0..).zip(["a", "b", "c"]) {
        insert(&mut window, 1, offset, end, &[event]);
    }
    assert_eq!([get(&window, 1, "a"), get(&window, 1, "c")], [None, Some(2)], "the oldest is pushed out");
    insert(&mut window, 1, 3, end, &["d", "e", "f", "g"]);
    assert_eq!(get(&window, 1, "c"), None, "a section that finds no room empties the window");
    assert_eq!(window.shortened_ms(), Some(0));
}

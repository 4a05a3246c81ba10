use proptest::prelude::*;

use super::*;
use crate::subscription::buffered_event::tests::event;

fn record(key: u64, from: u64, retry_in_ms: u64) -> ParkedKey {
    ParkedKey { key: KeyHash(key), from: Offset(from), attempts: 1, retry_in_ms, pending: 1 }
}

fn permissions(now_ms: u64, attempts: usize) -> Permissions {
    Permissions { now_ms, read_retry_at_ms: 0, expire_below: Offset::ZERO, attempts, buffered_bytes_max: 1 }
}

fn scanned(scan: &KeyScan) -> ScannedKey {
    let events = vec![event(scan.from.0, scan.key.0)];
    ScannedKey { key: scan.key, events, scanned_to: scan.from.plus(1), failed: false }
}

#[test]
fn an_overdue_key_does_not_hide_the_time_of_another_key() {
    let mut parked_keys = ParkedKeys::restore(&[record(1, 1, 5), record(2, 2, 50), record(3, 3, 70)], 0);
    assert_eq!(parked_keys.deadline(0), Some(5));
    let due = parked_keys.take_due(&permissions(10, 0));
    assert!(due.candidates.is_empty() && due.sweep.is_empty(), "no attempt is allowed");
    assert_eq!(parked_keys.deadline(10), Some(50));
    assert_eq!(parked_keys.deadline(70), None);
}

#[test]
fn one_sweep_at_a_time_begins_with_the_key_that_waits_longest() {
    let mut parked_keys = ParkedKeys::restore(&[record(1, 10, 3), record(2, 20, 1), record(3, 30, 2)], 0);
    let due = parked_keys.take_due(&permissions(10, 5));
    let from: Vec<_> = due.sweep.iter().map(|scan| (scan.from.0, scan.first_only)).collect();
    assert_eq!(from, [(20, true), (30, true), (10, true)]);
    assert!(parked_keys.take_due(&permissions(10, 5)).sweep.is_empty(), "a sweep is running");
    for scan in &due.sweep {
        assert_eq!(parked_keys.scanned(scanned(scan), Offset(40), 0), None);
    }
    let due = parked_keys.take_due(&permissions(10, 2));
    assert_eq!(
        due.candidates,
        [KeyHash(2), KeyHash(3)],
        "in the order of their waiting, as far as there is room"
    );
    assert!(due.sweep.is_empty());
}

#[test]
fn a_key_that_could_not_be_read_waits_and_a_lost_one_is_released() {
    let mut parked_keys = ParkedKeys::restore(&[record(1, 10, 0), record(2, 20, 0)], 0);
    let sweep = parked_keys.take_due(&permissions(10, 5)).sweep;
    let failed = ScannedKey { failed: true, events: vec![], ..scanned(&sweep[0]) };
    assert_eq!(parked_keys.scanned(failed, Offset(40), 1_010), None);
    let lost = ScannedKey { events: vec![], scanned_to: Offset(40), ..scanned(&sweep[1]) };
    assert_eq!(parked_keys.scanned(lost, Offset(40), 1_010), Some(1));
    assert_eq!(parked_keys.deadline(10), Some(1_010));
    assert_eq!(parked_keys.propose(10), ParkedChanges { parked: vec![], released: vec![KeyHash(2)] });
}

#[derive(Clone, Debug)]
enum Step {
    Park(u64),
    Match(u64),
    Settle(u64),
    Fail(u64),
    Propose,
    ProposeNothing,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u64..8).prop_map(Step::Park),
        3 => (0_u64..8).prop_map(Step::Match),
        6 => (0_u64..8).prop_map(Step::Settle),
        2 => (0_u64..8).prop_map(Step::Fail),
        4 => Just(Step::Propose),
        1 => Just(Step::ProposeNothing),
    ]
}

proptest! {
    #[test]
    fn changes_add_up_to_the_parked_keys(steps in prop::collection::vec(step(), 1..200)) {
        let mut parked_keys = ParkedKeys::default();
        let mut replicated: BTreeMap<KeyHash, ParkedKey> = BTreeMap::new();
        for (step, offset) in steps.into_iter().zip(1_u64..) {
            match step {
                Step::Park(key) if parked_keys.get(KeyHash(key)).is_none() => {
                    parked_keys.insert(&event(offset, key), 1);
                }
                Step::Park(_) => {}
                Step::Match(key) => {
                    parked_keys.update(KeyHash(key), |parked| parked.pending += 1);
                }
                Step::Settle(key) => {
                    let from = parked_keys.get(KeyHash(key)).map(|parked| parked.from);
                    let settled = from.is_some_and(|from| parked_keys.settle(KeyHash(key), from, 0));
                    prop_assert_eq!(settled, from.is_some());
                }
                Step::Fail(key) => {
                    parked_keys.update(KeyHash(key), |parked| {
                        parked.failures.attempts += 1;
                        parked.retry_at_ms = offset;
                    });
                }
                Step::Propose => {
                    let ParkedChanges { parked, released } = parked_keys.propose(0);
                    for key in released {
                        prop_assert!(replicated.remove(&key).is_some(), "{key:?} was not known");
                    }
                    replicated.extend(parked.iter().map(|parked| (parked.key, *parked)));
                    let kept: Vec<_> = replicated.values().map(|p| (p.key, p.from, p.attempts, p.pending)).collect();
                    let all: Vec<_> = parked_keys.keys.iter()
                        .map(|(key, p)| (*key, p.from, p.failures.attempts, p.pending)).collect();
                    prop_assert_eq!(kept, all);
                    prop_assert_eq!(parked_keys.propose(0), ParkedChanges::default(), "nothing is told twice");
                }
                Step::ProposeNothing => {
                    parked_keys.forget_proposed();
                    replicated.clear();
                }
            }
            let pending: u64 = parked_keys.keys.values().map(|parked| parked.pending).sum();
            prop_assert_eq!(parked_keys.pending(), pending);
            let oldest = parked_keys.keys.values().map(|parked| parked.from).min();
            prop_assert_eq!(parked_keys.low_water(), oldest);
        }
    }
}

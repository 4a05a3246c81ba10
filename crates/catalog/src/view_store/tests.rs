//! The view's records, over a store that forgets and fails on demand.

use std::sync::Arc;

use fanfare_log::{Identity, Position};
use fanfare_model::{AccountId, Timestamp};

use super::{
    MemoryView, RebuildReason, ViewStore,
    key::{CLUSTER, HEADER},
    stored::StoredView,
    writer::store_applied,
};
use crate::{
    machine::Applied,
    state::{State, tests::history},
};

const IDENTITY: Identity = Identity { cluster: [1; 16], node: 1, incarnation: [2; 16] };

fn applied(state: &State) -> Applied {
    Applied { state: state.clone(), position: state.applied.unwrap_or_default() }
}

fn load(store: &MemoryView) -> Result<State, String> {
    StoredView::load(store, IDENTITY).map(|stored| stored.state).map_err(|reason| format!("{reason:?}"))
}

#[test]
fn every_stored_state_is_loaded_unchanged() {
    let store = MemoryView::default();
    let mut written = StoredView::default();
    for state in history() {
        written = store_applied(&store, &written, &applied(&state), IDENTITY).unwrap();
        assert_eq!(load(&store), Ok(state));
    }
    // Whole steps left out make no difference.
    let (direct, last) = (MemoryView::default(), history().pop().unwrap());
    store_applied(&direct, &StoredView::default(), &applied(&last), IDENTITY).unwrap();
    assert_eq!(direct.records(), store.records());
    // And from what was loaded one may go on.
    let mut later = last;
    later.time = Timestamp(1 << 40);
    later.applied = Some(Position { term: 9, leader: 9, index: 1000 });
    let loaded = StoredView::load(&store, IDENTITY).unwrap();
    store_applied(&store, &loaded, &applied(&later), IDENTITY).unwrap();
    assert_eq!(load(&store), Ok(later));
}

#[test]
fn a_change_writes_its_own_records_and_the_header() {
    let mut written = StoredView::default();
    let mut sizes = Vec::new();
    for state in history() {
        let (operations, next) = written.advance(&applied(&state), IDENTITY);
        // The first one writes the cluster's record, too.
        sizes.push(operations.len() - usize::from(written.position.is_none()));
        written = next;
    }
    assert!(sizes.len() > 8 && sizes.iter().all(|size| (1..=2).contains(size)), "{sizes:?}");
}

#[test]
fn a_crash_keeps_the_last_flushed_state() {
    let history = history();
    let (before, after) = (&history[3], &history[6]);
    let store = MemoryView::default();
    let written = store_applied(&store, &StoredView::default(), &applied(before), IDENTITY).unwrap();
    let (operations, _) = written.advance(&applied(after), IDENTITY);
    store.write(operations).unwrap();
    assert_eq!(load(&store).as_ref(), Ok(after));
    store.crash();
    assert_eq!(load(&store).as_ref(), Ok(before));
}

#[test]
fn every_changed_missing_or_added_record_is_noticed() {
    let last = history().pop().unwrap();
    let whole = MemoryView::default();
    store_applied(&whole, &StoredView::default(), &applied(&last), IDENTITY).unwrap();
    for (key, value) in whole.records().into_iter().filter(|(key, _)| key != HEADER) {
        let tampered = |change: &dyn Fn(&mut Vec<u8>, &mut Vec<u8>) -> bool| {
            let store = MemoryView::default();
            store.tamper(|records| {
                *records = whole.records();
                records.remove(&key);
                let (mut key, mut value) = (key.clone(), value.clone());
                if change(&mut key, &mut value) {
                    records.insert(key, value);
                }
            });
            load(&store)
        };
        assert_eq!(tampered(&|_, _| true), Ok(last.clone()));
        assert!(tampered(&|_, _| false).is_err(), "a record was missing");
        for at in 0..value.len() {
            let flipped = tampered(&|_, value| {
                value[at] ^= 1;
                true
            });
            assert!(flipped.is_err(), "byte {at} of {} was flipped", String::from_utf8_lossy(&value));
        }
        for at in 0..key.len() {
            let moved = tampered(&|key, _| {
                key[at] ^= 1;
                true
            });
            assert!(moved.is_err(), "byte {at} of a key was flipped");
        }
    }
}

#[test]
fn a_view_of_another_log_is_foreign() {
    let last = history().pop().unwrap();
    let store = MemoryView::default();
    assert_eq!(load(&store), Err("Missing".to_owned()));
    store_applied(&store, &StoredView::default(), &applied(&last), IDENTITY).unwrap();
    for other in [
        Identity { cluster: [9; 16], ..IDENTITY },
        Identity { node: 2, ..IDENTITY },
        Identity { incarnation: [9; 16], ..IDENTITY },
    ] {
        let loaded = StoredView::load(&store, other);
        assert!(matches!(loaded, Err(RebuildReason::Foreign)), "{other:?}");
    }
    store.tamper(|records| drop(records.insert(HEADER.to_vec(), br#"{"v":9}"#.to_vec())));
    assert_eq!(load(&store), Err("Foreign".to_owned()));
    store.tamper(|records| drop(records.remove(HEADER)));
    assert_eq!(load(&store), Err("Missing".to_owned()));
}

/// More objects than one batch takes.
fn crowd() -> State {
    let mut accounts = history().pop().unwrap().view.accounts.clone();
    let (id, first) = accounts.pop_first().unwrap();
    let mut view = (*first).clone();
    let pattern = view.event_types.values().next().unwrap().clone();
    for number in 0..10_000 {
        let mut event_type = (*pattern).clone();
        event_type.name = format!("type.{number}");
        view.event_types.insert(event_type.name.clone(), Arc::new(event_type));
    }
    accounts.insert(id, Arc::new(view));
    let mark = history().pop().unwrap().header();
    State::assemble(mark, Arc::default(), accounts)
}

#[test]
fn a_rebuild_that_is_cut_short_counts_as_no_view() {
    let crowd = crowd();
    for failing in 1..4 {
        let store = MemoryView::default();
        let written =
            store_applied(&store, &StoredView::default(), &applied(&history()[0]), IDENTITY).unwrap();
        store.fail_after(failing);
        assert!(store_applied(&store, &written, &applied(&crowd), IDENTITY).is_err());
        assert_eq!(load(&store), Err("Missing".to_owned()), "after {failing} writes");
        store.crash();
        assert_eq!(load(&store), Err("Missing".to_owned()), "after {failing} writes and a crash");
    }
    let store = MemoryView::default();
    store_applied(&store, &StoredView::default(), &applied(&crowd), IDENTITY).unwrap();
    assert_eq!(load(&store), Ok(crowd));
}

#[test]
fn every_key_begins_with_its_account() {
    let last = history().pop().unwrap();
    let store = MemoryView::default();
    store_applied(&store, &StoredView::default(), &applied(&last), IDENTITY).unwrap();
    let accounts: Vec<AccountId> = last.view.accounts.keys().copied().collect();
    for key in store.records().into_keys().filter(|key| key != HEADER && key != CLUSTER) {
        assert!(accounts.iter().any(|account| key.starts_with(account.as_bytes())));
    }
}

//! Every crash state: each prefix of the operations on the file system, with the un-synced ones kept, lost or torn.
use std::{path::Path, sync::Arc};

use fanfare_environment::Environment;
use fanfare_log::{
    Log, MemoryFileSystem, NewFrame, Store,
    memory::{Keep, Unsynced},
};

use crate::{
    model::{Model, Step},
    support::{LOG, REPLICA, append, frame, open, options, read_all, roll, wait},
};

/// A step with the number of file operations when it began and when it was called durable.
struct Done {
    began: usize,
    durable: usize,
    outcomes: Vec<Model>,
}

fn run(fs: &MemoryFileSystem, (store, log): (Store, Log), steps: &[Step]) -> Vec<Done> {
    let mut model = Model::of(&log, 1);
    let mut done = vec![Done { began: 0, durable: fs.operations(), outcomes: vec![model.clone()] }];
    for step in steps {
        let (began, outcomes) = (fs.operations(), model.outcomes(step));
        model.run(step, &log);
        done.push(Done { began, durable: fs.operations(), outcomes });
    }
    store.close();
    done
}

/// States that a log may be in after a crash when `operations` had been done.
fn allowed(done: &[Done], operations: usize) -> Vec<&Model> {
    let durable = done.iter().rfind(|step| step.durable <= operations).and_then(|step| step.outcomes.last());
    let under_way = done.iter().filter(|step| step.began <= operations && step.durable > operations);
    durable.into_iter().chain(under_way.flat_map(|step| &step.outcomes)).collect()
}

/// All kept, all lost, each one alone lost, each one alone kept, the newest writes torn, and some mixtures.
pub(crate) fn variants(unsynced: usize) -> Vec<Box<dyn Fn(usize) -> Keep>> {
    let mut variants: Vec<Box<dyn Fn(usize) -> Keep>> =
        vec![Box::new(|_| Keep::All), Box::new(|_| Keep::Nothing)];
    for one in 0..unsynced {
        variants.push(Box::new(move |at| if at == one { Keep::Nothing } else { Keep::All }));
        variants.push(Box::new(move |at| if at == one { Keep::All } else { Keep::Nothing }));
        for sectors in [0b1, 0b10, 0x5555_5555_5555_5555, !0b1, !0b10] {
            variants.push(Box::new(move |at| if at == one { Keep::Sectors(sectors) } else { Keep::All }));
        }
    }
    for seed in 0..6_u64 {
        variants.push(Box::new(move |at| {
            let mixed =
                (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(7).wrapping_mul(2 * seed + 3);
            match mixed % 3 {
                0 => Keep::Nothing,
                1 => Keep::All,
                _ => Keep::Sectors(mixed),
            }
        }));
    }
    variants
}

fn crash(fs: &MemoryFileSystem, keep: &dyn Fn(usize) -> Keep) -> (MemoryFileSystem, Vec<Unsynced>) {
    let mut unsynced = Vec::new();
    let crashed = fs.crashed(|what| {
        unsynced.push(what);
        keep(unsynced.len() - 1)
    });
    (crashed, unsynced)
}

/// Opens after a crash, checks, appends, loses power again, and checks again. Before the log was first created
/// only opening is asked for.
fn check(fs: &MemoryFileSystem, allowed: &[&Model], story: &str) {
    let (store, log) = open(fs).unwrap_or_else(|error| panic!("{story}: {error}"));
    if allowed.is_empty() {
        return;
    }
    let term = allowed.iter().map(|model| model.term()).collect::<Vec<_>>();
    let found = term.iter().map(|term| Model::of(&log, *term)).find(|found| allowed.contains(&found));
    let Some(mut model) = found else {
        panic!("{story}: found {:?}\nallowed {allowed:?}", Model::of(&log, 0));
    };
    let synced = log.bounds().synced_index;
    assert_eq!(
        synced,
        log.bounds().last.map_or(0, |last| last.index),
        "{story}: all that was recovered is durable"
    );
    model.run(&Step::Append { frames: 2, payload_bytes: 300 }, &log);
    assert_eq!(Model::of(&log, model.term()), model, "{story}");
    drop((store, log));
    let (again, _) = crash(fs, &|_| Keep::Nothing);
    let (_store, log) = open(&again).unwrap_or_else(|error| panic!("{story}, again: {error}"));
    assert_eq!(Model::of(&log, model.term()), model, "{story}, again");
}

fn every_crash_state_opens(steps: &[Step], fill_pool: bool) {
    let fs = MemoryFileSystem::default();
    let opened = open(&fs).expect("open");
    if fill_pool {
        opened.0.fill_pool();
    }
    let done = run(&fs, opened, steps);
    let mut states = 0;
    for operations in 0..=fs.operations() {
        let at = fs.after(operations);
        let (_, unsynced) = crash(&at, &|_| Keep::All);
        for (number, keep) in variants(unsynced.len()).iter().enumerate() {
            let (crashed, _) = crash(&at, keep);
            let story = format!("after {operations} operations, variant {number} of {unsynced:?}");
            check(&crashed, &allowed(&done, operations), &story);
            states += 1;
        }
    }
    assert!(states > 500, "only {states} states were tried");
}

const SMALL: Step = Step::Append { frames: 2, payload_bytes: 200 };
const LARGE: Step = Step::Append { frames: 5, payload_bytes: 700 };

#[test]
fn every_crash_state_between_two_pieces_of_a_write_opens() {
    let fs = MemoryFileSystem::default();
    fs.shorten_transfers(600);
    let opened = open(&fs).expect("open");
    let began = fs.operations();
    let done = run(&fs, opened, &[SMALL, Step::Vote(1), LARGE, SMALL]);
    for operations in began..=fs.operations() {
        let at = fs.after(operations);
        for keep in [Keep::All, Keep::Nothing, Keep::Sectors(0b1), Keep::Sectors(!0b10)] {
            let (crashed, _) = crash(&at, &|_| keep);
            let story = format!("after {operations} operations, {keep:?}");
            check(&crashed, &allowed(&done, operations), &story);
        }
    }
}

#[test]
fn a_new_data_directory_is_durable_with_its_parents() {
    for dir in ["/srv/fanfare/data", "fanfare/data"] {
        let fs = MemoryFileSystem::default();
        let open = |fs: &MemoryFileSystem| {
            let fs = Arc::new(fs.clone());
            Store::open(&Environment::system(), fs, Path::new(dir), options(), Box::new(|_| {}))
                .expect("open")
        };
        let store = open(&fs);
        let log = store.open_log(LOG, REPLICA, roll()).expect("open log");
        append(&log, same_frames(1..3)).expect("append");
        let (identity, fs) = (store.identity(), crash(&fs, &|_| Keep::Nothing).0);
        drop((store, log));
        let store = open(&fs);
        assert_eq!(store.identity(), identity, "{dir}");
        assert_eq!(read_all(&store.open_log(LOG, REPLICA, roll()).expect("open log")).len(), 2, "{dir}");
    }
}

#[test]
fn every_crash_state_of_append_and_vote_opens() {
    every_crash_state_opens(&[SMALL, Step::Vote(1), SMALL, Step::Vote(2), SMALL, SMALL], false);
}

#[test]
fn every_crash_state_of_a_roll_opens() {
    every_crash_state_opens(&[SMALL, LARGE, SMALL], false);
}

#[test]
fn every_crash_state_of_a_truncation_opens() {
    let within = Step::Truncate { dropped: 1 };
    let across = Step::Truncate { dropped: 6 };
    let all = Step::Truncate { dropped: 100 };
    every_crash_state_opens(&[LARGE, within, SMALL, LARGE, across, SMALL, all, SMALL], false);
}

#[test]
fn every_crash_state_of_a_purge_and_of_recycling_opens() {
    let steps = [LARGE, LARGE, Step::Purge { kept: 3 }, LARGE, Step::Restart { skipped: 10 }, LARGE, SMALL];
    every_crash_state_opens(&steps, false);
}

#[test]
fn every_crash_state_with_spare_files_opens() {
    every_crash_state_opens(
        &[LARGE, LARGE, Step::Purge { kept: 1 }, LARGE, Step::Truncate { dropped: 2 }, SMALL],
        true,
    );
}

/// What a killed process left in the page cache only is durable once a restart has counted it.
#[test]
fn frames_recovered_after_a_kill_survive_a_power_loss() {
    let fs = MemoryFileSystem::default();
    let opened = open(&fs).expect("open");
    let began = fs.operations();
    run(
        &fs,
        opened,
        &[SMALL, Step::Vote(3), LARGE, Step::Truncate { dropped: 3 }, SMALL, Step::Purge { kept: 2 }],
    );
    for operations in began..=fs.operations() {
        let killed = fs.after(operations);
        let (store, log) = open(&killed).expect("open after a kill");
        let found = Model::of(&log, 0);
        drop((store, log));
        let (crashed, _) = crash(&killed, &|_| Keep::Nothing);
        let (_store, log) = open(&crashed).expect("open after a power loss");
        assert_eq!(Model::of(&log, 0), found, "after {operations} operations");
    }
}

fn same_frames(indexes: std::ops::Range<u64>) -> Vec<NewFrame> {
    indexes.map(|index| frame(index, 1, 200)).collect()
}

#[test]
fn truncated_frames_do_not_return_when_a_recycled_file_gets_the_same_start() {
    let fs = MemoryFileSystem::default();
    let (_store, log) = open(&fs).expect("open");
    append(&log, same_frames(1..7)).expect("append");
    wait(|done| log.truncate_after(None, done)).expect("truncate");
    append(&log, same_frames(1..3)).expect("append");
    let (_store, log) = open(&crash(&fs, &|_| Keep::Nothing).0).expect("reopen");
    assert_eq!(read_all(&log).len(), 2);
}

#[test]
fn a_torn_frame_does_not_return_when_the_one_before_it_is_written_again() {
    let fs = MemoryFileSystem::default();
    let (_store, log) = open(&fs).expect("open");
    append(&log, same_frames(1..2)).expect("append");
    let began = fs.operations();
    append(&log, same_frames(2..6)).expect("append");
    let mut torn_states = 0;
    for operations in began..=fs.operations() {
        // Frames 3 to 5 reach the disk, but not the sector in which frame 2 begins.
        let (torn, _) = crash(&fs.after(operations), &|_| Keep::Sectors(!0b10));
        let (_store, log) = open(&torn).expect("open the torn log");
        if read_all(&log).len() != 1 {
            continue;
        }
        torn_states += 1;
        append(&log, same_frames(2..3)).expect("append");
        let (_store, log) = open(&crash(&torn, &|_| Keep::Nothing).0).expect("reopen");
        assert_eq!(read_all(&log).len(), 2, "after {operations} operations");
    }
    assert!(torn_states > 0, "no state was torn");
}

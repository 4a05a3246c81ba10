use std::path::Path;

use fanfare_log::{FrameHeader, MemoryFileSystem, NewFrame, Payload, RollPolicy, Store, StoreOptions};
use tokio::sync::oneshot;

use super::*;
use crate::state::tests::{commands, history};

fn position(index: u64) -> Position {
    Position { term: 1, leader: 7, index }
}

fn frame(index: u64, kind: u8, stored: &[u8]) -> Frame {
    let payload = Payload::new(vec![stored.to_vec().into()]);
    let payload_bytes = u32::try_from(payload.len()).unwrap();
    let header =
        FrameHeader { kind, position: position(index), base_offset: 0, count: 0, time_ms: 0, payload_bytes };
    Frame { header, payload }
}

fn begin(state: &State) -> (Machine, MachineWatch) {
    let position = state.applied.unwrap_or_default();
    Machine::starting_at(Applied { state: state.clone(), position })
}

#[test]
fn a_machine_ahead_of_its_log_skips_contained_commands() {
    let history = history();
    let last = history.last().unwrap();
    for ahead in &history {
        let (mut machine, shown) = begin(ahead);
        for (index, stored) in (1..).zip(commands()) {
            let reply = machine.apply(&frame(index, COMMAND, &stored), ApplyMode::Live).unwrap();
            assert_eq!(reply.is_ok(), index > ahead.applied_index());
        }
        assert_eq!(machine.state, *last);
        let rest = last.applied_index() - ahead.applied_index();
        assert_eq!(shown.applications.load(Ordering::Relaxed), rest);
    }
}

#[test]
fn a_checkpoint_replaces_only_an_older_state() {
    let history = history();
    for checkpoint in &history {
        for own in &history {
            let (mut machine, _shown) = begin(own);
            machine.restore(&checkpoint.encode()).unwrap();
            let newer = if checkpoint.applied_index() > own.applied_index() { checkpoint } else { own };
            assert_eq!(machine.state, *newer);
            assert_eq!(machine.checkpoint(), newer.encode());
        }
    }
    let (mut machine, _shown) = begin(&history[0]);
    assert!(machine.restore(b"{").is_err() && machine.restore(br#"{"v":5}"#).is_err());
    assert_eq!(machine.state, history[0]);
}

#[test]
fn entries_that_this_program_does_not_know_are_errors_and_change_nothing() {
    let before = history()[3].clone();
    let index = before.applied_index() + 1;
    for (kind, stored, expected) in [
        (COMMAND, br#"{"v":6}"#.as_slice(), "the command is of version 6"),
        (9, b"{}", "the command is of the unknown kind 9"),
    ] {
        let (mut machine, _shown) = begin(&before);
        let refused = machine.apply(&frame(index, kind, stored), ApplyMode::Live);
        let Err(MachineError::Newer { detail }) = refused else { panic!("kind {kind} is applied") };
        assert!(detail.contains(expected), "{detail}");
        assert_eq!(machine.state, before);
    }
    let (mut machine, _shown) = begin(&before);
    let refused = machine.apply(&frame(index, COMMAND, br#"{"v":5"#), ApplyMode::Live);
    assert!(matches!(refused, Err(MachineError::Invalid { .. })), "a malformed command is applied");
    assert_eq!(machine.state, before);
}

#[test]
fn a_state_of_a_cluster_above_this_program_is_refused() {
    let mut raised = history()[3].clone();
    Arc::make_mut(&mut Arc::make_mut(&mut raised.view).cluster).format_version += 1;
    let (mut machine, _shown) = begin(&State::default());
    let refused = machine.restore(&raised.encode());
    assert!(matches!(refused, Err(MachineError::Newer { .. })), "{refused:?}");
    assert_eq!(machine.state, State::default());
}

#[test]
fn nothing_is_shown_before_it_is_applied_and_nothing_older_after() {
    let history = history();
    let (machine, shown) = begin(&history[4]);
    machine.publish(position(2));
    assert_eq!(
        shown.applied.borrow().position,
        position(5),
        "a start's checkpoint may be older than the view"
    );
    machine.publish(position(9));
    assert_eq!(shown.applied.borrow().position, position(9));
    assert_eq!(*shown.views.borrow(), history[4].view);
}

async fn log_of(frames: Vec<(u8, Vec<u8>)>) -> (Store, Log) {
    let options = StoreOptions {
        segment_bytes: 1 << 20,
        pool_segments_max: 0,
        cache_bytes: 1 << 20,
        queue_bytes_max: 1 << 20,
        index_draft_bytes_max: 64 << 20,
        page_cache_bytes: 0,
    };
    let files = Arc::new(MemoryFileSystem::default());
    let store = Store::open(
        &fanfare_environment::Environment::system(),
        files,
        Path::new("/data"),
        options,
        Box::new(|_| ()),
    )
    .unwrap();
    let log = store.open_log("catalog", 1, RollPolicy { segment_bytes: 1 << 20, age_ms: u64::MAX }).unwrap();
    let frames = (1..).zip(frames).map(|(index, (kind, stored))| {
        let payload = Payload::new(vec![stored.into()]);
        NewFrame { kind, position: position(index), count: 0, time_ms: 0, payload }
    });
    let (done, flushed) = oneshot::channel();
    log.append(frames.collect(), Box::new(move |result| drop(done.send(result))));
    flushed.await.unwrap().unwrap();
    (store, log)
}

#[tokio::test]
async fn recovery_applies_commands_after_the_checkpoint_and_stops_at_a_newer_one() {
    let mut frames: Vec<_> = commands().into_iter().map(|stored| (COMMAND, stored)).collect();
    let last = frames.len() as u64;
    frames.push((255, b"a membership".to_vec()));
    frames.push((0, Vec::new()));
    frames.push((COMMAND, br#"{"v":6}"#.to_vec()));
    let (store, log) = log_of(frames).await;
    let history = history();
    for own in [&State::default(), &history[3], history.last().unwrap()] {
        let (mut machine, _shown) = begin(own);
        machine.recover(&log, position(last + 2)).unwrap();
        assert_eq!(machine.state, *history.last().unwrap());
        let refused = machine.recover(&log, position(last + 3)).unwrap_err();
        let RecoveryError::Entry { index, source: MachineError::Newer { detail } } = refused else {
            panic!("{refused}");
        };
        assert_eq!(index, last + 3);
        assert!(detail.contains("is of version 6"), "{detail}");
        assert_eq!(machine.state, *history.last().unwrap());
    }
    store.close();
}

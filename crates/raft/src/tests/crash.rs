//! Crashes: what a restart finds after power is lost between any two operations on the disk.

use std::sync::Arc;
use std::time::Duration;

use fanfare_log::memory::Keep;
use fanfare_log::{MemoryFileSystem, NewFrame, Payload};
use futures_util::stream;
use openraft::entry::RaftEntry;
use openraft::storage::RaftStateMachine;
use tokio::time::timeout;

use super::ledger::{add, trim};
use super::node::{Files, GROUP, Node, applier, member};
use crate::NoPeers;
use crate::apply::Adapter;
use crate::checkpoint_task;
use crate::entry::{Entry, log_id_of, position_of};
use crate::log_storage::durable;

/// One run that appends, trims and checkpoints; for each acknowledgement, the operations on the disk until
/// then.
async fn run(fs: &MemoryFileSystem) -> Vec<(usize, u64)> {
    let node = Node::open(Files::over(fs.clone()), 1, Arc::new(NoPeers)).await;
    node.group.initialize(vec![member(1)]).await.unwrap();
    let term = node.leading().await;
    let mut acknowledged = vec![(fs.operations(), 0)];
    for i in 1..=120 {
        node.apply(term, add(1, &[1; 1])).await;
        acknowledged.push((fs.operations(), i));
        if i % 40 == 0 {
            let anchor = node.group.read(|ledger| ledger.seen[ledger.seen.len() - 10].clone());
            node.apply(term, trim(&anchor)).await;
            node.purges_upto(anchor.position.index).await;
        }
    }
    node.stop().await;
    acknowledged
}

/// Every entry takes one offset and adds one, so whatever is trimmed: state and log agree if sum and offset
/// do.
async fn assert_whole(files: Files, acknowledged: u64, context: &str) {
    let node = Node::open(files, 1, Arc::new(NoPeers)).await;
    node.leading().await;
    let bounds = node.group.log().bounds();
    let (sum, seen) = node.group.read(|ledger| (ledger.sum, ledger.seen.len() as u64));
    assert!(sum >= acknowledged, "{context}: {acknowledged} were acknowledged, {sum} are left");
    assert_eq!(sum, bounds.next_offset, "{context}");
    let trimmed = bounds.next_offset - seen;
    assert!(trimmed <= bounds.start_offset, "{context}: {trimmed} of {bounds:?} are not seen");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_crash_loses_what_was_acknowledged_or_parts_state_from_log() {
    let fs = MemoryFileSystem::default();
    let acknowledged = run(&fs).await;
    let begin = acknowledged[0].0;
    for operations in (begin..=fs.operations()).step_by(5) {
        let upto = acknowledged.iter().rfind(|(at, _)| *at <= operations).map_or(0, |(_, count)| *count);
        let before = fs.after(operations);
        let nothing = before.crashed(|_| Keep::Nothing);
        assert_whole(Files::over(nothing), upto, &format!("after {operations}, synced only")).await;
        let all = before.crashed(|_| Keep::All);
        assert_whole(Files::over(all), upto, &format!("after {operations}, all written")).await;
    }
}

#[tokio::test]
async fn a_checkpoint_never_stands_above_what_the_log_has_flushed() {
    let files = Files::in_memory();
    let store = files.store();
    let log = files.log(&store, 1);
    let applier = applier(&store, &log);
    let entry =
        NewFrame { kind: 0, position: Default::default(), count: 0, time_ms: 0, payload: Payload::default() };
    let log_id = log_id_of(entry.position);
    // Two others have flushed the entry, so it is committed and applied; here it is not even appended.
    let committed = stream::iter([Ok((Entry::new_blank(log_id), None))]);
    Adapter(applier.clone()).apply(committed).await.unwrap();
    assert_eq!(applier.capture().map(|checkpoint| position_of(checkpoint.applied)), Some(entry.position));

    let file = format!("checkpoint-{GROUP}");
    timeout(Duration::from_millis(50), checkpoint_task::save(&applier)).await.expect_err("waits for the log");
    assert!(store.load_file(&file).unwrap().is_none());

    durable(|done| log.append(vec![entry], done)).await.unwrap();
    checkpoint_task::save(&applier).await.unwrap();
    assert!(store.load_file(&file).unwrap().is_some());
    store.close();
}

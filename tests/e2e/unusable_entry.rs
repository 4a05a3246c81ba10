//! An intact entry of a newer program: its partition fails at every start, and the node serves on.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use fanfare_environment::Environment;
use fanfare_log::{DiskFileSystem, NewFrame, Payload, Position, RollPolicy, Store, StoreOptions};
use fanfare_testkit::eventually;
use fanfare_tests::{
    client::{Client, event},
    node::Node,
};
use tonic::Code;

const EVENT_TYPE: &str = "test.unusable.happened";
const DEADLINE: Duration = Duration::from_secs(30);
const SEGMENT_BYTES: u64 = 1 << 20;
/// No program has entries of this kind yet.
const UNKNOWN_KIND: u8 = 77;

/// Appends an entry of an unknown kind to the log of a stopped node; false if the log has no entry.
fn append_unknown(data_dir: &Path, name: &str) -> anyhow::Result<bool> {
    let options = StoreOptions {
        segment_bytes: SEGMENT_BYTES,
        pool_segments_max: 0,
        cache_bytes: 1 << 20,
        queue_bytes_max: 1 << 20,
        index_draft_bytes_max: 64 << 20,
        page_cache_bytes: 0,
    };
    let files = Arc::new(DiskFileSystem);
    let store = Store::open(&Environment::system(), files, data_dir, options, Box::new(|_| ()))?;
    let replica = store.log_replica(name).with_context(|| format!("there is a log {name}"))?;
    let log = store.open_log(name, replica, RollPolicy { segment_bytes: SEGMENT_BYTES, age_ms: u64::MAX })?;
    let bounds = log.bounds();
    let Some(last) = bounds.last.filter(|_| bounds.next_offset > 0) else {
        store.close();
        return Ok(false);
    };
    let position = Position { index: last.index + 1, ..last };
    let payload = Payload::new(vec![bytes::Bytes::from_static(b"of tomorrow")]);
    let unknown = NewFrame { kind: UNKNOWN_KIND, position, count: 0, time_ms: 0, payload };
    let (done, synced) = std::sync::mpsc::sync_channel(1);
    log.append(vec![unknown], Box::new(move |result| drop(done.send(result))));
    synced.recv()??;
    store.close();
    Ok(true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_of_a_newer_program_fails_its_partition_at_every_start_and_no_other() -> anyhow::Result<()> {
    let mut node = Node::start(&[
        ("FANFARE_PUBLISH__PARTITIONS", "2"),
        ("FANFARE_STORAGE__SEGMENT_BYTES", "1MiB"),
        ("FANFARE_STORAGE__RETENTION_BYTES", "128MiB"),
        ("FANFARE_STORAGE__DEAD_LETTER_RETENTION_BYTES", "1GiB"),
    ])
    .await?;
    let (key, data_dir) = (node.key()?, node.directory().to_owned());
    let client = Client::connect(node.address().context("running")?, &key).await?;
    client.create_type(EVENT_TYPE).await?;
    client.publish(event(EVENT_TYPE, "before", "key", &serde_json::json!({}))).await?;
    node.kill()?;
    // One account has one partition, so one of the two logs has the event.
    let with_events = ["events-0", "events-1"].map(|name| append_unknown(&data_dir, name));
    let with_events: Vec<bool> = with_events.into_iter().collect::<Result<_, _>>()?;
    ensure!(with_events.iter().filter(|has| **has).count() == 1, "{with_events:?}");

    for start in 0..2 {
        node.restart().await?;
        let client = Client::connect(node.address().context("running")?, &key).await?;
        eventually("the partition refuses events", DEADLINE, async || {
            let refused = client.publish(event(EVENT_TYPE, "after", "key", &serde_json::json!({}))).await;
            let status = refused.err().context("it is taken")?;
            ensure!(status.code() == Code::DataLoss, "{status:?}");
            Ok(())
        })
        .await?;
        let other = format!("test.unusable.other-{start}");
        client.create_type(&other).await.context("the node serves on")?;
        node.kill()?;
    }
    Ok(())
}

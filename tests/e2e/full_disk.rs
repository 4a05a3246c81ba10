//! A full disk: publishing is refused by name, everything else goes on, and room is all it takes to publish again.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context, bail, ensure};
use fanfare_testkit::eventually;
use fanfare_tests::{
    client::{Client, assert_accounted, event},
    disk::Disk,
    node::Node,
    receiver::Receiver,
};
use tonic::{Code, Status};

const EVENT_TYPE: &str = "test.disk.filled";
const DEADLINE: Duration = Duration::from_secs(30);
const DISK_MEBIBYTES: u32 = 200;
const FILLER_BYTES: usize = 150 << 20;
const EVENT_BYTES: usize = 32 << 10;
/// More than ever fit.
const EVENTS_MAX: usize = 5_000;

async fn publish(client: &Client, number: usize) -> Result<String, Status> {
    let id = format!("event-{number:06}");
    let data = serde_json::json!({ "padding": "x".repeat(EVENT_BYTES) });
    client.publish(event(EVENT_TYPE, &id, &id, &data)).await?;
    Ok(id)
}

/// Publishes until the disk is full; what was acknowledged until then.
async fn fill(client: &Client) -> anyhow::Result<BTreeSet<String>> {
    let mut acknowledged = BTreeSet::new();
    for number in 0..EVENTS_MAX {
        match publish(client, number).await {
            Ok(id) => acknowledged.insert(id),
            Err(status) => {
                assert_full(&status);
                return Ok(acknowledged);
            }
        };
    }
    bail!("{EVENTS_MAX} events fit on a disk of {DISK_MEBIBYTES} MiB")
}

fn assert_full(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(String::from_utf8_lossy(status.details()).contains("DISK_FULL"), "{status:?}");
    assert!(status.message().contains("disk") && status.message().contains("free"), "{status:?}");
}

async fn check_stored(client: &Client, acknowledged: &BTreeSet<String>) -> anyhow::Result<()> {
    let stored = client.read_all().await?.into_iter().filter_map(|found| Some(found.event?.id));
    let stored: BTreeSet<String> = stored.collect();
    let lost = acknowledged.difference(&stored).count();
    ensure!(lost == 0, "{lost} of {} acknowledged events are not there", acknowledged.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_events_by_name_and_keeps_all_it_took() -> anyhow::Result<()> {
    let disk = Disk::new(DISK_MEBIBYTES)?;
    let filler = disk.path().join("filler");
    fs::write(&filler, vec![1; FILLER_BYTES])?;
    let receiver = Receiver::start().await;
    let settings = [
        ("FANFARE_DELIVERY__ALLOW_HTTP", "true"),
        ("FANFARE_DELIVERY__ALLOW_CIDRS", "[\"127.0.0.0/8\"]"),
        ("FANFARE_STORAGE__SEGMENT_BYTES", "4MiB"),
        ("FANFARE_STORAGE__RETENTION_BYTES", "1GiB"),
    ];
    let mut node = Node::start_on(&disk, &settings).await?;
    let key = node.key()?;
    let connect = async |node: &Node| Client::connect(node.address().context("running")?, &key).await;
    let client = connect(&node).await?;
    let subscription = client.subscribe(EVENT_TYPE, &receiver.url()).await?;

    let mut acknowledged = fill(&client).await?;
    ensure!(acknowledged.len() > 100, "only {} events fit", acknowledged.len());
    check_stored(&client, &acknowledged).await?;
    eventually("deliveries on a full disk", DEADLINE, async || {
        let stats = client.stats(&subscription).await?;
        assert_accounted(&stats);
        ensure!(stats.pending == 0 && stats.delivered >= acknowledged.len() as u64, "{stats:?}");
        Ok(())
    })
    .await?;

    node.kill()?;
    node.restart().await.context("restart on a full disk")?;
    let client = connect(&node).await?;
    check_stored(&client, &acknowledged).await?;
    let refused = publish(&client, EVENTS_MAX).await;
    assert_full(&refused.expect_err("the disk is still full"));

    fs::remove_file(&filler)?;
    let id = eventually("publishing again", DEADLINE, async || Ok(publish(&client, EVENTS_MAX + 1).await?))
        .await?;
    acknowledged.insert(id);
    check_stored(&client, &acknowledged).await
}

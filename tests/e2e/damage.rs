//! A damaged log: its partition says so and gives nothing, the node serves on, nothing is cut by itself; once the
//! operator accepts the loss, what is left is readable and delivered, and no offset names another event.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, ensure};
use fanfare_testkit::eventually;
use fanfare_tests::{
    client::{Client, assert_accounted, event},
    node::{Node, program},
    receiver::Receiver,
};
use tonic::{Code, Status};

const EVENT_TYPE: &str = "test.damage.happened";
const DEADLINE: Duration = Duration::from_secs(30);
/// Enough for several segments.
const DELIVERED: u64 = 300;
/// All of these are in the newest segment, whose damage closes the partition at once.
const PENDING: u64 = 60;
/// Enough rounds of the disk follow for the synced end to be recorded behind it.
const DAMAGED_PENDING: u64 = DELIVERED + 10;
const PADDING_BYTES: usize = 8 << 10;

fn settings() -> [(&'static str, &'static str); 5] {
    [
        ("FANFARE_DELIVERY__ALLOW_HTTP", "true"),
        ("FANFARE_DELIVERY__ALLOW_CIDRS", "[\"127.0.0.0/8\"]"),
        ("FANFARE_STORAGE__SEGMENT_BYTES", "1MiB"),
        ("FANFARE_STORAGE__RETENTION_BYTES", "128MiB"),
        ("FANFARE_STORAGE__DEAD_LETTER_RETENTION_BYTES", "1GiB"),
    ]
}

fn id(number: u64) -> String {
    format!("event-{number:06}")
}

async fn publish(client: &Client, numbers: std::ops::Range<u64>) -> anyhow::Result<BTreeMap<u64, String>> {
    let mut acknowledged = BTreeMap::new();
    for number in numbers {
        let data = serde_json::json!({ "number": number, "padding": "x".repeat(PADDING_BYTES) });
        let key = format!("key-{}", number % 5);
        let response = client.publish(event(EVENT_TYPE, &id(number), &key, &data)).await?;
        acknowledged.insert(response.offset, id(number));
    }
    Ok(acknowledged)
}

/// The position of `wanted` in `bytes`.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// The segments of the one partition that has events; without the one that is made ahead, which a start may remove.
fn segments(data_dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut segments = Vec::new();
    for log in fs::read_dir(data_dir.join("logs"))? {
        let log = log?.path();
        if log.to_string_lossy().contains("events-") {
            let files = fs::read_dir(&log)?.map(|file| file.map(|file| file.path()));
            let files = files.collect::<Result<Vec<_>, _>>()?.into_iter();
            let holds_events =
                |path: &PathBuf| fs::read(path).is_ok_and(|bytes| find(&bytes, b"event-").is_some());
            let files = files.filter(|path| path.extension() == Some("seg".as_ref()));
            segments.push(files.filter(holds_events).collect::<Vec<_>>());
        }
    }
    let mut largest = segments.into_iter().max_by_key(Vec::len).context("a log of events")?;
    largest.sort();
    Ok(largest)
}

/// Flips a byte in the event of this number.
fn damage(segments: &[PathBuf], number: u64) -> anyhow::Result<()> {
    for path in segments {
        let mut bytes = fs::read(path)?;
        let wanted = id(number).into_bytes();
        if let Some(at) = find(&bytes, &wanted) {
            bytes[at + wanted.len() + 100] ^= 1;
            fs::write(path, bytes)?;
            return Ok(());
        }
    }
    anyhow::bail!("event {number} is in none of {segments:?}")
}

fn accept_loss(data_dir: &Path, more: &[&str]) -> anyhow::Result<Output> {
    let partition =
        segments(data_dir)?[0].parent().and_then(Path::file_name).context("a log's name")?.to_owned();
    let partition = partition.to_string_lossy().replace('-', "/");
    let mut command = Command::new(program()?);
    command.args(["log", "accept-loss", "--partition", &partition, "--data-dir"]).arg(data_dir).args(more);
    Ok(command.envs(settings()).output()?)
}

fn assert_damaged(answer: Result<impl std::fmt::Debug, Status>, data_dir: &Path) {
    let status = answer.expect_err("the partition is damaged");
    assert_eq!(status.code(), Code::DataLoss, "{status:?}");
    let details = String::from_utf8_lossy(status.details()).into_owned();
    assert!(details.contains("PARTITION_DAMAGED") && details.contains("end_offset"), "{details}");
    let told = format!("{} {details}", status.message());
    assert!(!told.contains(&data_dir.display().to_string()), "tenants are told of files: {told}");
    assert!(told.contains("events/"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_partition_says_so_until_its_loss_is_accepted_and_then_goes_on() -> anyhow::Result<()> {
    let receiver = Receiver::start().await;
    let mut node = Node::start(&settings()).await?;
    let (key, data_dir) = (node.key()?, node.directory().to_owned());
    let connect = async |node: &Node| Client::connect(node.address().context("running")?, &key).await;
    let client = connect(&node).await?;
    let subscription = client.subscribe(EVENT_TYPE, &receiver.url()).await?;

    let mut acknowledged = publish(&client, 0..DELIVERED).await?;
    eventually("the first deliveries", DEADLINE, async || {
        let stats = client.stats(&subscription).await?;
        ensure!(stats.delivered == DELIVERED, "{stats:?}");
        Ok(())
    })
    .await?;
    receiver.fail_with(503);
    acknowledged.extend(publish(&client, DELIVERED..DELIVERED + PENDING).await?);
    eventually("all of it being counted in the log", DEADLINE, async || {
        let stats = client.stats(&subscription).await?;
        let counted = stats.partitions.iter().any(|partition| partition.frontier >= DELIVERED + PENDING);
        ensure!(counted && stats.pending == PENDING, "{stats:?}");
        Ok(())
    })
    .await?;
    node.kill()?;
    let (sealed, newest) = (3, DAMAGED_PENDING);
    let files = segments(&data_dir)?;
    ensure!(files.len() >= 3, "{files:?}");
    damage(&files[..1], sealed)?;
    damage(&files, newest)?;
    let damaged = files.iter().map(fs::read).collect::<Result<Vec<_>, _>>()?;

    node.restart().await?;
    let client = connect(&node).await?;
    assert_damaged(
        client.publish(event(EVENT_TYPE, "another", "key", &serde_json::json!({}))).await,
        &data_dir,
    );
    assert_damaged(client.read_all().await, &data_dir);
    client.create_type("test.damage.other").await.context("the node serves on")?;
    let refused = accept_loss(&data_dir, &["--yes"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("in use"), "a running node is not left alone: {said}");
    node.kill()?;
    ensure!(
        damaged == files.iter().map(fs::read).collect::<Result<Vec<_>, _>>()?,
        "something was cut by itself"
    );

    accept(&data_dir, &files)?;

    receiver.recover();
    node.restart().await?;
    let client = connect(&node).await?;
    let more = publish(&client, 1000..1003).await?;
    ensure!(more.keys().copied().eq(360..363), "{more:?}");
    acknowledged.extend(more);
    acknowledged.retain(|_, name| *name != id(sealed) && *name != id(newest));
    let stored: BTreeMap<u64, String> = client
        .read_all()
        .await?
        .into_iter()
        .filter_map(|found| Some((found.offset, found.event?.id)))
        .collect();
    ensure!(stored == acknowledged, "what is left is not where it was");
    check_deliveries(&client, &receiver, &subscription, &acknowledged).await
}

/// A look first, which changes nothing; then for real.
fn accept(data_dir: &Path, files: &[PathBuf]) -> anyhow::Result<()> {
    let damaged = files.iter().map(fs::read).collect::<Result<Vec<_>, _>>()?;
    let foretold = accept_loss(data_dir, &[])?;
    let said = String::from_utf8_lossy(&foretold.stdout).into_owned();
    for words in
        ["lost: 1 event, at offset 3 ", "is damaged at byte", "kept: 358 events", "offset 360", "--yes"]
    {
        ensure!(said.contains(words), "{words:?} in {said}");
    }
    ensure!(damaged == files.iter().map(fs::read).collect::<Result<Vec<_>, _>>()?, "a look changes files");
    let accepted = accept_loss(data_dir, &["--yes"])?;
    ensure!(accepted.status.success(), "{accepted:?}");
    let quarantine = data_dir.join("quarantine");
    let log = files[0].parent().and_then(Path::file_name).context("a log's name")?;
    ensure!(fs::read_dir(quarantine.join(log))?.count() == 2, "the damaged files are not kept");
    Ok(())
}

async fn check_deliveries(
    client: &Client,
    receiver: &Receiver,
    subscription: &str,
    left: &BTreeMap<u64, String>,
) -> anyhow::Result<()> {
    eventually("an empty backlog", DEADLINE, async || {
        let stats = client.stats(subscription).await?;
        assert_accounted(&stats);
        ensure!(stats.pending == 0 && stats.matched >= DELIVERED + PENDING + 3, "{stats:?}");
        // The one that was pending and is lost has an outcome, too.
        ensure!(stats.matched == stats.delivered + 1 && stats.cancelled + stats.expired == 1, "{stats:?}");
        Ok(())
    })
    .await?;
    let delivered: std::collections::BTreeSet<String> =
        receiver.delivered().into_iter().map(|event| event.id).collect();
    let missing: Vec<_> = left.values().filter(|name| !delivered.contains(*name)).collect();
    ensure!(missing.is_empty(), "not delivered: {missing:?}");
    Ok(())
}

//! File descriptors: a start without enough is refused by name, and sinks that hang take nobody else's.

use std::{process::Command, time::Duration};

use anyhow::ensure;
use fanfare_testkit::eventually;
use fanfare_tests::{
    client::{Client, event},
    node::{Node, found, program},
};
use tokio::net::TcpListener;

const DEADLINE: Duration = Duration::from_secs(30);
const OPEN_FILES: u32 = 320;
const HANGING_SINKS: usize = 60;
const SINK_EVENTS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_below_what_the_configuration_needs_is_refused_with_the_numbers() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    found(Command::new(program()?), &directory.path().join("data"), &[])?;
    let refused = Command::new("sh")
        .args(["-c", "ulimit -n 256 && exec \"$0\" \"$@\""])
        .arg(program()?)
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(directory.path().join("data"))
        .output()?;
    let text = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(1) && text.contains("256"), "{text}");
    ensure!(text.contains("ulimit -Hn") && text.contains("LimitNOFILE"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sinks_that_hang_take_no_descriptor_of_the_log() -> anyhow::Result<()> {
    let settings = [
        ("FANFARE_DELIVERY__ALLOW_HTTP", "true"),
        ("FANFARE_DELIVERY__ALLOW_CIDRS", "[\"127.0.0.0/8\"]"),
        ("FANFARE_SINKS__CONNECTIONS_MAX", "80"),
        ("FANFARE_LISTEN__CONNECTIONS_MAX", "20"),
        ("FANFARE_PUBLISH__PARTITIONS", "2"),
        ("FANFARE_STORAGE__SEGMENT_BYTES", "64MiB"),
        ("FANFARE_STORAGE__RETENTION_BYTES", "128MiB"),
        ("FANFARE_STORAGE__DEAD_LETTER_RETENTION_BYTES", "1GiB"),
    ];
    let mut node = Node::start_with_open_files(OPEN_FILES, &settings).await?;
    let client = Client::connect(node.address().expect("running"), &node.key()?).await?;
    // Connections are taken by the kernel, and nobody answers.
    let hanging = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", hanging.local_addr()?);
    for number in 0..HANGING_SINKS {
        client.subscribe(&event_type(number), &url).await?;
    }
    publish_to_all(&client, "before").await?;
    // Requests of all sinks are under way, or wait; a node that opened all of them would be gone.
    publish_to_all(&client, "meanwhile").await?;
    node.kill()?;
    node.restart().await?;
    let client = Client::connect(node.address().expect("running"), &node.key()?).await?;
    eventually("all that was acknowledged", DEADLINE, async || {
        let stored = client.read_all().await?.len();
        ensure!(stored == 2 * HANGING_SINKS * SINK_EVENTS, "{stored}");
        Ok(())
    })
    .await?;
    publish_to_all(&client, "after").await
}

fn event_type(number: usize) -> String {
    format!("test.descriptors.sink-{number}")
}

/// Events with keys of their own, so that each may be a request of its own.
async fn publish_to_all(client: &Client, name: &str) -> anyhow::Result<()> {
    for number in 0..HANGING_SINKS * SINK_EVENTS {
        let id = format!("{name}-{number}");
        let data = serde_json::json!({ "number": number });
        client.publish(event(&event_type(number % HANGING_SINKS), &id, &id, &data)).await?;
    }
    Ok(())
}

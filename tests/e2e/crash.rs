//! kill -9 under load: what was acknowledged is stored where it was said, and delivered; repeats are bounded.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use fanfare_testkit::eventually;
use fanfare_tests::{
    client::{Client, assert_accounted, event},
    node::Node,
    receiver::Receiver,
};
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinSet};

const EVENT_TYPE: &str = "test.crash.happened";
const PRODUCERS: u64 = 8;
const KILLS: usize = 3;
const ACKS_BETWEEN_KILLS: usize = 400;
/// The delivery window, which bounds what one crash may repeat.
const WINDOW: usize = 256;
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Acknowledged {
    partition: u32,
    offset: u64,
}

type Ledger = Arc<Mutex<BTreeMap<String, Acknowledged>>>;

/// Publishes numbered events of one key, one at a time, each until it is acknowledged.
async fn produce(key: u64, client: watch::Receiver<Client>, ledger: Ledger, stop: Arc<AtomicBool>) {
    let subject = format!("key-{key}");
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let id = format!("{subject}-{number:06}");
        let data = serde_json::json!({ "number": number });
        loop {
            let publisher = client.borrow().clone();
            let attempt = publisher.publish(event(EVENT_TYPE, &id, &subject, &data));
            if let Ok(Ok(response)) = tokio::time::timeout(Duration::from_secs(2), attempt).await {
                let position = Acknowledged { partition: response.partition, offset: response.offset };
                ledger.lock().insert(id, position);
                break;
            }
            tokio::task::yield_now().await;
        }
        number += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_skipped_by_kill_9() -> anyhow::Result<()> {
    let receiver = Receiver::start().await;
    let settings =
        [("FANFARE_DELIVERY__ALLOW_HTTP", "true"), ("FANFARE_DELIVERY__ALLOW_CIDRS", "[\"127.0.0.0/8\"]")];
    let mut node = Node::start(&settings).await?;
    let key = node.key()?;
    let connect = async |node: &Node| Client::connect(node.address().context("running")?, &key).await;
    let client = connect(&node).await?;
    let subscription = client.subscribe(EVENT_TYPE, &receiver.url()).await?;

    let ledger = Ledger::default();
    let stop = Arc::new(AtomicBool::new(false));
    let (clients, watched) = watch::channel(client);
    let mut producers = JoinSet::new();
    for producer in 0..PRODUCERS {
        producers.spawn(produce(producer, watched.clone(), ledger.clone(), stop.clone()));
    }
    for round in 1..=KILLS {
        eventually("acknowledgements between two kills", DEADLINE, async || {
            let acknowledged = ledger.lock().len();
            ensure!(acknowledged >= round * ACKS_BETWEEN_KILLS, "{acknowledged} acknowledged");
            Ok(())
        })
        .await?;
        node.kill()?;
        node.restart().await?;
        clients.send_replace(connect(&node).await?);
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(producer) = producers.join_next().await {
        producer?;
    }

    let client = connect(&node).await?;
    let acknowledged = ledger.lock().clone();
    check_stored(&client, &acknowledged).await?;
    eventually("delivery of everything acknowledged", DEADLINE, async || {
        let delivered: BTreeSet<String> = receiver.delivered().into_iter().map(|event| event.id).collect();
        let missing = acknowledged.keys().filter(|id| !delivered.contains(*id)).count();
        ensure!(missing == 0, "{missing} of {} are missing", acknowledged.len());
        Ok(())
    })
    .await?;
    check_order_and_repeats(&receiver, acknowledged.len());
    eventually("an empty backlog", DEADLINE, async || {
        let stats = client.stats(&subscription).await?;
        assert_accounted(&stats);
        ensure!(stats.pending == 0, "{} pending", stats.pending);
        ensure!(stats.delivered == stats.matched, "{stats:?}");
        Ok(())
    })
    .await
}

async fn check_stored(client: &Client, acknowledged: &BTreeMap<String, Acknowledged>) -> anyhow::Result<()> {
    let mut stored = BTreeMap::new();
    for found in client.read_all().await? {
        let event = found.event.context("a stored event")?;
        let position = Acknowledged { partition: found.partition, offset: found.offset };
        let before = stored.insert(event.id.clone(), position);
        ensure!(before.is_none(), "{} is stored twice: at {before:?} and {position:?}", event.id);
    }
    for (id, position) in acknowledged {
        ensure!(
            stored.get(id) == Some(position),
            "{id} was acknowledged at {position:?}, found {:?}",
            stored.get(id)
        );
    }
    Ok(())
}

fn check_order_and_repeats(receiver: &Receiver, published: usize) {
    let (mut seen, mut last) = (BTreeSet::new(), BTreeMap::new());
    let delivered = receiver.delivered();
    for event in &delivered {
        if seen.insert(event.id.clone()) {
            let before = last.insert(event.subject.clone(), event.id.clone());
            assert!(before.is_none_or(|before| before < event.id), "{} came too early", event.id);
        }
    }
    let repeats = delivered.len() - seen.len();
    assert!(repeats <= KILLS * WINDOW, "{repeats} repeats of {published} events after {KILLS} kills");
}

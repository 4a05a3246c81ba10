//! Reads by many, of some accounts, and of what has long left memory.

use std::collections::HashSet;

use super::*;

/// Twelve accounts in turn, 1000 events of 4 KiB: four times what stays in memory.
async fn filled() -> Node {
    let node = Node::new().await;
    for event in 0..1_000_u16 {
        let account = u8::try_from(event % 12).unwrap() + 1;
        node.append(batch(account, &[&format!("{event}:{}", "x".repeat(4_000))])).await;
    }
    node
}

async fn followed(partition: Partition, account: u8) -> Vec<Offset> {
    let (mut next, mut found) = (Offset::ZERO, Vec::new());
    loop {
        let chunk = partition.read(next, AccountFilter::One(account_id(account)), 256 << 10).await.unwrap();
        if chunk.batches.is_empty() {
            return found;
        }
        found.extend(chunk.batches.iter().flat_map(|batch| batch.events().map(|event| event.offset)));
        next = chunk.next;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_at_the_same_offset_share_reads_from_disk() {
    let node = filled().await;
    let tasks = tokio_util::task::TaskTracker::new();
    let readers = (1..=12).map(|account| tasks.spawn(followed(node.partition.clone(), account)));
    for (account, reader) in readers.collect::<Vec<_>>().into_iter().enumerate() {
        let expected: Vec<_> = (account as u64..1_000).step_by(12).map(Offset).collect();
        assert_eq!(reader.await.unwrap(), expected);
    }
    let open = node.open_backing();
    let reads = open.reader.read_cache.inserts();
    // Alone each would make four: a reader that falls behind the others' frames reads some again.
    assert!((3..=24).contains(&reads), "12 readers of 4 MB made {reads} reads of 1 MiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_of_a_set_of_accounts_returns_their_events_alone() {
    let node = filled().await;
    let among: Arc<HashSet<_>> = Arc::new([account_id(3), account_id(7), account_id(99)].into());
    let (mut next, mut found) = (Offset::ZERO, Vec::new());
    while next < Offset(1_000) {
        let chunk = node.partition.read(next, AccountFilter::Set(among.clone()), 64 << 10).await.unwrap();
        assert!(chunk.next > next);
        found.extend(chunk.batches.iter().flat_map(|batch| batch.events().map(|event| event.offset.0)));
        next = chunk.next;
    }
    let expected: Vec<_> = (0..1_000).filter(|event| event % 12 == 2 || event % 12 == 6).collect();
    assert_eq!(found, expected);
    let nobody = node.partition.read(Offset(5), AccountFilter::Set(Arc::default()), 1).await.unwrap();
    assert_eq!((nobody.batches.len(), nobody.next), (0, Offset(1_000)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reader_uses_cached_frames_committed_after_its_view() {
    let node = Node::new().await;
    node.append(batch(1, &["before"])).await;
    let node = node.restart().await;
    let open = node.open_backing();
    let turn = open.reader.fill_lock.acquire().await.unwrap();
    let mut read =
        std::pin::pin!(node.partition.read(Offset::ZERO, AccountFilter::One(account_id(1)), 256 << 10));
    tokio::select! {
        biased;
        early = &mut read => panic!("it does not wait for its turn: {early:?}"),
        () = std::future::ready(()) => (),
    }
    node.append(batch(1, &["after"])).await;
    let log = open.group.log();
    let last = log.bounds().last.unwrap();
    open.reader.read_cache.insert_frames(log.read(0, last.index + 1, 1 << 20).unwrap());
    drop(turn);
    let chunk = timeout(DEADLINE, read).await.expect("it reads in time").unwrap();
    let events =
        chunk.batches.iter().flat_map(|batch| batch.events().map(|event| text(&event)).collect::<Vec<_>>());
    assert_eq!(events.collect::<Vec<_>>(), numbered(0, &["before", "after"]));
    assert_eq!(chunk.next, Offset(2));
}

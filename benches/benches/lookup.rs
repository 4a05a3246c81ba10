//! Finding an event and reading for one account in 1 GiB of events of a hundred accounts, and what indexing it costs.
//! The files are in the page cache, so this is what it costs in processor time.

use std::{
    fs,
    hint::black_box,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanfare_environment::{Clock, Environment};
use fanfare_log::Store;
use fanfare_model::{AccountId, EventIdHash, KeyHash, Offset, PartitionId, ReplicaId, Stream};
use fanfare_partition::{
    AccountFilter, Budgets, MemoryLimits, Partition, PartitionOptions, PartitionReplica, RecordBatchBuilder,
    Role,
};
use fanfare_raft::Host;
use tokio::runtime::Runtime;
use tokio_util::task::TaskTracker;

const ID: PartitionId = PartitionId { stream: Stream::Events, index: 0 };
const EVENT_BYTES: usize = 1024;
const BATCH_EVENTS: u64 = 64;
const BATCHES: u64 = 16 * 1024;
const EVENTS: u64 = BATCHES * BATCH_EVENTS;
/// One batch in so many is the rare account's.
const RARE_EVERY: u64 = 1024;
const BUSY_ACCOUNTS: u64 = 100;
/// Extension of a sealed segment's secondary index.
const INDEX: &str = "keys";
const INDEXED_WITHIN: Duration = Duration::from_secs(60);

struct Noon;

impl Clock for Noon {
    fn unix_ms(&self) -> u64 {
        43_200_000
    }

    fn monotonic(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

fn account(batch: u64) -> AccountId {
    let number = if batch.is_multiple_of(RARE_EVERY) { u64::MAX } else { batch % BUSY_ACCOUNTS };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    AccountId::from_bytes(bytes)
}

fn id(event: u64) -> EventIdHash {
    EventIdHash::of("/bench", &event.to_string())
}

async fn open(store: &Store) -> Partition {
    let options = PartitionOptions {
        retention_ms: 4 * 3_600_000,
        retention_bytes: 1 << 40,
        segment_bytes: 64 << 20,
        entry_bytes_max: 1 << 20,
        dedup_window_ms: 600_000,
        checkpoint_interval_ms: 5_000,
        quota: None,
    };
    // The dedup window is so small that next to nothing is found in memory.
    let limits =
        MemoryLimits { dedup_bytes_max: 64 << 10, queue_bytes_max: 64 << 20, read_cache_bytes_max: 4 << 20 };
    let host = Host::without_peers(store.clone(), Environment::system().with_clock(Arc::new(Noon)));
    let budgets = Budgets::new(limits, 1);
    let alone = PartitionReplica::alone(ID, ReplicaId(1), &host);
    let partition = Partition::open(alone, &host, options, &budgets, TaskTracker::new());
    let partition = partition.await.expect("a partition");
    let mut role = partition.role();
    role.wait_for(|role| matches!(role, Role::Leader { .. })).await.expect("it leads");
    partition
}

async fn fill(partition: &Partition) {
    let event = vec![b'x'; EVENT_BYTES];
    let mut receipts = Vec::new();
    for batch in 0..BATCHES {
        let mut builder = RecordBatchBuilder::new(account(batch), 0);
        for number in batch * BATCH_EVENTS..(batch + 1) * BATCH_EVENTS {
            builder.push(&event, id(number), KeyHash::of("key"));
        }
        receipts.push(partition.append(builder.finish()).expect("it is taken"));
        if receipts.len() == 256 {
            for receipt in receipts.drain(..) {
                receipt.committed().await.expect("it is committed");
            }
        }
    }
    for receipt in receipts {
        receipt.committed().await.expect("it is committed");
    }
}

/// Reads everything of the accounts; the number of events.
async fn read(partition: &Partition, accounts: &AccountFilter) -> usize {
    let (mut next, mut events) = (Offset::ZERO, 0);
    while next < Offset(EVENTS) {
        let chunk = partition.read(next, accounts.clone(), 256 << 10).await.expect("it is readable");
        events += chunk.batches.iter().map(|batch| batch.len()).sum::<usize>();
        next = chunk.next;
    }
    events
}

fn remove_indexes(directory: &Path) {
    for file in fs::read_dir(directory).expect("a directory") {
        let path = file.expect("a file").path();
        if path.extension().is_some_and(|extension| extension == INDEX) {
            fs::remove_file(path).expect("remove");
        }
    }
}

/// Waits until all segments but the newest have an index.
fn wait_until_indexed(directory: &Path) {
    let count = |extension: &str| {
        let files = fs::read_dir(directory).expect("a directory").filter_map(Result::ok);
        files.filter(|file| file.path().extension().is_some_and(|found| found == extension)).count()
    };
    let deadline = Instant::now() + INDEXED_WITHIN;
    while count(INDEX) < count("idx") {
        assert!(Instant::now() < deadline, "{} of {} segments have an index", count(INDEX), count("idx"));
        thread::yield_now();
    }
}

fn lookup(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let log_directory = directory.path().join("logs/events-0");
    let runtime = Runtime::new().expect("a runtime");
    let store = fanfare_benches::store(directory.path(), 0).expect("a store");
    let partition = runtime.block_on(open(&store));
    runtime.block_on(fill(&partition));
    wait_until_indexed(&log_directory);

    let mut group = criterion.benchmark_group("1 GiB of events of 1 KiB, 100 accounts");
    group.sample_size(20);
    let mut find = |name: &str, event: u64, account: AccountId, is_there: bool| {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let found = runtime.block_on(partition.find(account, id(event))).expect("it is readable");
                assert_eq!(black_box(found).is_some(), is_there);
            });
        });
    };
    find("find the oldest event", BATCH_EVENTS, account(1), true);
    find("find an event in the middle", EVENTS / 2 + 1, account(BATCHES / 2), true);
    find("find no event", EVENTS, account(1), false);
    group.sample_size(10);
    for (name, accounts) in [
        ("read all of an account with one batch in 1024", AccountFilter::One(account(0))),
        ("read all of an account with one batch in 100", AccountFilter::One(account(1))),
        ("read everything", AccountFilter::All),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| assert!(runtime.block_on(read(&partition, &accounts)) > 0));
        });
    }
    group.finish();
    runtime.block_on(partition.shutdown());
    drop(partition);
    store.close();
    drop(store);

    let mut group = criterion.benchmark_group("build the secondary indexes");
    group.sample_size(10).throughput(Throughput::Elements(EVENTS));
    group.bench_function("1 GiB of events of 1 KiB", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                remove_indexes(&log_directory);
                let store = fanfare_benches::store(directory.path(), 0).expect("a store");
                let partition = runtime.block_on(open(&store));
                let began = Instant::now();
                wait_until_indexed(&log_directory);
                spent += began.elapsed();
                runtime.block_on(partition.shutdown());
                drop(partition);
                store.close();
            }
            spent
        });
    });
    group.finish();
}

criterion_group!(benches, lookup);
criterion_main!(benches);

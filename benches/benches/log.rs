//! Appending to and recovering a log on the real disk, synced before it is called durable.

use std::{hint::black_box, sync::mpsc::sync_channel};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fanfare_benches::{frame, log, store};

const EVENTS: u32 = 100;
const EVENT_BYTES: usize = 1024;
const RECOVERED_FRAMES: u64 = 2_000;

/// Appends of 100 events of 1 KiB, eight under way, the bench waiting for the last of them.
fn append(criterion: &mut Criterion) {
    let payload = Bytes::from(vec![7; EVENTS as usize * EVENT_BYTES]);
    let mut group = criterion.benchmark_group("log append, 8 x 100 events of 1 KiB");
    group.throughput(Throughput::Elements(8 * u64::from(EVENTS))).sample_size(20);
    for (name, spare) in [("full pool", 24), ("fresh files", 0)] {
        let directory = tempfile::tempdir().expect("a directory");
        let store = store(directory.path(), spare).expect("a store");
        let log = log(&store).expect("a log");
        let mut index = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (done, durable) = sync_channel(8);
                for _ in 0..8 {
                    index += 1;
                    let done = done.clone();
                    let told = Box::new(move |result| done.send(result).expect("the bench waits"));
                    log.append(vec![frame(index, EVENTS, payload.clone())], told);
                }
                for _ in 0..8 {
                    durable.recv().expect("an answer").expect("durable");
                }
            });
        });
        store.close();
    }
    group.finish();
}

/// Opening a log of 200 MB after a clean stop.
fn recover(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let payload = Bytes::from(vec![7; EVENTS as usize * EVENT_BYTES]);
    let filled = store(directory.path(), 0).expect("a store");
    let writing = log(&filled).expect("a log");
    for index in 1..=RECOVERED_FRAMES {
        writing
            .append(vec![frame(index, EVENTS, payload.clone())], Box::new(|result| result.expect("durable")));
    }
    filled.close();
    let bytes = RECOVERED_FRAMES * u64::from(EVENTS) * EVENT_BYTES as u64;
    let mut group = criterion.benchmark_group("log recovery");
    group.throughput(Throughput::Bytes(bytes)).sample_size(10);
    group.bench_function("200 MB", |bencher| {
        bencher.iter_batched(
            || store(directory.path(), 0).expect("a store"),
            |store| {
                black_box(log(&store).expect("a log").bounds());
                store.close();
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, append, recover);
criterion_main!(benches);

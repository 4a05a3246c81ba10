//! Cost of each event on its way into a record batch: reading its attributes, hashing, copying.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanfare_benches::event;
use fanfare_model::{AccountId, Event};
use fanfare_partition::RecordBatchBuilder;

fn batch(criterion: &mut Criterion) {
    let events: Vec<Vec<u8>> = (0..100).map(|number| event(number, "com.acme.order.paid")).collect();
    let mut group = criterion.benchmark_group("record batch of 100 events of 1 KiB");
    group.throughput(Throughput::Elements(100));
    group.bench_function("read attributes", |bencher| {
        bencher.iter(|| {
            for bytes in &events {
                black_box(Event::parse(black_box(bytes)).expect("an event").partition_key());
            }
        });
    });
    group.bench_function("read, hash and collect", |bencher| {
        bencher.iter(|| {
            let mut builder = RecordBatchBuilder::new(AccountId::from_bytes([1; 16]), 1);
            for bytes in &events {
                let event = Event::parse(black_box(bytes)).expect("an event");
                builder.push(bytes, event.id_hash(), event.key_hash());
            }
            black_box(builder.finish())
        });
    });
    group.finish();
}

criterion_group!(benches, batch);
criterion_main!(benches);

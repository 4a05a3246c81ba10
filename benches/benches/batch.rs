//! What every event costs on its way into a record batch: reading its attributes, hashing, copying.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanfare_model::{AccountId, Event};
use fanfare_partition::RecordBatchBuilder;

/// A CloudEvent of 1 KiB as a producer sends it.
fn event(number: u32) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| {
        let mut field = vec![number << 3 | 2];
        let mut length = bytes.len();
        while length >= 0x80 {
            field.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
            length >>= 7;
        }
        field.push(u8::try_from(length).expect("seven bits"));
        field.extend_from_slice(bytes);
        field
    };
    let subject = field(5, &[field(1, b"subject"), field(2, &field(3, b"customer-17"))].concat());
    let id = format!("0192{number:032x}");
    let parts = [
        field(1, id.as_bytes()),
        field(2, b"/bench"),
        field(3, b"1.0"),
        field(4, b"com.acme.order.paid"),
        subject,
    ];
    [parts.concat(), field(7, &[b'x'; 900])].concat()
}

fn batch(criterion: &mut Criterion) {
    let events: Vec<Vec<u8>> = (0..100).map(event).collect();
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

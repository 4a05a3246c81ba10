//! The cost of finding an event's subscriptions among others that do not match.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare_benches::event;
use fanfare_delivery::{Filter, FilterIndex};
use fanfare_model::{AccountId, Event, Offset, SubscriptionId};

const EVENTS: u32 = 100;
const WANTED: &str = "com.acme.order.paid";
const ACCOUNT: AccountId = AccountId::from_bytes([0xac; 16]);

/// The subscriptions that do not match the event: of other accounts, or for other types of the same account.
#[derive(Clone, Copy)]
enum Others {
    Accounts,
    Types,
}

fn numbered(number: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// One subscription that matches the event, and `count` that do not.
fn index(others: Others, count: u32) -> FilterIndex<u32> {
    let mut index = FilterIndex::default();
    let mut insert = |account, number: u32, event_type: &str| {
        let filter = Filter::of_types([event_type]);
        let offsets = Offset::ZERO..Offset(u64::MAX);
        let id = SubscriptionId::from_bytes(numbered(number));
        index.insert(account, id, number, [(offsets, &filter)]);
    };
    insert(ACCOUNT, 0, WANTED);
    for number in 1..=count {
        match others {
            Others::Accounts => insert(AccountId::from_bytes(numbered(number)), number, WANTED),
            Others::Types => insert(ACCOUNT, number, &format!("com.acme.other.type{number}")),
        }
    }
    index
}

fn matching(criterion: &mut Criterion) {
    let events: Vec<Vec<u8>> = (0..EVENTS).map(|number| event(number, WANTED)).collect();
    for (name, others) in [("accounts", Others::Accounts), ("types", Others::Types)] {
        let mut group =
            criterion.benchmark_group(format!("match 100 events among subscriptions of other {name}"));
        group.throughput(Throughput::Elements(EVENTS.into()));
        for count in [10, 1_000, 100_000] {
            let index = index(others, count);
            group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
                bencher.iter(|| {
                    // Each event as if it were a batch of its own.
                    let mut matches = 0;
                    for bytes in &events {
                        let filters = index.account(black_box(ACCOUNT)).expect("it has a subscription");
                        let event_type = Event::type_of(black_box(bytes)).expect("an event");
                        filters.match_event(event_type, Offset(1), |_| matches += 1);
                    }
                    assert_eq!(black_box(matches), EVENTS);
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, matching);
criterion_main!(benches);

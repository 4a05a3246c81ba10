//! Cost of finding the subscriptions that match an event, among others that do not.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare_benches::event;
use fanfare_delivery::MatchIndex;
use fanfare_model::{AccountId, Event};

const EVENTS: u32 = 100;
const WANTED: &str = "com.acme.order.paid";
const ACCOUNT: AccountId = AccountId::from_bytes([0xac; 16]);

/// Position of the subscriptions that do not match the event.
#[derive(Clone, Copy)]
enum Others {
    Accounts,
    Types,
}

fn account(number: u32) -> AccountId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    AccountId::from_bytes(bytes)
}

/// One subscription that wants the event, and `count` that do not.
fn index(others: Others, count: u32) -> MatchIndex<u32, ()> {
    let mut index = MatchIndex::default();
    let wanted = (0, vec![(WANTED.to_owned(), ())]);
    match others {
        Others::Accounts => {
            index.replace(ACCOUNT, [wanted]);
            for number in 1..=count {
                index.replace(account(number), [(number, vec![(WANTED.to_owned(), ())])]);
            }
        }
        Others::Types => {
            let types = |number| vec![(format!("com.acme.other.type{number}"), ())];
            index.replace(ACCOUNT, (1..=count).map(|number| (number, types(number))).chain([wanted]));
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
                    let wants = |bytes: &Vec<u8>| {
                        let choices = index.account(black_box(ACCOUNT)).expect("it has a subscription");
                        let parsed = Event::parse(black_box(bytes)).expect("an event");
                        choices.targets(parsed.event_type).len()
                    };
                    assert_eq!(black_box(events.iter().map(wants).sum::<usize>()), EVENTS as usize);
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, matching);
criterion_main!(benches);

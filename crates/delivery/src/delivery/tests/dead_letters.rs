use fanfare_partition::{AccountFilter, AppendError, Reason};

use super::*;
use crate::dead_letters::{DeadLetterKey, DeadLetterRecord};

const KEYS: [&str; 5] = ["a", "b", "poison", "c", "d"];
const POISON: usize = 2;

pub(super) async fn dead_letters(world: &World, subscription: &Subscription) -> Vec<DeadLetter> {
    let query = DeadLetterQuery { subscription: Some(subscription.id), ..DeadLetterQuery::default() };
    world.delivery.list_dead_letters(subscription.account, query).await.unwrap().letters
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_key_is_parked_alone_and_becomes_dead_letters_after_its_last_attempt() {
    let world = World::new().await;
    let orders = world.subscribe("orders", &["order"]).await;
    let sink = world.sink("orders");
    sink.fail_key(KeyHash::of("poison"), busy("cannot take it"));
    let mut poison = 0;
    let mut published = 0;
    // Other keys are delivered between the failures: two failures in a row would be an outage.
    while world.stats(&orders).dead_lettered < 3 {
        world.publish("order", &KEYS, published..published + 5).await;
        published += 5;
        poison += 1;
        world.stats_when(&orders, |stats| stats.delivered == published as u64 - poison).await;
        assert!(published < 5_000, "{:?}", world.stats(&orders));
    }
    sink.heal_key(KeyHash::of("poison"));
    let stats = world.settled(&orders, published as u64).await;
    assert_eq!(stats.reasons, BTreeMap::from([("attempts_exhausted", stats.dead_lettered)]));
    let delivered = sink.delivered();
    check_order(&delivered);
    let letters = dead_letters(&world, &orders).await;
    assert_eq!(letters.len() as u64, stats.dead_lettered);
    assert_eq!(
        letters.len() + delivered.len(),
        published,
        "each event is delivered or a dead letter, never both"
    );
    let expected = (0..letters.len()).map(|index| POISON + 5 * index).collect::<Vec<_>>();
    let stored =
        letters.iter().map(|letter| Event::parse(&letter.event).unwrap().id.parse::<usize>().unwrap());
    assert_eq!(stored.collect::<Vec<_>>(), expected, "the oldest of the key, in order");
    assert!(letters.iter().all(|letter| (letter.attempts, letter.reason) == (4, "attempts_exhausted")));
    assert!(letters[0].detail.contains("503") && letters[0].detail.contains("cannot take it"));
    let again = world.delivery.dead_letter(orders.account, &letters[0].id).await.unwrap();
    assert_eq!(again.as_ref(), Some(&letters[0]));
    assert_eq!(world.delivery.dead_letter(orders.account, &"0".repeat(32)).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_event_becomes_a_dead_letter_after_its_last_attempt() {
    let world = World::new().await;
    let orders = world.subscribe("orders", &["order"]).await;
    world.sink("orders").fail_key(KeyHash::of("poison"), busy("no"));
    world.publish("order", &["poison"], 0..1).await;
    assert_eq!(world.settled(&orders, 1).await.dead_lettered, 1);
    assert_eq!(world.sink("orders").attempts().started, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_events_become_dead_letters_among_delivered_ones_and_are_listed_in_pages() {
    let world = World::new().await;
    let orders = world.subscribe("orders", &["order"]).await;
    let why = Failure::new(Failure::HTTP_STATUS, "bad request").with_status(400);
    world.sink("orders").fail_key(KeyHash::of("poison"), Answer::Rejected { why });
    world.publish("order", &KEYS, 0..100).await;
    let published = world.deliver_until_given_up(&orders, 100, 20).await;
    let stats = world.settled(&orders, 100 + published).await;
    assert_eq!((stats.delivered, stats.reasons), (80 + published, BTreeMap::from([("rejected", 20)])));
    let (mut after, mut offsets) = (None, Vec::new());
    loop {
        let query = DeadLetterQuery { limit: 7, after, ..DeadLetterQuery::default() };
        let page = world.delivery.list_dead_letters(orders.account, query).await.unwrap();
        assert!(page.letters.len() <= 7);
        offsets.extend(page.letters.into_iter().map(|letter| letter.offset));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(offsets.len(), 20);
    offsets.dedup();
    assert_eq!(offsets.len(), 20, "no dead letter is on two pages");
    let other = AccountId::from_bytes([9; 16]);
    let foreign = world.delivery.list_dead_letters(other, DeadLetterQuery::default()).await.unwrap();
    assert!(foreign.letters.is_empty(), "another account sees nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_above_the_sinks_size_limit_becomes_a_dead_letter_and_the_next_is_delivered() {
    let world = World::new().await;
    let orders = world.subscribe("orders", &["order"]).await;
    let sink = world.sink("orders");
    let small = event("order", "a", 1, "{}");
    sink.set_abilities(fanfare_sinks::Abilities {
        event_bytes_max: small.len(),
        ..fanfare_sinks::Sink::abilities(sink.as_ref())
    });
    world.append(vec![event("order", "a", 0, "{\"large\":true}"), small]).await;
    let stats = world.settled(&orders, 2).await;
    assert_eq!((stats.delivered, stats.reasons), (1, BTreeMap::from([("too_large", 1)])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pinned_subscription_gets_valid_events_with_the_version_and_dead_letters_name_the_pointer() {
    let world = World::new().await;
    let tenant = world.tenant();
    let schema = r#"{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}"#;
    world.catalog.create_schema(tenant, "order", "", schema).await.unwrap();
    world.create_type("order", Some("order")).await;
    let sink = world.create_sink("pinned").await;
    let mut new = subscription(&sink, &["order"]);
    new.types[0].schema_version = Some(1);
    let pinned = world.catalog.create_subscription(tenant, new, StartAt::Next).await.unwrap();
    world.delivery.reconciled(pinned.account, pinned.id).await.unwrap();
    world.append(vec![event("order", "a", 0, r#"{"n":1}"#), event("order", "a", 1, r#"{"n":"x"}"#)]).await;
    let stats = world.settled(&pinned, 2).await;
    assert_eq!((stats.delivered, stats.reasons), (1, BTreeMap::from([("schema_version", 1)])));
    let delivered = world.sink("pinned").delivered();
    assert_eq!(delivered[0].dataschema.as_deref(), Some("urn:fanfare:schema:order:1"));
    let letters = dead_letters(&world, &pinned).await;
    assert!(letters[0].detail.contains("/n"), "{}", letters[0].detail);
    assert_eq!(letters[0].attempts, 0);
}

pub(super) fn record<'a>(subscription: &Subscription, offset: u64, event: &'a [u8]) -> DeadLetterRecord<'a> {
    let Subscription { id, epoch, .. } = *subscription;
    DeadLetterRecord {
        key: DeadLetterKey { subscription: id, epoch, partition: 0, offset: Offset(offset) },
        append_time: Timestamp(0),
        time: Timestamp(0),
        attempts: 1,
        reason: Reason::Rejected,
        detail: "",
        event,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_dead_letters_do_not_prevent_new_ones() {
    let mut setup = Setup { cache_bytes: 16 << 10, ..Setup::default() };
    setup.partition.segment_bytes = 16 << 10;
    setup.limit_dead_letters(150 << 10, 1 << 30);
    let world = World::with(setup).await;
    let orders = world.subscribe("orders", &["order"]).await;
    let event = [0; 1 << 10];
    for offset in 0..100 {
        let record = record(&orders, offset, &event);
        world.delivery.context.dead_letters.append(orders.account, KeyHash::of("a"), &record).await.unwrap();
    }
    world.damage("dead-letters");
    let unread = world.dead_letters.read(Offset::ZERO, AccountFilter::One(orders.account), 1 << 20).await;
    assert!(matches!(unread, Err(ReadError::DataLoss { .. })), "{unread:?}");

    let stream = &world.delivery.context.dead_letters;
    let append = async |offset| {
        stream.append(orders.account, KeyHash::of("a"), &record(&orders, offset, &event)).await
    };
    append(100).await.unwrap();
    let mut appended = 1;
    let refused = loop {
        match append(100 + appended).await {
            Ok(()) => appended += 1,
            Err(error) => break error,
        }
        assert!(appended < 80, "unreadable dead letters count");
    };
    assert!(matches!(refused, AppendError::OverQuota { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_of_large_dead_letters_ends_at_a_mebibyte_and_the_next_continues() {
    let world = World::new().await;
    let orders = world.subscribe("orders", &["order"]).await;
    let event = vec![0; 300 << 10];
    for offset in 0..8 {
        let record = record(&orders, offset, &event);
        world.delivery.context.dead_letters.append(orders.account, KeyHash::of("a"), &record).await.unwrap();
    }
    let (mut after, mut pages, mut offsets) = (None, Vec::new(), Vec::new());
    loop {
        let query = DeadLetterQuery { after, ..DeadLetterQuery::default() };
        let page = world.delivery.list_dead_letters(orders.account, query).await.unwrap();
        pages.push(page.letters.len());
        offsets.extend(page.letters.iter().map(|letter| letter.offset.0));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((pages, offsets), (vec![3, 3, 2], (0..8).collect()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undecodable_dead_letter_is_an_error_that_names_its_offset() {
    let world = World::new().await;
    let orders = world.subscribe("orders", &["order"]).await;
    let stream = &world.delivery.context.dead_letters;
    let valid = record(&orders, 0, b"event");
    stream.append(orders.account, KeyHash::of("a"), &valid).await.unwrap();
    let mut unknown_version = record(&orders, 1, b"event").encode();
    unknown_version[4] = u8::MAX;
    let key = DeadLetterKey { offset: Offset(1), ..valid.key };
    let mut batch = RecordBatchBuilder::new(orders.account, 0);
    batch.push(&unknown_version, key.id(), KeyHash::of("a"));
    world.dead_letters.append(batch.finish()).unwrap().committed().await.unwrap();

    let list = async |after| {
        let query = DeadLetterQuery { after, ..DeadLetterQuery::default() };
        world.delivery.list_dead_letters(orders.account, query).await
    };
    let first = list(None).await.unwrap();
    assert_eq!(first.letters.len(), 1, "the page ends before the undecodable dead letter");
    let error = list(first.next).await.unwrap_err();
    let DeadLetterError::Read(ReadError::DataLoss { offsets, .. }) = &error else { panic!("{error}") };
    assert_eq!(*offsets, Offset(1)..Offset(2));
    assert!(error.to_string().contains("version 255"), "{error}");
    let id = format!("{:032x}", key.id().0);
    assert!(world.delivery.dead_letter(orders.account, &id).await.is_err());
}

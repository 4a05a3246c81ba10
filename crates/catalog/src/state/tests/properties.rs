//! Any commands in any order: replicas agree to the byte, and a restored one goes on as if nothing had happened.

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;

/// Small pools, so that commands meet each other's objects.
fn change() -> impl Strategy<Value = Change> {
    let owner = select(vec![ACCOUNT, AccountId::from_bytes([1; 16]), AccountId::from_bytes([2; 16])]);
    (owner, 0..20_u8, 0..4_u8, option::weighted(0.2, 1..40_u64)).prop_map(
        |(account, verb, pick, expected_revision)| {
            let name = ["a", "b", "c", "not a name"][usize::from(pick)].to_owned();
            let schema = (pick != 1).then(|| ["a", "b", "c", "d"][usize::from(pick)].to_owned());
            let status = [
                EventTypeStatus::Available,
                EventTypeStatus::Deprecated,
                EventTypeStatus::Restricted,
                EventTypeStatus::Discontinued,
            ][usize::from(pick)];
            let event_type = NewEventType { name: name.clone(), description: String::new(), schema, status };
            let (sink_id, id) = (SinkId::from_bytes([pick; 16]), SubscriptionId::from_bytes([pick; 16]));
            let config = if pick == 3 { kinesis("arn") } else { webhook("whsec_AAAA", None) };
            let sink = described("", config);
            let types = vec![SubscribedType {
                event_type: name.clone(),
                schema_version: expected_revision.map(|_| 1),
            }];
            let spec = NewSubscription { description: String::new(), sink: sink_id, types };
            let created = CreatedSubscription { id, spec: spec.clone(), start: StartAt::Time(Timestamp(9)) };
            let (description, document) = (String::new(), "{}".to_owned());
            match verb {
                0 => Change::CreateAccount(self::account(account, &account.to_string())),
                1 => Change::Bootstrap { account: self::account(account, "first"), key: key_record(pick) },
                2 => Change::CreateKey { account, key: key_record(pick) },
                3 => Change::CreateEventType { account, event_type },
                4 => Change::UpdateEventType { account, event_type, expected_revision },
                5 => Change::DeleteEventType { account, name },
                6 => Change::CreateSchema { account, id: name, description, document },
                7 => Change::CreateSchemaVersion { account, id: name, document },
                8 => Change::UpdateSchema { account, id: name, description, expected_revision },
                9 => Change::DeleteSchema { account, id: name },
                10 => Change::CreateSink { account, id: sink_id, sink },
                11 => Change::UpdateSink { account, id: sink_id, sink, expected_revision },
                12 => Change::DeleteSink { account, id: sink_id },
                13 => Change::CreateSubscription { account, subscription: created },
                14 => Change::UpdateSubscription { account, id, spec, expected_revision },
                15 => Change::RegisterBroker(NewBroker {
                    incarnation: [pick; 16],
                    address: String::new(),
                    founder: (pick < 2).then_some(BrokerId(u64::from(pick) + 1)),
                }),
                16 => Change::AssignReplicas {
                    broker: BrokerId(expected_revision.unwrap_or(1)),
                    partitions: vec![PartitionId::events(pick.into()), PartitionId::dead_letters(0)],
                },
                17 => Change::RemoveReplicas {
                    broker: BrokerId(1),
                    partitions: vec![PartitionId::events(pick.into())],
                },
                18 => Change::SetLimits(AccountLimits { sinks_max: pick.into(), ..AccountLimits::default() }),
                _ if pick == 0 => Change::DeleteSubscription { account, id: SUBSCRIPTION },
                _ if pick == 1 => Change::DeleteSubscription { account, id },
                _ if pick == 2 => Change::PauseSubscription { account, id },
                _ => Change::ResumeSubscription { account, id: SUBSCRIPTION },
            }
        },
    )
}

/// Everything that is named exists, whatever happened.
fn assert_whole(view: &View) {
    for account in view.accounts.values() {
        for event_type in account.event_types.values() {
            let schema = event_type.schema.as_ref();
            assert!(schema.is_none_or(|id| account.schemas.contains_key(id)), "{event_type:?}");
        }
        for subscription in account.subscriptions.values() {
            assert!(account.sinks.contains_key(&subscription.sink), "{subscription:?}");
            assert!(subscription.epoch <= subscription.revision && subscription.revision <= view.revision);
            for one in &subscription.types {
                let event_type = &account.event_types[&one.event_type];
                if let Some(version) = one.schema_version {
                    let schema = &account.schemas[event_type.schema.as_ref().expect("a pinned type has one")];
                    assert!(schema.version(version).is_some(), "{subscription:?}");
                }
            }
        }
    }
    for pair in view.cluster.replicas.windows(2) {
        assert!((pair[0].partition, pair[0].broker) < (pair[1].partition, pair[1].broker), "{pair:?}");
    }
    assert!(view.cluster.replicas.iter().all(|placed| view.cluster.brokers.contains_key(&placed.broker)));
    assert_eq!(
        *view,
        View::of(view.revision, view.cluster.clone(), view.accounts.clone()),
        "the index of keys is the accounts' keys"
    );
}

proptest! {
    #[test]
    fn replicas_agree_and_a_restored_one_goes_on(changes in vec(change(), 0..120), cut in 0..120_usize) {
        let mut one = Replica::furnished();
        let mut other = Replica::furnished();
        for (index, change) in changes.into_iter().enumerate() {
            if index == cut {
                // Restoring shares nothing with what it was made of.
                other.state = State::decode(&other.state.encode()).unwrap();
                prop_assert_eq!(&other.state, &one.state);
            }
            let before = one.state.view.clone();
            let first = one.apply(change.clone());
            let second = other.apply(change);
            match (&first, &second) {
                (Ok(first), Ok(second)) => prop_assert_eq!(first.revision, second.revision),
                (Err(first), Err(second)) => {
                    prop_assert_eq!(first, second);
                    prop_assert_eq!(&one.state.view, &before);
                }
                _ => prop_assert!(false, "{:?} and {:?}", first, second),
            }
            assert_whole(&one.state.view);
        }
        prop_assert_eq!(one.state.encode(), other.state.encode());
        prop_assert_eq!(one.state.hash(), other.state.hash());
    }
}

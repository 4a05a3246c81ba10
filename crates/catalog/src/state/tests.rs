mod brokers;
mod properties;
mod refusals;
mod requests;

use fanfare_model::{
    BrokerId, DeliverySettings, KeyId, KinesisConfig, PartitionId, Secret, SinkConfig, SinkId, StartAt,
    SubscribedType, SubscriptionId, WebhookConfig, WebhookMethod,
};

use super::*;
use crate::{
    AccountLimits, EventTypeStatus, NewEventType, NewSink, NewSubscription,
    command::{CreatedSubscription, KeyRecord, NewAccount, NewBroker},
};

const ACCOUNT: AccountId = AccountId::from_bytes([0xA; 16]);
const SINK: SinkId = SinkId::from_bytes([0xB; 16]);
const SUBSCRIPTION: SubscriptionId = SubscriptionId::from_bytes([0xC; 16]);

/// A state and the index of its next command.
struct Replica {
    state: State,
    next: u64,
}

impl Replica {
    fn new() -> Self {
        Self { state: State::default(), next: 1 }
    }

    /// One account with a schema of two versions, two types, a sink and a subscription to one type at version 2.
    fn furnished() -> Self {
        let mut replica = Self::new();
        for change in furniture() {
            replica.apply(change).unwrap();
        }
        replica
    }

    fn apply(&mut self, change: Change) -> Reply {
        let time = Timestamp(1000 + self.next);
        self.apply_stored(&Command::new(time, change).encode()).unwrap()
    }

    fn apply_stored(&mut self, stored: &[u8]) -> Result<Reply, CommandError> {
        let position = Position { term: 1, leader: 7, index: self.next };
        self.next += 1;
        self.state.apply(position, stored)
    }

    fn account(&self) -> &AccountView {
        self.state.view.account(ACCOUNT).unwrap()
    }
}

fn furniture() -> Vec<Change> {
    let spec = spec(&[("order.paid", Some(2))]);
    let subscription = CreatedSubscription { id: SUBSCRIPTION, spec, start: StartAt::Next };
    vec![
        Change::CreateAccount(account(ACCOUNT, "acme")),
        schema("Order"),
        Change::CreateSchemaVersion { account: ACCOUNT, id: "Order".into(), document: "{}".into() },
        event_type("order.paid", Some("Order")),
        event_type("order.sent", None),
        sink(SINK, webhook("whsec_AAAA", None)),
        Change::CreateSubscription { account: ACCOUNT, subscription },
    ]
}

/// Stored commands that make, change and delete at least one object of each kind; the first stands at index 1.
pub(crate) fn commands() -> Vec<Vec<u8>> {
    let mut changes = furniture();
    changes.extend([
        Change::CreateKey { account: ACCOUNT, key: key_record(1) },
        Change::CreateAccount(account(AccountId::from_bytes([0xF; 16]), "second")),
        status("order.paid", Some("Order"), EventTypeStatus::Deprecated),
        Change::PauseSubscription { account: ACCOUNT, id: SUBSCRIPTION },
        Change::DeleteEventType { account: ACCOUNT, name: "order.sent".into() },
        Change::DeleteSubscription { account: ACCOUNT, id: SUBSCRIPTION },
        Change::DeleteSink { account: ACCOUNT, id: SINK },
        Change::RegisterBroker(NewBroker {
            incarnation: [1; 16],
            address: String::new(),
            founder: Some(BrokerId(1)),
        }),
        Change::AssignReplicas { broker: BrokerId(1), partitions: vec![PartitionId::events(3)] },
    ]);
    let commands = (1000..).zip(changes).map(|(time, change)| Command::new(Timestamp(time), change).encode());
    commands.collect()
}

/// The states after each of [`commands`].
pub(crate) fn history() -> Vec<State> {
    let mut replica = Replica::new();
    let mut states = Vec::new();
    for stored in commands() {
        replica.apply_stored(&stored).unwrap().unwrap();
        states.push(replica.state.clone());
    }
    states
}

fn account(id: AccountId, name: &str) -> NewAccount {
    NewAccount { id, name: name.to_owned(), partitions: 12 }
}

fn key_record(id: u8) -> KeyRecord {
    KeyRecord { id: KeyId::from_bytes([id; 16]), description: "ci".to_owned(), secret_hash: [id; 32] }
}

fn new_type(name: &str, schema: Option<&str>, status: EventTypeStatus) -> NewEventType {
    NewEventType { name: name.into(), description: String::new(), schema: schema.map(str::to_owned), status }
}

fn event_type(name: &str, schema: Option<&str>) -> Change {
    let event_type = new_type(name, schema, EventTypeStatus::Available);
    Change::CreateEventType { account: ACCOUNT, event_type }
}

fn status(name: &str, schema: Option<&str>, status: EventTypeStatus) -> Change {
    let event_type = new_type(name, schema, status);
    Change::UpdateEventType { account: ACCOUNT, event_type, expected_revision: None }
}

fn schema(id: &str) -> Change {
    let (id, document) = (id.to_owned(), r#"{"type":"object"}"#.to_owned());
    Change::CreateSchema { account: ACCOUNT, id, description: String::new(), document }
}

fn webhook(secret: &str, token: Option<&str>) -> SinkConfig {
    SinkConfig::Webhook(WebhookConfig {
        destination: "https://example.com/hook".to_owned(),
        method: WebhookMethod::Post,
        batch_events: false,
        batch_events_max: 100,
        timeout_ms: 15_000,
        signing_secret: Secret::new(secret.to_owned()),
        previous_secret: None,
        twilio_auth_token: token.map(|token| Secret::new(token.to_owned())),
    })
}

fn kinesis(arn: &str) -> SinkConfig {
    let arn = arn.to_owned();
    SinkConfig::Kinesis(KinesisConfig {
        arn,
        role_arn: None,
        external_id: None,
        endpoint_override: None,
        timeout_ms: 15_000,
    })
}

fn described(description: &str, config: SinkConfig) -> NewSink {
    NewSink { description: description.to_owned(), config, delivery: DeliverySettings::default() }
}

fn sink(id: SinkId, config: SinkConfig) -> Change {
    Change::CreateSink { account: ACCOUNT, id, sink: described("", config) }
}

fn update_sink(config: SinkConfig, expected_revision: Option<u64>) -> Change {
    let sink = described("changed", config);
    Change::UpdateSink { account: ACCOUNT, id: SINK, sink, expected_revision }
}

fn spec(types: &[(&str, Option<u32>)]) -> NewSubscription {
    let types = types
        .iter()
        .map(|(name, version)| SubscribedType { event_type: (*name).to_owned(), schema_version: *version });
    NewSubscription { description: String::new(), sink: SINK, types: types.collect() }
}

fn subscribe(id: u8, spec: NewSubscription) -> Change {
    let id = SubscriptionId::from_bytes([id; 16]);
    let subscription = CreatedSubscription { id, spec, start: StartAt::Earliest };
    Change::CreateSubscription { account: ACCOUNT, subscription }
}

fn update_subscription(spec: NewSubscription, expected_revision: Option<u64>) -> Change {
    Change::UpdateSubscription { account: ACCOUNT, id: SUBSCRIPTION, spec, expected_revision }
}

#[test]
fn a_stored_state_stays_readable() {
    let furnished = Replica::furnished().state;
    let mut replica = Replica::furnished();
    replica.request("deploy-1", [3; 32], event_type("order.lost", None)).unwrap();
    let state = replica.state;
    let stored = include_str!("../../tests/golden/state-v4.json").trim_end();
    assert_eq!(String::from_utf8(state.encode()).unwrap(), stored);
    assert_eq!(State::decode(stored.as_bytes()), Ok(state));
    // Sinks had no delivery settings, and requests no ids.
    let earlier =
        [include_str!("../../tests/golden/state-v2.json"), include_str!("../../tests/golden/state-v3.json")];
    for stored in earlier {
        assert_eq!(State::decode(stored.as_bytes()), Ok(furnished.clone()));
    }
}

#[test]
fn a_state_of_another_version_is_refused() {
    let stored = String::from_utf8(Replica::furnished().state.encode()).unwrap();
    let newer = r#"{"v":5,"anything":[]}"#;
    assert_eq!(State::decode(newer.as_bytes()), Err(DocumentError::Newer));
    assert_eq!(State::decode(br#"{"v":1,"accounts":{}}"#), Err(DocumentError::Older));
    for broken in ["", "{}", &stored[..stored.len() - 1], &stored.replace("revision", "version")] {
        assert_eq!(State::decode(broken.as_bytes()), Err(DocumentError::Malformed), "{broken}");
    }
}

#[test]
fn a_newer_command_stops_the_state_where_it_is() {
    let mut replica = Replica::furnished();
    let before = replica.state.clone();
    let stored = br#"{"v":6}"#;
    assert_eq!(replica.apply_stored(stored).unwrap_err(), CommandError::Newer { version: 6 });
    assert_eq!(replica.state, before);
}

#[test]
fn accounts_take_partitions_in_turn() {
    let mut replica = Replica::new();
    for number in 0..14_u8 {
        let new = account(AccountId::from_bytes([number; 16]), &format!("tenant {number}"));
        replica.apply(Change::CreateAccount(new)).unwrap();
    }
    let partitions = replica.state.view.accounts.values().map(|view| view.account.shard.partitions.clone());
    let expected = (0..14_u16).map(|number| vec![number % 12]);
    assert!(partitions.eq(expected));
    assert!(replica.state.view.accounts.values().all(|view| view.account.shard.epoch == 1));
}

#[test]
fn bootstrap_makes_an_account_and_its_key_once() {
    let mut replica = Replica::new();
    let bootstrap = |id| Change::Bootstrap {
        account: account(AccountId::from_bytes([id; 16]), &format!("tenant {id}")),
        key: key_record(id),
    };
    replica.apply(bootstrap(1)).unwrap();
    let once = replica.state.view.clone();
    assert_eq!(once.keys.get(&KeyId::from_bytes([1; 16])), Some(&AccountId::from_bytes([1; 16])));
    assert!(matches!(
        replica.apply(bootstrap(2)),
        Err(ChangeError::Exists { kind: ObjectKind::Account, .. })
    ));
    assert_eq!(replica.state.view, once);
}

#[test]
fn every_change_has_a_revision_of_its_own() {
    let mut replica = Replica::furnished();
    let created = replica.account().subscriptions[&SUBSCRIPTION].clone();
    assert_eq!((created.epoch, created.revision), (7, 7));
    let changed = replica.apply(update_subscription(spec(&[("order.sent", None)]), Some(7))).unwrap();
    assert_eq!(changed.revision, 8);
    let updated = replica.account().subscriptions[&SUBSCRIPTION].clone();
    assert_eq!((updated.epoch, updated.revision), (7, 8), "an update keeps what was matched");
    assert_eq!((updated.created, updated.start), (created.created, created.start));

    replica.apply(Change::DeleteSubscription { account: ACCOUNT, id: SUBSCRIPTION }).unwrap();
    replica.apply(subscribe(0xC, spec(&[("order.sent", None)]))).unwrap();
    assert_eq!(replica.account().subscriptions[&SUBSCRIPTION].epoch, 10, "an epoch is never used again");
}

#[test]
fn pausing_twice_is_pausing_once() {
    let mut replica = Replica::furnished();
    let pause = || Change::PauseSubscription { account: ACCOUNT, id: SUBSCRIPTION };
    let resume = || Change::ResumeSubscription { account: ACCOUNT, id: SUBSCRIPTION };
    for (change, paused, revision) in
        [(resume(), false, 7), (pause(), true, 8), (pause(), true, 8), (resume(), false, 9)]
    {
        assert_eq!(replica.apply(change).unwrap().revision, revision);
        let subscription = &replica.account().subscriptions[&SUBSCRIPTION];
        assert_eq!((subscription.paused, subscription.revision), (paused, revision));
        assert_eq!(replica.state.view.revision, revision);
    }
}

#[test]
fn an_update_holds_the_whole_configuration() {
    let mut replica = Replica::furnished();
    for config in [webhook("whsec_BBBB", Some("token")), webhook("whsec_BBBB", None)] {
        replica.apply(update_sink(config.clone(), None)).unwrap();
        assert_eq!(replica.account().sinks[&SINK].config, config);
    }
}

#[test]
fn a_subscription_keeps_a_restricted_type() {
    let mut replica = Replica::furnished();
    replica.apply(status("order.paid", Some("Order"), EventTypeStatus::Restricted)).unwrap();
    let both = spec(&[("order.sent", None), ("order.paid", Some(1))]);
    replica.apply(update_subscription(both, None)).unwrap();
    replica.apply(status("order.sent", None, EventTypeStatus::Discontinued)).unwrap();
    replica.apply(update_subscription(spec(&[("order.sent", None)]), None)).unwrap();
    let gone = replica.apply(update_subscription(spec(&[("order.paid", None)]), None));
    assert!(matches!(gone, Err(ChangeError::Invalid { .. })), "a type once left is new again: {gone:?}");
}

#[test]
fn a_view_in_use_never_changes() {
    let mut replica = Replica::furnished();
    let held = replica.state.view.clone();
    let (copy, account) = ((*held).clone(), held.account(ACCOUNT).unwrap().clone());
    replica.apply(Change::DeleteSubscription { account: ACCOUNT, id: SUBSCRIPTION }).unwrap();
    replica.apply(Change::CreateAccount(self::account(AccountId::from_bytes([9; 16]), "other"))).unwrap();
    assert_eq!(*held, copy);
    assert!(Arc::ptr_eq(held.account(ACCOUNT).unwrap(), &account));
    let other = replica.state.view.account(AccountId::from_bytes([9; 16])).unwrap().clone();
    replica.apply(event_type("order.lost", None)).unwrap();
    let untouched = replica.state.view.account(AccountId::from_bytes([9; 16])).unwrap();
    assert!(Arc::ptr_eq(untouched, &other), "a change copies one account at most");
}

#[test]
fn time_never_goes_back() {
    let mut replica = Replica::furnished();
    let late = Command::new(Timestamp(5000), event_type("late", None));
    let early = Command::new(Timestamp(10), event_type("early", None));
    replica.apply_stored(&late.encode()).unwrap().unwrap();
    replica.apply_stored(&early.encode()).unwrap().unwrap();
    assert_eq!(replica.account().event_types["early"].created, Timestamp(5000));
}

#[test]
fn a_checkpoint_whose_objects_name_another_account_is_malformed() {
    let other = AccountId::from_bytes([0xE; 16]);
    let mut replica = Replica::furnished();
    replica.apply(Change::CreateKey { account: ACCOUNT, key: key_record(1) }).unwrap();
    let foreign: [fn(&mut AccountView, AccountId); 4] = [
        |view, other| view.account.id = other,
        |view, other| view.sinks.values_mut().for_each(|sink| Arc::make_mut(sink).account = other),
        |view, other| view.subscriptions.values_mut().for_each(|one| Arc::make_mut(one).account = other),
        |view, other| view.keys.values_mut().for_each(|key| Arc::make_mut(key).account = other),
    ];
    for (case, change) in foreign.into_iter().enumerate() {
        let mut state = replica.state.clone();
        let view = Arc::make_mut(&mut state.view).accounts.get_mut(&ACCOUNT).unwrap();
        change(Arc::make_mut(view), other);
        assert_eq!(State::decode(&state.encode()), Err(DocumentError::Malformed), "case {case}");
        // A replica that holds such a state refuses the change in order.
        let pause =
            Command::new(Timestamp(9_999), Change::PauseSubscription { account: ACCOUNT, id: SUBSCRIPTION });
        let position = Position { term: 1, leader: 7, index: 100 };
        let reply = state.apply(position, &pause.encode()).unwrap();
        assert_eq!(reply.is_err(), case == 2, "case {case}: {reply:?}");
    }
    assert_eq!(State::decode(&replica.state.encode()), Ok(replica.state));
}

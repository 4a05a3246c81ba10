use super::*;
use crate::{RequestId, command::Conditions, request};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

impl Replica {
    pub(super) fn request(&mut self, id: &str, arguments: [u8; 32], change: Change) -> Reply {
        let time = Timestamp(1000 + self.next);
        self.request_at(time, id, arguments, change)
    }

    fn request_at(&mut self, time: Timestamp, id: &str, arguments: [u8; 32], change: Change) -> Reply {
        let request = Some(RequestId { id: id.to_owned(), arguments });
        self.conditional(time, Conditions { account: ACCOUNT, expected_revision: None, request }, change)
    }

    fn conditional(&mut self, time: Timestamp, conditions: Conditions, change: Change) -> Reply {
        let command = Command::new(time, change).under(Some(conditions));
        self.apply_stored(&command.encode()).unwrap()
    }
}

fn other_sink(id: u8) -> Change {
    sink(SinkId::from_bytes([id; 16]), webhook("whsec_BBBB", None))
}

#[test]
fn a_repeat_changes_nothing_and_answers_the_first_object_as_it_is_now() {
    let mut replica = Replica::furnished();
    let made = replica.request("a", [1; 32], other_sink(1)).unwrap().sink().unwrap();
    let revision = replica.state.view.revision;
    let repeat = replica.request("a", [1; 32], other_sink(2)).unwrap();
    assert_eq!((repeat.revision, repeat.sink().unwrap()), (revision, made.clone()));
    assert_eq!(replica.account().sinks.len(), 2);
    let id = made.id;
    let Change::UpdateSink { account, sink, expected_revision, .. } =
        update_sink(webhook("whsec_CCCC", None), None)
    else {
        panic!("an update of a sink")
    };
    replica.apply(Change::UpdateSink { account, id, sink, expected_revision }).unwrap();
    let repeat = replica.request("a", [1; 32], other_sink(3)).unwrap().sink().unwrap();
    assert_eq!((repeat.id, repeat.description.as_str()), (id, "changed"));
    replica.apply(Change::DeleteSink { account: ACCOUNT, id }).unwrap();
    let gone = replica.request("a", [1; 32], other_sink(4)).unwrap_err();
    assert_eq!(gone, ChangeError::NotFound { kind: ObjectKind::Sink, name: id.to_string() });
}

#[test]
fn a_repeated_version_answers_its_own_number() {
    let mut replica = Replica::furnished();
    let add = || Change::CreateSchemaVersion { account: ACCOUNT, id: "Order".into(), document: "{}".into() };
    let first = replica.request("a", [1; 32], add()).unwrap().schema_version().unwrap();
    replica.request("b", [1; 32], add()).unwrap();
    let repeat = replica.request("a", [1; 32], add()).unwrap().schema_version().unwrap();
    assert_eq!((first.number, repeat.number, repeat.schema.latest_version()), (3, 3, 4));
}

#[test]
fn an_id_that_stands_for_another_request_is_refused_and_a_refused_request_leaves_none() {
    let mut replica = Replica::furnished();
    replica.request("a", [1; 32], other_sink(1)).unwrap();
    let refused = replica.request("a", [2; 32], other_sink(2)).unwrap_err();
    assert_eq!(refused, ChangeError::RequestReused { id: "a".to_owned() });
    let duplicate = replica.request("b", [1; 32], event_type("order.paid", None)).unwrap_err();
    assert!(matches!(duplicate, ChangeError::Exists { .. }));
    replica.request("b", [2; 32], event_type("order.lost", None)).unwrap();
    for id in ["", "a b", "ä", &"x".repeat(65)] {
        let refused = replica.request(id, [1; 32], other_sink(3)).unwrap_err();
        assert!(matches!(&refused, ChangeError::Invalid { field, .. } if field == "request_id"), "{refused}");
    }
}

#[test]
fn an_id_is_kept_for_a_day_and_an_account_keeps_a_bounded_number() {
    let mut replica = Replica::furnished();
    let start = Timestamp(1_000_000);
    replica.request_at(start, "a", [1; 32], other_sink(1)).unwrap();
    let late = Timestamp(start.0 + DAY_MS - 1);
    replica.request_at(late, "a", [1; 32], other_sink(2)).unwrap();
    assert_eq!(replica.account().sinks.len(), 2);
    replica.request_at(Timestamp(start.0 + DAY_MS), "a", [2; 32], other_sink(2)).unwrap();
    assert_eq!(replica.account().sinks.len(), 3, "a day later the id is free");
    let pause = || Change::PauseSubscription { account: ACCOUNT, id: SUBSCRIPTION };
    for number in 0..request::PER_ACCOUNT_MAX {
        replica.request_at(late, &format!("n{number}"), [1; 32], pause()).unwrap();
    }
    let requests = &replica.account().requests;
    assert_eq!(requests.len(), request::PER_ACCOUNT_MAX);
    assert!(!requests.contains_key("a") && requests.contains_key("n0"));
    let decoded = State::decode(&replica.state.encode()).unwrap();
    assert_eq!(decoded, replica.state);
}

#[test]
fn what_is_deleted_or_paused_is_what_was_read() {
    let mut replica = Replica::furnished();
    let conditions =
        |revision| Conditions { account: ACCOUNT, expected_revision: Some(revision), request: None };
    let changes = [
        Change::PauseSubscription { account: ACCOUNT, id: SUBSCRIPTION },
        Change::ResumeSubscription { account: ACCOUNT, id: SUBSCRIPTION },
        Change::DeleteSubscription { account: ACCOUNT, id: SUBSCRIPTION },
        Change::DeleteSink { account: ACCOUNT, id: SINK },
        Change::DeleteEventType { account: ACCOUNT, name: "order.paid".into() },
        Change::DeleteSchema { account: ACCOUNT, id: "Order".into() },
    ];
    for change in changes {
        let stale = replica.conditional(Timestamp(2000), conditions(999), change.clone()).unwrap_err();
        let ChangeError::Stale { revision, .. } = stale else { panic!("{change:?}: {stale}") };
        replica.conditional(Timestamp(2000), conditions(revision), change).unwrap();
    }
}

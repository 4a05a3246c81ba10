use fanfare_model::{AccountId, DeliverySettings, Secret, SinkConfig, SinkId, WebhookConfig, WebhookMethod};

use super::*;

fn delivery() -> DeliverySettings {
    DeliverySettings {
        concurrency_max: Some(8),
        requests_per_second_max: Some(50),
        retry_initial_ms: Some(500),
        retry_max_ms: None,
        attempts_max: Some(20),
    }
}

fn golden() -> Command {
    let webhook = WebhookConfig {
        destination: "https://example.com/hook".to_owned(),
        method: WebhookMethod::Post,
        batch_events: true,
        batch_events_max: 100,
        timeout_ms: 15_000,
        signing_secret: Secret::new("whsec_AAAA".to_owned()),
        previous_secret: None,
        twilio_auth_token: None,
    };
    let config = SinkConfig::Webhook(webhook);
    let sink = NewSink { description: "orders".to_owned(), config, delivery: delivery() };
    let (account, id) = (AccountId::from_bytes([1; 16]), SinkId::from_bytes([2; 16]));
    let request = RequestId { id: "deploy-1".to_owned(), arguments: [3; 32] };
    let conditions = Some(Conditions { account, expected_revision: None, request: Some(request) });
    let change = Change::CreateSink { account, id, sink };
    Command::new(Timestamp(1_700_000_000_000), change).under(conditions)
}

#[test]
fn a_stored_command_stays_readable() {
    let stored = include_str!("../../tests/golden/command-v5.json").trim_end();
    assert_eq!(String::from_utf8(golden().encode()).unwrap(), stored);
    assert_eq!(Command::decode(stored.as_bytes()), Ok(golden()));
}

#[test]
fn a_sink_of_an_earlier_version_has_what_was_stored() {
    let earlier = [
        (include_str!("../../tests/golden/command-v3.json"), DeliverySettings::default()),
        (include_str!("../../tests/golden/command-v4.json"), delivery()),
    ];
    for (stored, delivery) in earlier {
        let Change::CreateSink { sink, .. } = Command::decode(stored.trim_end().as_bytes()).unwrap().change
        else {
            panic!("the command creates a sink")
        };
        assert_eq!((sink.description.as_str(), sink.delivery), ("orders", delivery));
    }
}

#[test]
fn an_older_command_is_refused_by_its_version_alone() {
    for version in [0, 1, 2] {
        let stored = format!(r#"{{"v":{version},"time":7,"change":{{}}}}"#);
        assert_eq!(Command::decode(stored.as_bytes()), Err(CommandError::Older { version }));
    }
}

#[test]
fn a_newer_command_is_refused_by_its_version_alone() {
    let stored = br#"{"change":{"split_atom":[1,2]},"v":6,"who":"knows"}"#;
    assert_eq!(Command::decode(stored), Err(CommandError::Newer { version: 6 }));
}

#[test]
fn an_unknown_field_or_change_is_refused() {
    let base = String::from_utf8(golden().encode()).unwrap();
    let stored = [
        String::new(),
        "{}".to_owned(),
        base.replace(r#""id":"#, r#""colour":"red","id":"#),
        base.replace(r#""v":5"#, r#""v":5,"urgent":true"#),
        base.replace("create_sink", "create_sieve"),
        base[..base.len() - 1].to_owned(),
    ];
    for stored in stored {
        let decoded = Command::decode(stored.as_bytes());
        assert!(matches!(decoded, Err(CommandError::Malformed(_))), "{stored} was read as {decoded:?}");
    }
}

#[test]
fn secrets_are_not_printed() {
    let printed = format!("{:?}", golden());
    assert!(printed.contains("example.com"), "{printed}");
    assert!(!printed.contains("whsec_AAAA"), "{printed}");
}

use std::{collections::BTreeSet, io::Write};

use toml::{Table, Value};

use super::{load::ConfigError, *};

const EXAMPLE: &str = include_str!("../../../../deploy/config.example.toml");

fn keys(table: &Table, prefix: &str, into: &mut BTreeSet<String>) {
    for (key, value) in table {
        match value {
            Value::Table(inner) => keys(inner, &format!("{prefix}{key}."), into),
            _ => {
                into.insert(format!("{prefix}{key}"));
            }
        }
    }
}

fn load_text(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(Some(file.path()), environment)
}

#[test]
fn the_shipped_example_holds_every_key_with_its_default() {
    assert_eq!(toml::from_str::<Config>(EXAMPLE).unwrap(), Config::default());
    let (mut shipped, mut known) = (BTreeSet::new(), BTreeSet::new());
    keys(&toml::from_str(EXAMPLE).unwrap(), "", &mut shipped);
    keys(&Table::try_from(Config::default()).unwrap(), "", &mut known);
    assert_eq!(shipped, known);
}

#[test]
fn every_key_of_the_example_is_explained_above_it() {
    let lines: Vec<&str> = EXAMPLE.lines().collect();
    for pair in lines.windows(2).filter(|pair| pair[1].contains(" = ") && !pair[1].starts_with('#')) {
        assert!(pair[0].starts_with('#'), "{} has no comment", pair[1]);
    }
}

#[test]
fn the_environment_wins_over_the_file() {
    let config = load_text(
        "[storage]\nretention = \"1h\"\n",
        &[
            ("FANFARE_STORAGE__RETENTION", "8h"),
            ("FANFARE_PUBLISH__PARTITIONS", "3"),
            ("FANFARE_SINKS__KINESIS__ALLOW_NODE_CREDENTIALS", "true"),
            ("FANFARE_ADDR", "ignored"),
        ],
    )
    .unwrap();
    assert_eq!(config.storage.retention, Span::seconds(8 * 3600));
    assert_eq!(config.publish.partitions, 3);
    assert!(config.sinks.kinesis.allow_node_credentials && config.egress_policy().allow_node_credentials);
    assert!(!Config::default().egress_policy().allow_node_credentials);
}

#[test]
fn a_wrong_configuration_names_the_key_and_the_way_out() {
    for (text, environment, expected) in [
        ("[storage]\nretentoin = \"1h\"\n", None, ":2: unknown key `retentoin`: did you mean `retention`?"),
        ("[storge]\n", None, "did you mean `storage`?"),
        ("[storage]\nretention = \"1 fortnight\"\n", None, "such as 4h"),
        ("", Some(("FANFARE_STORAGE__RETENTOIN", "1h")), "did you mean `retention`?"),
        ("", Some(("FANFARE_LISTEN__GRPC", "0.0.0.0:7070")), "listen.allow_plaintext = true"),
        ("[publish]\npartitions = 0\n", None, "publish.partitions = 0"),
        ("[listen]\nconnections_max = 100000\n", None, "80KiB for each"),
        ("[listen]\nconnections_max = 0\n", None, "listen.connections_max = 0: must be at least 1"),
        ("[listen]\nrequests_max = 0\n", None, "listen.requests_max = 0: must be at least 1"),
        ("[listen]\nidle_timeout = \"10ms\"\n", None, "listen.idle_timeout = 10ms: must be at least 1s"),
        ("[delivery]\nsink_concurrency = 0\n", None, "delivery.sink_concurrency = 0"),
        ("[listen]\narriving_bytes_max = \"4MiB\"\n", None, "twice limits.request_bytes_max"),
        ("[limits]\nevent_bytes_max = \"8MiB\"\n", None, "limits.request_bytes_max"),
        ("[limits]\nretained_percent = 0\n", None, "must be between 1 and 100"),
        ("[limits]\ndead_letter_bytes_max = \"5GiB\"\n", None, "storage.dead_letter_retention_bytes"),
        ("[limits]\ndead_letter_bytes_max = \"80MiB\"\n", None, "storage.segment_bytes and 32MiB"),
        ("[delivery]\nwindow_events = 5000\n", None, "must not exceed 4096"),
        ("[delivery]\nparked_keys_max = 65537\n", None, "must not exceed 65536"),
        ("[delivery]\nretry_factor = 0.5\n", None, "delivery.retry_factor"),
    ] {
        let error = load_text(text, environment.as_slice()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}{environment:?} answered: {error}");
    }
    let error = load(Some(std::path::Path::new("/nonexistent.toml")), std::iter::empty()).unwrap_err();
    assert!(error.to_string().contains("/nonexistent.toml"));
}

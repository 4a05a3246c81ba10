//! From text to a checked configuration. The only place that reads the environment for it.

use std::{fs, path::Path};

use fanfare_delivery::DeliveryOptions;
use fanfare_edge::CONNECTION_BYTES_MIN;
use toml::{Table, Value};

use super::{Config, Span};

/// Reasons why a configuration is refused. The text names the key and the remedy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("read the configuration file {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{origin}: {problem}")]
    Parse { origin: String, problem: String },
    #[error("{key} = {value}: {problem}")]
    Value { key: &'static str, value: String, problem: &'static str },
}

/// Reads defaults, then `file`, then the `FANFARE_SECTION__KEY` pairs of `environment`.
///
/// # Errors
/// On an unreadable file, an unknown key, a value of the wrong form, or values that contradict each other.
pub(crate) fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let mut table = match file {
        None => Table::new(),
        Some(path) => read(path)?,
    };
    for (name, value) in environment {
        if let Some(path) = name.strip_prefix("FANFARE_").filter(|path| path.contains("__")) {
            overlay(&mut table, &name, &path.to_lowercase(), &value)?;
        }
    }
    let config: Config = Value::Table(table).try_into().map_err(|error: toml::de::Error| {
        ConfigError::Parse { origin: "configuration".into(), problem: with_suggestion(error.message()) }
    })?;
    check(&config)?;
    Ok(config)
}

fn read(path: &Path) -> Result<Table, ConfigError> {
    let text = fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.display().to_string(), source })?;
    let at = |error: &toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        format!("{}:{line}", path.display())
    };
    // Parsed into the types first only for the line number of what is wrong.
    toml::from_str::<Config>(&text).map_err(|error| ConfigError::Parse {
        origin: at(&error),
        problem: with_suggestion(error.message()),
    })?;
    toml::from_str(&text)
        .map_err(|error| ConfigError::Parse { origin: at(&error), problem: error.message().to_owned() })
}

/// Sets the value at `path`, whose parts are sections and at last a key.
fn overlay(table: &mut Table, name: &str, path: &str, value: &str) -> Result<(), ConfigError> {
    let (mut table, mut rest) = (table, path);
    while let Some((section, inner)) = rest.split_once("__") {
        let entry = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(entry) = entry else {
            let problem = format!("{section} is not a section");
            return Err(ConfigError::Parse { origin: name.to_owned(), problem });
        };
        (table, rest) = (entry, inner);
    }
    // `12` and `true` are TOML as they stand; `4h` is not and means the text.
    let parsed = toml::from_str::<Table>(&format!("value = {value}")).ok();
    let value = parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| value.into());
    table.insert(rest.to_owned(), value);
    Ok(())
}

/// Adds the nearest known key to serde's message about an unknown one.
fn with_suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    match quoted.next() {
        Some(unknown) if message.starts_with("unknown field") => {
            let nearest = quoted
                .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
                .min()
                .filter(|(distance, _)| *distance <= 3);
            match nearest {
                Some((_, known)) => format!("unknown key `{unknown}`: did you mean `{known}`?"),
                None => message.replacen("unknown field", "unknown key", 1),
            }
        }
        _ => message.to_owned(),
    }
}

fn check(config: &Config) -> Result<(), ConfigError> {
    check_listen(config)?;
    if !(1..=1024).contains(&config.publish.partitions) {
        return refuse("publish.partitions", config.publish.partitions.to_string(), "must be 1 to 1024");
    }
    if !(1 << 20..=1 << 30).contains(&config.storage.segment_bytes.0) {
        return refuse(
            "storage.segment_bytes",
            config.storage.segment_bytes.to_string(),
            "must be 1MiB to 1GiB",
        );
    }
    if config.limits.event_bytes_max > config.limits.request_bytes_max {
        return refuse(
            "limits.event_bytes_max",
            config.limits.event_bytes_max.to_string(),
            "must not exceed limits.request_bytes_max",
        );
    }
    if config.limits.request_bytes_max > config.publish.queue_bytes_max {
        return refuse(
            "publish.queue_bytes_max",
            config.publish.queue_bytes_max.to_string(),
            "must hold a request: at least limits.request_bytes_max",
        );
    }
    if config.limits.dead_letter_bytes_max > config.storage.dead_letter_retention_bytes {
        return refuse(
            "limits.dead_letter_bytes_max",
            config.limits.dead_letter_bytes_max.to_string(),
            "must not exceed storage.dead_letter_retention_bytes",
        );
    }
    if !(1..=100).contains(&config.limits.retained_percent) {
        let value = config.limits.retained_percent.to_string();
        return refuse("limits.retained_percent", value, "must be between 1 and 100");
    }
    // Dead letters leave with whole segments, and their count with up to 16MiB of others.
    if config.limits.dead_letter_bytes_max.0 < config.storage.segment_bytes.0 + (32 << 20) {
        return refuse(
            "limits.dead_letter_bytes_max",
            config.limits.dead_letter_bytes_max.to_string(),
            "must be at least storage.segment_bytes and 32MiB: less would never get room again",
        );
    }
    if config.delivery.window_events == 0 {
        return refuse("delivery.window_events", "0".into(), "must be at least 1");
    }
    if config.sinks.connections_max < 2 {
        let value = config.sinks.connections_max.to_string();
        return refuse("sinks.connections_max", value, "must be at least 2: one account has at most a half");
    }
    if config.sinks.account_connections_max == 0 {
        return refuse("sinks.account_connections_max", "0".into(), "must be at least 1");
    }
    if config.delivery.sink_concurrency == 0 {
        return refuse("delivery.sink_concurrency", "0".into(), "must be at least 1");
    }
    if config.delivery.window_events > DeliveryOptions::WINDOW_EVENTS_MAX {
        let value = config.delivery.window_events.to_string();
        return refuse("delivery.window_events", value, "must not exceed 4096");
    }
    if config.delivery.parked_keys_max > DeliveryOptions::PARKED_KEYS_MAX {
        let value = config.delivery.parked_keys_max.to_string();
        return refuse("delivery.parked_keys_max", value, "must not exceed 65536");
    }
    if !(1.0..=10.0).contains(&config.delivery.retry_factor) {
        return refuse(
            "delivery.retry_factor",
            config.delivery.retry_factor.to_string(),
            "must be 1.0 to 10.0",
        );
    }
    Ok(())
}

fn check_listen(config: &Config) -> Result<(), ConfigError> {
    let listen = &config.listen;
    if !listen.grpc.ip().is_loopback() && !listen.allow_plaintext {
        return refuse(
            "listen.grpc",
            listen.grpc.to_string(),
            "keys would cross the network in clear; listen on 127.0.0.1 behind a TLS proxy, or set listen.allow_plaintext = true",
        );
    }
    if listen.connections_max == 0 {
        return refuse("listen.connections_max", "0".into(), "must be at least 1");
    }
    if listen.requests_max == 0 {
        return refuse("listen.requests_max", "0".into(), "must be at least 1");
    }
    if listen.idle_timeout < Span::seconds(1) {
        return refuse("listen.idle_timeout", listen.idle_timeout.to_string(), "must be at least 1s");
    }
    if listen.window_bytes_max.as_usize() / listen.connections_max < CONNECTION_BYTES_MIN {
        return refuse(
            "listen.window_bytes_max",
            listen.window_bytes_max.to_string(),
            "must hold 80KiB for each of listen.connections_max",
        );
    }
    if config.limits.request_bytes_max.0.saturating_mul(2) > listen.arriving_bytes_max.0 {
        return refuse(
            "listen.arriving_bytes_max",
            listen.arriving_bytes_max.to_string(),
            "must be at least twice limits.request_bytes_max",
        );
    }
    Ok(())
}

fn refuse(key: &'static str, value: String, problem: &'static str) -> Result<(), ConfigError> {
    Err(ConfigError::Value { key, value, problem })
}

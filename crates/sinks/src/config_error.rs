//! The one error of a sink's configuration.

/// A configuration that no sink can be made of.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {problem}")]
pub struct ConfigError {
    /// Path within the sink, such as `webhook.destination` or `kinesis.arn`.
    pub field: &'static str,
    /// A phrase that continues the field's name and ends with what to do.
    pub problem: String,
}

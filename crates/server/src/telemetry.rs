//! Log lines: where they go and in what form. The one global of the process besides the crypto provider.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, TelemetryConfig};

/// Installs the subscriber. Lines go to standard error; standard output belongs to the command.
///
/// # Errors
/// If `telemetry.log` is not a filter.
pub(crate) fn install(telemetry: &TelemetryConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&telemetry.log).map_err(|error| {
        anyhow::anyhow!("telemetry.log = {:?}: {error}; write a level such as info", telemetry.log)
    })?;
    let terminal = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(terminal)
        // It would report a closed standard error on standard error, and panic.
        .log_internal_errors(false);
    match telemetry.log_format {
        LogFormat::Json => builder.json().init(),
        LogFormat::Auto if !terminal => builder.json().init(),
        LogFormat::Auto | LogFormat::Text => builder.init(),
    }
    Ok(())
}

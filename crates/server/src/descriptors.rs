//! The process's limit of open files: raised as far as the system lets it, and compared with what the configuration
//! may need, so that a node fails at its start and not when it is busy.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Standard streams, the runtime, the catalog's view, locks, look-ups of names, and the log's reserve.
const OTHERS: u64 = 128;
/// Files of a log beside its retained segments: the newest, the next, one that is freed.
const LOG_SEGMENTS_MIN: u64 = 3;
/// A segment and its secondary index.
const SEGMENT_FILES: u64 = 2;

/// Raises the soft limit of open files to the hard one. Returns the limit that holds then.
pub(crate) fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if let Err(error) = raised {
        tracing::warn!(%error, "failed to raise the limit of open files; the limit stays as it is");
        return current.unwrap_or(u64::MAX);
    }
    maximum.unwrap_or(u64::MAX)
}

/// # Errors
/// If the configuration may need more open files than the process may have. The text names both, and the settings.
pub(crate) fn check(config: &Config, limit: u64) -> anyhow::Result<()> {
    let need = Need::of(config);
    let Need { clients, sinks, logs } = need;
    let needed = need.total();
    anyhow::ensure!(
        needed <= limit,
        "the process may open {limit} files, and this configuration may need {needed}: {clients} connections of clients, \
         {sinks} of sinks, {logs} files of logs, {OTHERS} others; raise the hard limit (ulimit -Hn, LimitNOFILE= of \
         systemd, nofile of a container) to {needed}, or lower listen.connections_max, sinks.connections_max, \
         publish.partitions or storage.retention_bytes"
    );
    Ok(())
}

/// Upper bounds of open files, by their use.
struct Need {
    clients: u64,
    sinks: u64,
    logs: u64,
}

impl Need {
    fn of(config: &Config) -> Self {
        let segment_bytes = config.storage.segment_bytes.0;
        let logs: u64 = config.retained_bytes().into_iter().fold(LOG_SEGMENTS_MIN, |segments, stream| {
            let retained = stream.partition_bytes.div_ceil(segment_bytes).saturating_add(LOG_SEGMENTS_MIN);
            segments.saturating_add(retained.saturating_mul(stream.partitions.into()))
        });
        let pool = u64::try_from(config.storage.pool_segments_max).unwrap_or(u64::MAX);
        Self {
            clients: u64::try_from(config.listen.connections_max).unwrap_or(u64::MAX),
            sinks: u64::try_from(config.sinks.connections_max).unwrap_or(u64::MAX),
            logs: logs.saturating_mul(SEGMENT_FILES).saturating_add(pool),
        }
    }

    fn total(&self) -> u64 {
        self.clients.saturating_add(self.sinks).saturating_add(self.logs).saturating_add(OTHERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_low_a_limit_is_refused_with_the_numbers_and_the_way_out() {
        let config = Config::default();
        let needed = Need::of(&config).total();
        assert!((4_000..12_000).contains(&needed), "{needed}");
        check(&config, needed).expect("just enough");
        let error = check(&config, 1024).expect_err("too few").to_string();
        for part in ["1024", &needed.to_string(), "ulimit -Hn", "LimitNOFILE", "listen.connections_max"] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn soft_limit_is_raised_to_the_hard_one() {
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        assert_eq!(raise(), hard);
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), hard);
    }
}

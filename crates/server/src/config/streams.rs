//! The streams of a node: one row each, which everybody who opens, places or counts partitions reads.

use fanfare_cluster::StreamOptions;
use fanfare_model::Stream;
use fanfare_partition::{Budgets, MemoryLimits, PartitionOptions, Quota};

use super::Config;

/// Upper bound of the bytes that each partition of a stream retains.
pub(crate) struct RetentionBound {
    pub(crate) partitions: u16,
    pub(crate) partition_bytes: u64,
}

/// The properties in which streams differ.
struct StreamRow {
    stream: Stream,
    partitions: u16,
    retention_ms: u64,
    /// Size at which the oldest events of a partition leave before their time.
    retention_bytes: u64,
    /// The limit of each partition.
    quota: Option<Quota>,
}

impl Config {
    /// The streams that this node keeps, with the options of their partitions.
    pub(crate) fn streams(&self) -> Vec<StreamOptions> {
        let options = |row: &StreamRow| PartitionOptions {
            retention_ms: row.retention_ms,
            retention_bytes: row.retention_bytes,
            segment_bytes: self.storage.segment_bytes.0,
            entry_bytes_max: self.publish.entry_bytes_max.as_u32(),
            dedup_window_ms: self.publish.dedup_window.as_millis(),
            checkpoint_interval_ms: self.storage.checkpoint_interval.as_millis(),
            quota: row.quota,
        };
        let rows = self.rows();
        let streams = rows.iter().map(|row| StreamOptions {
            stream: row.stream,
            partitions: row.partitions,
            partition: options(row),
        });
        streams.collect()
    }

    /// Upper bounds of the bytes that the streams retain.
    pub(crate) fn retained_bytes(&self) -> [RetentionBound; 2] {
        self.rows().map(|row| RetentionBound {
            partitions: row.partitions,
            partition_bytes: match row.quota {
                Some(Quota::Limit { stream_bytes_max, .. }) => stream_bytes_max,
                // A quarter more, while events are protected from another account's flood.
                Some(_) | None => row.retention_bytes + row.retention_bytes / 4,
            },
        })
    }

    fn rows(&self) -> [StreamRow; 2] {
        let (storage, limits) = (&self.storage, &self.limits);
        [
            StreamRow {
                stream: Stream::Events,
                partitions: self.publish.partitions,
                retention_ms: storage.retention.as_millis(),
                retention_bytes: storage.retention_bytes.0,
                quota: Some(Quota::Share {
                    account_bytes_max: percent(storage.retention_bytes.0, limits.retained_percent),
                }),
            },
            StreamRow {
                stream: Stream::DeadLetters,
                partitions: 1,
                retention_ms: storage.dead_letter_retention.as_millis(),
                // The quota bounds the size; a trim by size would remove dead letters before their time.
                retention_bytes: u64::MAX,
                quota: Some(Quota::Limit {
                    account_bytes_max: limits.dead_letter_bytes_max.0,
                    stream_bytes_max: storage.dead_letter_retention_bytes.0,
                }),
            },
        ]
    }

    /// Memory of the whole node, divided among the partitions of all streams.
    pub(crate) fn budgets(&self) -> Budgets {
        let limits = MemoryLimits {
            dedup_bytes_max: self.publish.dedup_bytes.0,
            queue_bytes_max: self.publish.queue_bytes_max.0,
            read_cache_bytes_max: self.storage.read_cache_bytes.0,
        };
        Budgets::new(limits, self.rows().iter().map(|row| u64::from(row.partitions)).sum())
    }
}

fn percent(bytes: u64, percent: u8) -> u64 {
    bytes / 100 * u64::from(percent)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn each_stream_has_one_row_with_its_own_retention_and_quota() {
        let mut config = Config::default();
        config.publish.partitions = 7;
        let streams = config.streams();
        let rows: BTreeMap<_, _> = streams.iter().map(|row| (row.stream, row)).collect();
        assert_eq!((rows.len(), streams.len()), (Stream::ALL.len(), Stream::ALL.len()));

        let (events, letters) = (&rows[&Stream::Events], &rows[&Stream::DeadLetters]);
        assert_eq!((events.partitions, letters.partitions), (7, 1));
        assert_eq!(events.partition.retention_ms, 4 * 3_600_000);
        assert_eq!(letters.partition.retention_ms, 7 * 86_400_000);
        let share = (16 << 30) / 100 * 50;
        assert_eq!(events.partition.quota, Some(Quota::Share { account_bytes_max: share }));
        let quota = Quota::Limit { account_bytes_max: 1 << 30, stream_bytes_max: 4 << 30 };
        assert_eq!(letters.partition.quota, Some(quota));
    }
}

//! CloudEvents as JSON records of an Amazon Kinesis data stream.
//!
//! `PutRecords` answers for each record alone, and a refused record does not stop the records after it: order within
//! a key holds only if an attempt never carries two events of one key, which the abilities declare. The SDK's own
//! retries are off.

mod answer;
mod arn;
mod connection;

use std::time::Duration;

use aws_sdk_kinesis::{
    Client,
    primitives::Blob,
    types::{PutRecordsRequestEntry, builders::PutRecordsRequestEntryBuilder},
};
use fanfare_model::{Event, KinesisConfig};
use tokio::{sync::OnceCell, time::timeout};

use self::connection::StreamAccess;
use crate::{
    Abilities, AttemptFuture, ConfigError, Delivery, EgressPolicy, Failure, Outcome, Sink,
    cloudevent::{OVERHEAD_BYTES, write_json},
    egress::AccountBudget,
};

/// Limits of the service that hold for every stream: records and bytes of a request, bytes of a record and
/// characters of its key.
const REQUEST_RECORDS_MAX: usize = 500;
const REQUEST_BYTES_MAX: usize = 5 << 20;
const RECORD_BYTES_MAX: usize = 1 << 20;
const PARTITION_KEY_CHARS_MAX: usize = 256;

/// Stored bytes in an attempt. Leaves room for the overhead of JSON, so that an attempt is usually one request.
const BATCH_BYTES_MAX: usize = 2 << 20;
const TIMEOUT_MS_MIN: u32 = 100;
const TIMEOUT_MS_MAX: u32 = 30_000;

/// One data stream.
pub(crate) struct Kinesis {
    access: StreamAccess,
    /// Made by the first attempt, because the credentials of the environment are read asynchronously.
    client: OnceCell<Client>,
    budget: AccountBudget,
    timeout: Duration,
}

/// A record and the index of its event in the attempt.
struct Record {
    index: usize,
    bytes: usize,
    entry: PutRecordsRequestEntry,
}

impl Kinesis {
    pub(crate) fn check(config: &KinesisConfig, policy: &EgressPolicy) -> Result<(), ConfigError> {
        timeout_of(config)?;
        StreamAccess::new(config, policy).map(drop)
    }

    pub(crate) fn new(
        config: &KinesisConfig,
        policy: &EgressPolicy,
        budget: AccountBudget,
    ) -> Result<Self, ConfigError> {
        let (timeout, access) = (timeout_of(config)?, StreamAccess::new(config, policy)?);
        Ok(Self { access, client: OnceCell::new(), budget, timeout })
    }

    /// One outcome for each of `records`, in order.
    async fn put(&self, records: Vec<PutRecordsRequestEntry>) -> Vec<Outcome> {
        let count = records.len();
        let _permit = match self.budget.connection().await {
            Ok(permit) => permit,
            Err(why) => return vec![Outcome::SinkDown { after: None, why }; count],
        };
        let request = async {
            let client = self.client.get_or_init(|| self.access.connect(&self.budget)).await;
            client.put_records().stream_arn(self.access.arn()).set_records(Some(records)).send().await
        };
        match timeout(self.timeout, request).await {
            Ok(Ok(output)) => answer::by_record(&output, count),
            Ok(Err(error)) => vec![answer::for_all(&error, count); count],
            Err(_) => {
                let why = Failure::new(Failure::TIMEOUT, "no answer in time");
                vec![Outcome::Retry { after: None, why }; count]
            }
        }
    }
}

/// The time for a whole request.
fn timeout_of(config: &KinesisConfig) -> Result<Duration, ConfigError> {
    if !(TIMEOUT_MS_MIN..=TIMEOUT_MS_MAX).contains(&config.timeout_ms) {
        let problem = format!("is {}; use {TIMEOUT_MS_MIN} to {TIMEOUT_MS_MAX}", config.timeout_ms);
        return Err(ConfigError { field: "kinesis.timeout_ms", problem });
    }
    Ok(Duration::from_millis(config.timeout_ms.into()))
}

impl Sink for Kinesis {
    fn abilities(&self) -> Abilities {
        Abilities {
            batch_events_max: REQUEST_RECORDS_MAX,
            batch_bytes_max: BATCH_BYTES_MAX,
            event_bytes_max: RECORD_BYTES_MAX,
            keeps_key_order_in_batch: false,
            atomic_batch: false,
        }
    }

    fn attempt(&self, events: Vec<Delivery>) -> AttemptFuture<'_> {
        Box::pin(async move {
            let mut outcomes = Vec::with_capacity(events.len());
            let mut records = Vec::with_capacity(events.len());
            for (index, delivery) in events.iter().enumerate() {
                match encode(index, delivery) {
                    Ok(record) => records.push(record),
                    Err(why) => outcomes.push((index, Outcome::Rejected { why })),
                }
            }
            for request in requests(records) {
                let (indexes, entries): (Vec<_>, Vec<_>) =
                    request.into_iter().map(|record| (record.index, record.entry)).unzip();
                outcomes.extend(indexes.into_iter().zip(self.put(entries).await));
            }
            outcomes.sort_unstable_by_key(|(index, _)| *index);
            outcomes.into_iter().map(|(_, outcome)| outcome).collect()
        })
    }
}

fn encode(index: usize, delivery: &Delivery) -> Result<Record, Failure> {
    let mut data = Vec::with_capacity(delivery.bytes.len() + OVERHEAD_BYTES);
    let event = write_json(&mut data, delivery)?;
    let key = partition_key(&event, delivery);
    let bytes = data.len() + key.len();
    if bytes > RECORD_BYTES_MAX {
        let message = format!("the record has {bytes} bytes with its key, a stream takes {RECORD_BYTES_MAX}");
        return Err(Failure::new(Failure::TOO_LARGE, &message));
    }
    let entry = PutRecordsRequestEntryBuilder::default()
        .data(Blob::new(data))
        .partition_key(key)
        .build()
        .expect("data and partition key are set");
    Ok(Record { index, bytes, entry })
}

/// The event's own key, so that consumers can find its shard, or the hash of a key that is too long for Kinesis.
fn partition_key(event: &Event<'_>, delivery: &Delivery) -> String {
    let key = event.partition_key();
    if key.chars().count() <= PARTITION_KEY_CHARS_MAX {
        return key.to_owned();
    }
    format!("{:016x}", delivery.key.0)
}

/// Splits `records`, in order, into requests within the service's limits.
fn requests(records: Vec<Record>) -> Vec<Vec<Record>> {
    let mut requests: Vec<Vec<Record>> = Vec::new();
    let mut bytes = 0;
    for record in records {
        match requests.last_mut() {
            Some(request)
                if request.len() < REQUEST_RECORDS_MAX && bytes + record.bytes <= REQUEST_BYTES_MAX =>
            {
                bytes += record.bytes;
                request.push(record);
            }
            _ => {
                bytes = record.bytes;
                requests.push(vec![record]);
            }
        }
    }
    requests
}

#[cfg(test)]
mod tests;

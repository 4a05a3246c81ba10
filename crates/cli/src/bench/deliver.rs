//! `fanfare bench deliver`: how fast a node delivers events, and whether all of them arrive.

use std::{sync::Arc, time::Duration};

use clap::Args;
use rand::RngExt;

use super::{
    delivery_run::DeliveryRun,
    event_pool::EventPool,
    fixture::Fixture,
    ledger::{Balance, DeliveryLedger},
    load::{Load, LoadResult, rounded},
    payload,
};
use crate::{
    failure::{Exit, Failure},
    output::OutputFields,
    session::Session,
};

/// The account of a run takes 10 bytes per event.
const EVENTS_MAX: u64 = 20_000_000;
const FLOOD_EVENTS: u64 = 100_000;

#[derive(Args, Debug)]
pub struct BenchDeliverArguments {
    /// Events per second (open loop); without it --count events are published at once
    #[arg(long, value_name = "PER-SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Most events [default: what rate and seconds make, else 100000]
    #[arg(long, value_name = "EVENTS", value_parser = clap::value_parser!(u64).range(1..=EVENTS_MAX))]
    count: Option<u64>,
    /// Publish for at most so long
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// With --rate, run so long before measuring
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=600))]
    warmup_seconds: u32,
    /// Producers, each with a publish stream of its own
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    producers: u32,
    /// Events per publish request [default: 1 with --rate, else 100]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: Option<u32>,
    /// Have the sink send an array of events per request
    #[arg(long)]
    sink_batch: bool,
    /// Length of the JSON payload
    #[arg(long, default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(i64::from(payload::SIZE_BYTES_MIN)..=i64::from(payload::SIZE_BYTES_MAX)))]
    size_bytes: u32,
    /// Partition keys
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    keys: u32,
    /// Percent of the keys whose events the sink refuses with 503 for ever; the others are measured
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=99))]
    failing_percent: u32,
    /// Wait so long for the next delivery before what did not arrive is called missing
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    patience_seconds: u32,
}

impl BenchDeliverArguments {
    fn failing_keys(&self) -> usize {
        self.keys as usize * self.failing_percent as usize / 100
    }

    fn load(&self) -> Load {
        let (events, batch, warmup_seconds) = match self.rate {
            Some(_) => (EVENTS_MAX, 1, self.warmup_seconds),
            None => (FLOOD_EVENTS, 100, 0),
        };
        let events_max = self.count.unwrap_or(events);
        let batch = self.batch.unwrap_or(batch);
        Load {
            batch: u32::try_from(events_max).map_or(batch, |events| batch.min(events)),
            in_flight: 8,
            rate: self.rate,
            warmup: Duration::from_secs(warmup_seconds.into()),
            measured: Duration::from_secs(self.seconds.into()),
            events_max,
        }
    }
}

/// Figures of a run.
struct DeliverMeasures {
    published: LoadResult,
    ledger: Arc<DeliveryLedger>,
    balance: Balance,
    failed_requests: u64,
}

pub(super) async fn run(arguments: BenchDeliverArguments, session: &Session) -> Result<(), Failure> {
    let measured =
        Fixture::around(session, async |fixture| measure(&arguments, fixture, session).await).await?;
    session.output.fields(report(&arguments, &measured))?;
    if measured.balance.missing > 0 {
        return Err(Failure::new(
            Exit::Failed,
            format!("{} acknowledged events did not arrive", measured.balance.missing),
            "raise --patience-seconds; if they stay missing, the node's log says more",
        ));
    }
    Ok(())
}

async fn measure(
    arguments: &BenchDeliverArguments,
    fixture: &mut Fixture,
    session: &Session,
) -> Result<DeliverMeasures, Failure> {
    let load = arguments.load();
    let events = load.requests() * u64::from(load.batch);
    if events > EVENTS_MAX {
        let message = format!("the run has {events} events, more than {EVENTS_MAX}");
        return Err(Failure::usage(message, "lower --rate, --seconds or --count"));
    }
    // A type of its own keeps the events of other runs away from the receiver.
    let event_type = format!("dev.fanfare.bench.r{:08x}", rand::rng().random::<u32>());
    let pool = EventPool::generate(&[&event_type], arguments.keys, arguments.size_bytes, &mut rand::rng());
    let delivery_run = DeliveryRun::start(pool, &load, arguments.failing_keys()).await?;
    fixture.event_type(&event_type, "").await?;
    fixture.subscription(&event_type, &delivery_run.url(), arguments.sink_batch).await?;
    let mut clients = Vec::new();
    for _ in 0..arguments.producers {
        clients.push(session.connect().await?);
    }
    let published = delivery_run.drive(&clients, load).await?;
    let patience = Duration::from_secs(arguments.patience_seconds.into());
    let expected = published.tally.committed.saturating_sub(delivery_run.ledger.refusals());
    delivery_run.ledger.wait_for(expected, patience).await;
    let (ledger, failed_requests) = (delivery_run.ledger.clone(), delivery_run.failed_requests());
    let balance = delivery_run.finish().await;
    Ok(DeliverMeasures { published, ledger, balance, failed_requests })
}

fn report(arguments: &BenchDeliverArguments, measured: &DeliverMeasures) -> OutputFields {
    let DeliverMeasures { published, ledger, balance, failed_requests } = measured;
    let load = arguments.load();
    let per_second = balance.arrived as f64 / balance.span.as_secs_f64().max(1e-9);
    OutputFields::new()
        .with("bench", "deliver")
        .with("mode", if arguments.rate.is_some() { "open" } else { "flood" })
        .with("rate", &arguments.rate)
        .with("producers", &arguments.producers)
        .with("batch", &load.batch)
        .with("sinkBatch", &arguments.sink_batch)
        .with("sizeBytes", &arguments.size_bytes)
        .with("keys", &arguments.keys)
        .with("failingKeys", &arguments.failing_keys())
        .with("failedRequests", failed_requests)
        .with("seconds", &rounded(balance.span.as_secs_f64()))
        .with("publishedPerSecond", &published.events_per_second())
        .with("deliveredPerSecond", &rounded(per_second))
        .and(ledger.latencies().fields())
        .with("delivered", &balance.arrived)
        .with("duplicateDeliveries", &balance.duplicates)
        .with("missing", &balance.missing)
        .and(published.errors())
}

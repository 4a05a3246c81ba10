//! `fanfare bench catch-up`: what live subscriptions feel while another one of their account works off a backlog.

use std::time::{Duration, Instant};

use clap::Args;
use rand::RngExt;
use tokio::time::{sleep, timeout};

use super::{
    delivery_run::DeliveryRun,
    event_pool::EventPool,
    fixture::Fixture,
    latency::Latencies,
    ledger::{Balance, DeliveryLedger},
    load::{Load, LoadResult, rounded},
    payload,
};
use crate::{
    failure::{Exit, Failure},
    output::OutputFields,
    session::Session,
    terminal::say,
};

const EVENTS_MAX: u64 = 20_000_000;
/// A node probes a sink that is down this often at least, unless it is configured otherwise.
const PROBE_MAX: Duration = Duration::from_secs(40);
const WARMUP: Duration = Duration::from_secs(2);

#[derive(Args, Debug)]
pub struct BenchCatchUpArguments {
    /// Live subscriptions, each of a type and with a sink of its own
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=50))]
    live: u32,
    /// Events per second for all live subscriptions together (open loop)
    #[arg(long, value_name = "PER-SECOND", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
    /// Events that the other subscription has to catch up on
    #[arg(long, value_name = "EVENTS", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1000..=EVENTS_MAX))]
    backlog: u64,
    /// Measure the live subscriptions so long before it is let go
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    baseline_seconds: u32,
    /// Catching up may take so long
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=900))]
    limit_seconds: u32,
    /// Have the sink of the backlog send an array of events per request
    #[arg(long)]
    sink_batch: bool,
    /// Length of the JSON payload
    #[arg(long, default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(i64::from(payload::SIZE_BYTES_MIN)..=i64::from(payload::SIZE_BYTES_MAX)))]
    size_bytes: u32,
    /// Partition keys
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    keys: u32,
    /// Wait so long for the next delivery before what did not arrive is called missing
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    patience_seconds: u32,
}

/// Figures of a run.
struct CatchUpMeasures {
    baseline: Latencies,
    during: Latencies,
    /// From the first delivery of the backlog to the last.
    caught_up_in: Duration,
    live: (LoadResult, Balance),
    backlog: (LoadResult, Balance),
}

pub(super) async fn run(arguments: BenchCatchUpArguments, session: &Session) -> Result<(), Failure> {
    let measured =
        Fixture::around(session, async |fixture| measure(&arguments, fixture, session).await).await?;
    session.output.fields(report(&arguments, &measured))?;
    match measured.live.1.missing + measured.backlog.1.missing {
        0 => Ok(()),
        missing => Err(Failure::new(
            Exit::Failed,
            format!("{missing} acknowledged events did not arrive"),
            "raise --limit-seconds or --patience-seconds; if they stay missing, the node's log says more",
        )),
    }
}

async fn measure(
    arguments: &BenchCatchUpArguments,
    fixture: &mut Fixture,
    session: &Session,
) -> Result<CatchUpMeasures, Failure> {
    let run = format!("dev.fanfare.bench.r{:08x}", rand::rng().random::<u32>());
    let clients = [session.connect().await?, session.connect().await?];
    let live_types: Vec<_> = (0..arguments.live).map(|live| format!("{run}.live{live}")).collect();
    let live_load = arguments.live_load();
    let live = DeliveryRun::start(arguments.pool(&live_types), &live_load, 0).await?;
    let backlog_types = [format!("{run}.backlog")];
    let backlog = DeliveryRun::start(arguments.pool(&backlog_types), &arguments.backlog_load(), 0).await?;
    backlog.refuse(true);
    for (types, delivery_run, batch) in
        [(&live_types[..], &live, false), (&backlog_types, &backlog, arguments.sink_batch)]
    {
        for event_type in types {
            fixture.event_type(event_type, "").await?;
            fixture.subscription(event_type, &delivery_run.url(), batch).await?;
        }
    }
    say(&format!("publishing a backlog of {} events", arguments.backlog));
    let filled = backlog.drive(&clients, arguments.backlog_load()).await?;

    say(&format!("measuring the live subscriptions for {} s", arguments.baseline_seconds));
    let measuring = async {
        sleep(WARMUP + Duration::from_secs(arguments.baseline_seconds.into())).await;
        let baseline = live.ledger.take_latencies();
        let caught_up_in = let_go(&backlog, arguments, filled.tally.committed, &live.ledger).await;
        let during = live.ledger.take_latencies();
        live.signals.stop.cancel();
        (baseline, caught_up_in, during)
    };
    let (published, (baseline, caught_up_in, during)) =
        tokio::join!(live.drive(&clients, live_load), measuring);
    let published = published?;

    let patience = Duration::from_secs(arguments.patience_seconds.into());
    live.ledger.wait_for(published.tally.committed, patience).await;
    let live = (published, live.finish().await);
    let backlog = (filled, backlog.finish().await);
    Ok(CatchUpMeasures { baseline, during, caught_up_in, live, backlog })
}

impl BenchCatchUpArguments {
    fn live_load(&self) -> Load {
        let seconds = self.baseline_seconds + self.limit_seconds + 60;
        Load {
            batch: 1,
            in_flight: 8,
            rate: Some(self.rate),
            warmup: WARMUP,
            measured: Duration::from_secs(seconds.into()),
            events_max: EVENTS_MAX,
        }
    }

    fn pool(&self, types: &[String]) -> EventPool {
        let types: Vec<_> = types.iter().map(String::as_str).collect();
        EventPool::generate(&types, self.keys, self.size_bytes, &mut rand::rng())
    }

    fn backlog_load(&self) -> Load {
        Load {
            batch: 100,
            in_flight: 4,
            rate: None,
            warmup: Duration::ZERO,
            measured: Duration::from_secs(3600),
            events_max: self.backlog,
        }
    }
}

/// Lets the backlog through and waits until it is. How long that took after its first delivery; what was recorded of
/// the others before that is forgotten.
async fn let_go(
    backlog: &DeliveryRun,
    arguments: &BenchCatchUpArguments,
    events: u64,
    others: &DeliveryLedger,
) -> Duration {
    say("letting the backlog go");
    backlog.refuse(false);
    backlog.ledger.wait_for(1, PROBE_MAX).await;
    drop(others.take_latencies());
    let began = Instant::now();
    let patience = Duration::from_secs(arguments.patience_seconds.into());
    let limit = Duration::from_secs(arguments.limit_seconds.into());
    if timeout(limit, backlog.ledger.wait_for(events, patience)).await.is_err() {
        say(&format!("only {} of {events} events came in time", backlog.ledger.arrivals()));
    }
    began.elapsed()
}

fn report(arguments: &BenchCatchUpArguments, measured: &CatchUpMeasures) -> OutputFields {
    let CatchUpMeasures { baseline, during, caught_up_in, live, backlog } = measured;
    let seconds = caught_up_in.as_secs_f64();
    let ratio =
        during.quantile_ms(0.99).zip(baseline.quantile_ms(0.99)).map(|(during, before)| during / before);
    OutputFields::new()
        .with("bench", "catch-up")
        .with("live", &arguments.live)
        .with("rate", &arguments.rate)
        .with("backlog", &backlog.0.tally.committed)
        .with("sinkBatch", &arguments.sink_batch)
        .with("sizeBytes", &arguments.size_bytes)
        .with("keys", &arguments.keys)
        .with("baselineP50Ms", &baseline.quantile_ms(0.5))
        .with("baselineP99Ms", &baseline.quantile_ms(0.99))
        .with("duringP50Ms", &during.quantile_ms(0.5))
        .with("duringP99Ms", &during.quantile_ms(0.99))
        .with("p99Ratio", &ratio.map(|ratio| (ratio * 100.0).round() / 100.0))
        .with("catchUpSeconds", &rounded(seconds))
        .with("caughtUpPerSecond", &rounded(backlog.1.arrived as f64 / seconds.max(1e-9)))
        .with("delivered", &(live.1.arrived + backlog.1.arrived))
        .with("duplicateDeliveries", &(live.1.duplicates + backlog.1.duplicates))
        .with("missing", &(live.1.missing + backlog.1.missing))
        .and(live.0.errors())
}

//! Drives the producers of a run together and adds up what they measured.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use fanfare_client::Client;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    event_pool::EventPool,
    ledger::DeliveryLedger,
    pacer::{self, Timetable},
    producer::{Producer, ProducerPlan, Schedule, Tally},
};
use crate::{
    failure::{Exit, Failure},
    output::OutputFields,
};

/// Amount and rate of a load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Events per request.
    pub(super) batch: u32,
    /// Requests a producer of the closed loop may have unanswered.
    pub(super) in_flight: usize,
    /// Events per second of all producers; without it the loop is closed.
    pub(super) rate: Option<u32>,
    pub(super) warmup: Duration,
    pub(super) measured: Duration,
    /// Most events of all producers.
    pub(super) events_max: u64,
}

impl Load {
    /// Requests that the run makes at most.
    pub(super) fn requests(&self) -> u64 {
        let by_count = self.events_max / u64::from(self.batch);
        match self.rate {
            None => by_count,
            Some(rate) => {
                let millis = u64::try_from((self.warmup + self.measured).as_millis()).unwrap_or(u64::MAX);
                let events = u64::from(rate).saturating_mul(millis) / 1000;
                by_count.min(events.div_ceil(self.batch.into()))
            }
        }
    }

    pub(super) fn mode(&self) -> &'static str {
        if self.rate.is_some() { "open" } else { "closed" }
    }
}

/// Signals between a load and its observers.
#[derive(Clone, Debug)]
pub(super) struct Signals {
    /// From when on it is measured, set when it begins.
    pub(super) started: watch::Sender<Option<Instant>>,
    /// Ends it before its time.
    pub(super) stop: CancellationToken,
}

impl Signals {
    pub(super) fn new() -> Self {
        Self { started: watch::Sender::new(None), stop: CancellationToken::new() }
    }
}

/// Figures of a load.
#[derive(Debug)]
pub(super) struct LoadResult {
    pub(super) tally: Tally,
    /// The time that `tally.measured` was counted in.
    pub(super) span: Duration,
}

impl LoadResult {
    pub(super) fn events_per_second(&self) -> f64 {
        rounded(self.tally.measured as f64 / self.span.as_secs_f64().max(1e-9))
    }

    pub(super) fn errors(&self) -> OutputFields {
        OutputFields::new()
            .with("committed", &self.tally.committed)
            .with("duplicates", &self.tally.duplicates)
            .with("unsent", &self.tally.unsent)
            .with("errors", &self.tally.errors)
    }
}

pub(super) fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Runs one producer per client. The ledger, if given, holds as many events as the load sends.
pub(super) async fn drive(
    clients: &[Client],
    load: Load,
    pool: Arc<EventPool>,
    ledger: Option<Arc<DeliveryLedger>>,
    signals: &Signals,
) -> Result<LoadResult, Failure> {
    let mut producers = Vec::with_capacity(clients.len());
    for client in clients {
        let producer = Producer::open(client).await;
        producers.push(producer.map_err(|status| Failure::from_status("open publish stream", &status))?);
    }
    let begin = Instant::now();
    let measure_from = begin + load.warmup;
    signals.started.send_replace(Some(measure_from));
    let plan = Arc::new(ProducerPlan {
        pool,
        batch: load.batch,
        requests: load.requests(),
        in_flight: load.in_flight,
        measure_from,
        end: measure_from + load.measured,
        next_request: AtomicU64::new(0),
        stop: signals.stop.clone(),
        ledger,
    });
    let tasks = TaskTracker::new();
    let schedules = schedules(load, &plan, begin, producers.len(), &tasks);
    let running: Vec<_> = producers
        .into_iter()
        .zip(schedules)
        .map(|(producer, schedule)| tasks.spawn(producer.run(plan.clone(), schedule)))
        .collect();
    let mut tally = Tally::new();
    for producer in running {
        let measured = producer.await;
        tally.add(measured.map_err(|error| {
            Failure::new(Exit::Failed, format!("a producer stopped: {error}"), "report this as a bug")
        })?);
    }
    let span = Instant::now().min(plan.end).saturating_duration_since(measure_from);
    Ok(LoadResult { tally, span })
}

fn schedules(
    load: Load,
    plan: &ProducerPlan,
    started: Instant,
    producers: usize,
    tasks: &TaskTracker,
) -> Vec<Schedule> {
    let Some(rate) = load.rate else { return vec![Schedule::Closed; producers] };
    let requests_per_second = f64::from(rate) / f64::from(load.batch);
    let timetable = Timetable { started, requests_per_second, requests: plan.requests };
    let due = pacer::start(timetable, tasks);
    let step = producers as u64;
    (0..step).map(|next| Schedule::Open { timetable, due: due.clone(), next, step }).collect()
}

#[cfg(test)]
mod tests;

//! The part of a simulation that outlives the node: disk, receiver, producers, oracle, and the randomness behind them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use fanfare_catalog::MemoryView;
use fanfare_log::MemoryFileSystem;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::Notify;

use crate::{
    faults::FaultCounts, oracle::Oracle, producer::ProducerState, retention::Retention, trace::Trace,
};

/// Random numbers of the world, apart from those of the node.
#[derive(Clone)]
pub(crate) struct Dice(Arc<Mutex<StdRng>>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&self, end: u64) -> u64 {
        self.0.lock().random_range(0..end)
    }

    pub(crate) fn between(&self, low: u64, high: u64) -> u64 {
        self.0.lock().random_range(low..=high)
    }

    /// True in `percent` of 100 cases.
    pub(crate) fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn next(&self) -> u64 {
        self.0.lock().random()
    }
}

/// The end of a life of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The machine lost its power: what was not synced may be gone.
    PowerLoss,
    /// The process was killed: the system still has what was written.
    Kill,
    /// The process stopped in order.
    Stop,
    /// The process ended itself, for this reason.
    Exit(String),
}

/// The power of the simulated machine. Nothing that happens after its end is seen by anybody.
#[derive(Default)]
pub(crate) struct Power {
    is_off: AtomicBool,
    end: Mutex<Option<End>>,
    changed: Notify,
}

impl Power {
    pub(crate) fn is_off(&self) -> bool {
        self.is_off.load(Ordering::Relaxed)
    }

    /// Ends the life; the first end counts.
    pub(crate) fn cut(&self, end: End) {
        if !self.is_off.swap(true, Ordering::Relaxed) {
            *self.end.lock() = Some(end);
            self.changed.notify_one();
        }
    }

    pub(crate) async fn off(&self) -> End {
        loop {
            if let Some(end) = self.end.lock().clone() {
                return end;
            }
            self.changed.notified().await;
        }
    }
}

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) retention: Retention,
    /// Progress that is not urgent is replicated after this.
    pub(crate) advance_interval_ms: u64,
    pub(crate) trace: Trace,
    pub(crate) dice: Dice,
    pub(crate) disk: Mutex<MemoryFileSystem>,
    pub(crate) view: MemoryView,
    pub(crate) oracle: Mutex<Oracle>,
    pub(crate) producers: Mutex<Vec<ProducerState>>,
    pub(crate) faults: Mutex<FaultCounts>,
}

impl World {
    pub(crate) fn count(&self, fault: &'static str) {
        self.faults.lock().add(fault);
    }

    /// Counts a dead letter by its reason.
    pub(crate) fn count_letter(&self, reason: &str) {
        self.count(match reason {
            "retention" => "retention overtook an event",
            "rejected" => "a rejected event became a dead letter",
            _ => "a dead letter has another reason",
        });
    }
}

//! The running hash of one seed: every message, disk operation and applied entry, in the order in which they happened.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Shared by everything that happens in a simulation. Two runs of a seed have the same hash, or one of them did something
/// that the seed does not decide.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Mutex<Running>>);

struct Running {
    hash: u64,
    lines: u64,
    prints: bool,
    /// Simulated time of the line, in microseconds since the first start.
    now_us: u64,
}

impl Trace {
    pub(crate) fn new(prints: bool) -> Self {
        let running = Running { hash: 0, lines: 0, prints, now_us: 0 };
        Self(Arc::new(Mutex::new(running)))
    }

    pub(crate) fn set_now(&self, now_us: u64) {
        self.0.lock().now_us = now_us;
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.0.lock().now_us
    }

    pub(crate) fn add(&self, line: fmt::Arguments<'_>) {
        let mut running = self.0.lock();
        let text = format!("{:>12} {line}", running.now_us);
        running.hash = xxh3_64_with_seed(text.as_bytes(), running.hash);
        running.lines += 1;
        if running.prints {
            println!("{text}");
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.0.lock().hash
    }

    pub(crate) fn lines(&self) -> u64 {
        self.0.lock().lines
    }
}

/// What the product logs is a part of the trace; applied entries come this way.
pub(crate) struct TraceLayer(pub(crate) Trace);

impl<S: Subscriber> Layer<S> for TraceLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = String::new();
        event.record(&mut FieldText(&mut text));
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        self.0.add(format_args!("{level} {target}{text}"));
    }
}

struct FieldText<'a>(&'a mut String);

impl Visit for FieldText<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write;
        write!(self.0, " {}={value:?}", field.name()).expect("writing to a string");
    }
}

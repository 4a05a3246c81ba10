//! Many seeds: a process for each, as many at once as there are processors, and one report.

use std::{
    collections::BTreeMap,
    ops::Range,
    process::{Command, ExitCode, Output, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use fanfare_environment::Bug;
use serde_json::Value;

/// Real time that a seed may take.
const REAL_TIME_MAX: Duration = Duration::from_secs(120);
/// The violation of a seed that ended without a verdict. It proves nothing about a planted bug.
const NO_VERDICT: &str = "it gave no verdict: it panicked, or took more than two minutes";
/// Violations that the report names.
const NAMED_MAX: usize = 20;

/// Runs `seeds`, and reports. Fails if any of them does.
pub(crate) fn run(seeds: Range<u64>, bug: Option<Bug>) -> ExitCode {
    let began = Instant::now();
    let report = Mutex::new(Report::default());
    each(seeds, |seed| {
        let verdict = verdict(seed, bug);
        report.lock().expect("no thread panics").add(seed, &verdict);
        true
    });
    let report = report.into_inner().expect("no thread panics");
    report.print(began.elapsed().as_secs_f64());
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs seeds below `end` with each bug until one is caught. Fails if a bug is not.
pub(crate) fn sweep(end: u64) -> ExitCode {
    let mut missed = false;
    for bug in Bug::ALL {
        let caught = Mutex::new(BTreeMap::new());
        each(0..end, |seed| {
            let violation = violation(&verdict(seed, Some(bug))).filter(|violation| violation != NO_VERDICT);
            let mut caught = caught.lock().expect("no thread panics");
            caught.extend(violation.map(|violation| (seed, violation)));
            caught.is_empty()
        });
        match caught.into_inner().expect("no thread panics").pop_first() {
            Some((seed, violation)) => println!("{bug:?}: caught by seed {seed}: {violation}"),
            None => {
                missed = true;
                println!("{bug:?}: not caught by {end} seeds");
            }
        }
    }
    if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Calls `look` with each seed in order, on as many threads as there are processors, until one answers false.
fn each(seeds: Range<u64>, look: impl Fn(u64) -> bool + Sync) {
    let (next, goes_on) = (AtomicU64::new(seeds.start), AtomicBool::new(true));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while goes_on.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    if !look(seed) {
                        goes_on.store(false, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

/// What one seed's process says.
fn verdict(seed: u64, bug: Option<Bug>) -> Value {
    let program = std::env::current_exe().expect("a program has a path");
    let mut command = Command::new(program);
    command.arg("seed").arg(seed.to_string()).args(bug.map(|bug| format!("{bug:?}")));
    let output = output(command);
    let text = String::from_utf8_lossy(&output.stdout);
    let verdict = text.lines().last().and_then(|line| serde_json::from_str(line).ok());
    let mut verdict = verdict.unwrap_or_else(|| serde_json::json!({ "violation": NO_VERDICT }));
    if !violation(&verdict).is_none_or(|violation| violation.is_empty()) {
        let errors = String::from_utf8_lossy(&output.stderr);
        verdict["errors"] = errors.lines().take(3).collect::<Vec<_>>().join("; ").into();
    }
    verdict
}

/// The output of a program that ends in time, or is ended.
fn output(mut command: Command) -> Output {
    let program = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let program = program.expect("the program starts again");
    let (id, ended) = (program.id().to_string(), Arc::new((Mutex::new(false), Condvar::new())));
    let watching = ended.clone();
    let watch = thread::spawn(move || {
        let (ended, changed) = &*watching;
        let ended = ended.lock().expect("no thread panics");
        let (ended, _) =
            changed.wait_timeout_while(ended, REAL_TIME_MAX, |ended| !*ended).expect("no thread panics");
        if !*ended {
            // A program that is gone by now has not been waited for: its number is still its own.
            drop(Command::new("kill").args(["-9", &id]).status());
        }
    });
    let output = program.wait_with_output().expect("a program has an output");
    *ended.0.lock().expect("no thread panics") = true;
    ended.1.notify_one();
    watch.join().expect("no thread panics");
    output
}

fn violation(verdict: &Value) -> Option<String> {
    verdict["violation"].as_str().map(str::to_owned)
}

#[derive(Default)]
struct Report {
    seeds: u64,
    simulated_s: f64,
    acknowledged: u64,
    requests: u64,
    repeats_max: u64,
    /// Numbers of seeds.
    faults: BTreeMap<String, u64>,
    ends: BTreeMap<String, u64>,
    violations: BTreeMap<u64, String>,
}

impl Report {
    fn add(&mut self, seed: u64, verdict: &Value) {
        self.seeds += 1;
        self.simulated_s += verdict["simulated_s"].as_f64().unwrap_or_default();
        self.acknowledged += verdict["acknowledged"].as_u64().unwrap_or_default();
        self.requests += verdict["requests"].as_u64().unwrap_or_default();
        self.repeats_max = self.repeats_max.max(verdict["repeats_max"].as_u64().unwrap_or_default());
        for fault in verdict["faults"].as_object().into_iter().flat_map(|faults| faults.keys()) {
            *self.faults.entry(fault.clone()).or_default() += 1;
        }
        for end in verdict["ends"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let kind = end.split('(').next().unwrap_or_default();
            *self.ends.entry(kind.to_owned()).or_default() += 1;
        }
        if let Some(violation) = violation(verdict) {
            let errors = verdict["errors"].as_str().unwrap_or_default();
            self.violations.insert(seed, format!("{violation} {errors}"));
        }
    }

    fn print(&self, elapsed_s: f64) {
        #[expect(clippy::cast_precision_loss, reason = "a number for people")]
        let per_minute = self.seeds as f64 * 60.0 / elapsed_s;
        println!(
            "{} seeds, {:.0} s simulated, in {elapsed_s:.0} s: {per_minute:.0} seeds a minute",
            self.seeds, self.simulated_s
        );
        println!(
            "{} events acknowledged, {} requests; at most {} events of a partition again after a crash",
            self.acknowledged, self.requests, self.repeats_max
        );
        println!("lives ended: {:?}", self.ends);
        println!("faults that bit, and in how many seeds:");
        for (fault, seeds) in &self.faults {
            println!("{seeds:>7}  {fault}");
        }
        for (seed, violation) in self.violations.iter().take(NAMED_MAX) {
            println!("seed {seed} failed: {violation}");
        }
        println!("{} seeds failed; `simulate replay SEED` shows what happens", self.violations.len());
    }
}
